"""What holds of every search: limits, budgets, resumption, and data in any form."""

import itertools
import json
import math
import runpy
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import boxwood
from boxwood._internal.compress.costs import cost_of
from boxwood._internal.compress.knobs import Knob, at_cost, descent
from boxwood._internal.compress.scores import accuracy, drop
from boxwood._internal.compress.task import first_rows, rows_of
from boxwood._internal.core.tensor_files import read_tensors
from boxwood.compression import Task
from boxwood.errors import CheckpointError, InvalidInput

X = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()
KILLED = """
import sys

import torch
from torch import nn

import boxwood

torch.set_num_threads(1)
inputs = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
labels = (inputs[:, 0] > 0).long()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(inputs), labels).backward()
    optimizer.step()
batches = list(zip(inputs.split(50), labels.split(50), strict=True))
boxwood.compress(
    net, sys.argv[1], train=batches, validate=batches, target='macs', max_drop=0.03, steps=100
)
"""
SEARCH = {"target": "macs", "max_drop": 0.05, "steps": 120}


def batches(first: int, last: int, size: int = 50) -> list:
    return [(X[at : at + size], Y[at : at + size]) for at in range(first, last, size)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 2)
    )
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(made(X), Y).backward()
        optimizer.step()
    return made.eval()


@pytest.fixture(scope="module")
def found(net, tmp_path_factory):
    out = tmp_path_factory.mktemp("found") / "out"
    return boxwood.compress(
        net, out, train=batches(0, 200), validate=batches(200, 400), test=batches(0, 200), **SEARCH
    )


def test_the_result_holds_the_limit_and_costs_less(found):
    """The interval of the drop is within the limit, and multiply-adds are those of the network."""
    assert found.held
    assert found.attempt.drop.most <= 0.05
    assert found.cost < 0.5 * found.dense_cost
    kept = sum(
        int(layer.weight.count_nonzero()) for layer in found.network if hasattr(layer, "weight")
    )
    assert found.cost == kept


def test_the_files_load_and_compute_the_same(found, capsys):
    """The compiled file and the shrunken one give what the network gives."""
    wanted = found.network(X)
    assert torch.allclose(boxwood.load(found.folder / "model.bxw")(X), wanted, atol=1e-5)
    again = boxwood.load(found.folder / "model.safetensors", lambda: nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 2)))  # fmt: skip
    assert torch.equal(again(X), wanted)
    runpy.run_path(str(found.folder / "load.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("tensor([[")


def test_the_folder_says_what_was_found(found):
    """compress.json has the numbers of the result; the page is there."""
    record = json.loads((found.folder / "compress.json").read_text())
    assert record["cost"] == found.cost
    assert record["chosen"]["candidate"]["name"] == found.attempt.candidate.name
    assert len(record["tried"]) == len(found.tried)
    assert "What was tried" in (found.folder / "report.html").read_text()


def test_again_it_remembers_everything(found, net):
    """A second call tries nothing and returns the same network."""
    before = (found.folder / "search" / "journal.json").read_bytes()
    again = boxwood.compress(
        net, found.folder, train=batches(0, 200), validate=batches(200, 400),
        test=batches(0, 200), **SEARCH,
    )  # fmt: skip
    assert (found.folder / "search" / "journal.json").read_bytes() == before
    assert torch.equal(again.network(X), found.network(X))


def test_more_steps_go_on_with_the_same_search(found, net, tmp_path):
    """With a larger budget the attempts so far are the beginning of the attempts."""
    more = boxwood.compress(
        net, found.folder, train=batches(0, 200), validate=batches(200, 400),
        **{**SEARCH, "steps": 400},
    )  # fmt: skip
    assert [each.key for each in more.tried][: len(found.tried)] == [e.key for e in found.tried]
    assert len(more.tried) > len(found.tried)
    assert more.cost <= found.cost


def test_another_search_is_not_mixed_up(found, net):
    """A folder of another limit is refused."""
    with pytest.raises(CheckpointError, match="max_drop"):
        boxwood.compress(
            net, found.folder, train=batches(0, 200), target="macs", max_drop=0.1, steps=1
        )


def test_the_network_is_left_as_it_was(net, tmp_path):
    """Weights, mode and torch's random numbers are the same afterwards."""
    net.train()
    before = {name: each.clone() for name, each in net.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    boxwood.compress(net, tmp_path / "out", train=[X[:64]], target="macs", max_drop=0.2, steps=40)
    assert torch.equal(torch.rand(1), expected)
    assert net.training
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    net.eval()


def test_unlabelled_inputs_are_enough(net, tmp_path):
    """Without targets the dense network replaces them, and the result says so."""
    made = boxwood.compress(
        net, tmp_path / "out", train=[X[:200]], target="macs", max_drop=0.1, steps=60
    )
    assert made.score == "agreement with the dense network"
    assert made.cost < made.dense_cost


def test_a_limit_that_nothing_holds_gives_the_nearest(net, tmp_path):
    """Where no candidate holds, the result is the nearest one and says that it does not."""
    wanted = net(X).detach()
    made = boxwood.compress(
        net, tmp_path / "out", train=batches(0, 50), target="macs", max_drop=1e-6, steps=1,
        validate=lambda network: -(network(X) - wanted).square().mean(),
    )  # fmt: skip
    assert not made.held
    assert made.attempt.drop.most == min(each.drop.most for each in made.tried)


def test_it_stops_at_the_wanted_cost(net, tmp_path):
    """With at_most the most accurate network at that cost is taken."""
    made = boxwood.compress(
        net, tmp_path / "out", train=batches(0, 200), validate=batches(200, 400),
        at_most=0.6, **SEARCH,
    )  # fmt: skip
    assert made.cost <= 0.6 * made.dense_cost
    assert made.held


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validate": lambda network: math.nan}, "finite score, got nan"),
        ({"validate": lambda network: "good"}, "a score, got"),
        ({"validate": lambda network: None}, "a score, got"),
        ({"validate": []}, "empty list"),
        ({"train": []}, "empty list"),
        ({"train": iter([X])}, "read several times"),
        ({"train": X}, "Expected batches"),
        ({"max_drop": 0}, "max_drop above 0"),
        ({"max_drop": 0.001, "validate": batches(200, 400)}, "at least 54,1"),
        ({"target": "speed"}, "latency, size, macs"),
        ({"at_most": 1e9}, "does not meet yet"),
        ({"at_most": "8ms"}, "Expected at most a fraction"),
        ({"hours": 1.0}, "hours or steps"),
        ({"steps": 0}, "steps above 0"),
    ],
)
def test_bad_input_is_refused(net, tmp_path, change, message):
    """Each gets an error that says what was expected, and no folder is left that looks done."""
    asked = {"train": batches(0, 100), "validate": batches(200, 400)} | SEARCH | change
    with pytest.raises(InvalidInput, match=message):
        boxwood.compress(net, tmp_path / "out", **asked)
    assert not (tmp_path / "out" / "compress.json").exists()


def test_a_network_at_chance_is_refused(tmp_path):
    """An untrained network has nothing to keep."""
    torch.manual_seed(1)
    fresh = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    with pytest.raises(InvalidInput, match="trained network"):
        boxwood.compress(
            fresh, tmp_path / "out", train=batches(0, 100), validate=batches(200, 400), **SEARCH
        )


def test_a_loader_that_runs_dry_is_refused(net, tmp_path):
    """What gives batches once only is found when it is read again."""

    class Once:
        def __init__(self):
            self.left = 2

        def __iter__(self):
            self.left -= 1
            return iter([(X[:50], Y[:50])] * (self.left > 0))

    with pytest.raises(InvalidInput, match="a Once that is empty"):
        boxwood.compress(net, tmp_path / "out", train=Once(), validate=batches(200, 400), **SEARCH)


def test_killed_at_any_moment_it_ends_the_same(tmp_path, forks):
    """SIGKILL again and again: the folder is in the end that of an undisturbed search."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert forks.start(KILLED, whole, entry="code").wait() == 0
    facts = len(json.loads((whole / "search" / "journal.json").read_text())["facts"])
    for share in (0.2, 0.7):
        process = forks.start(KILLED, broken, entry="code")
        journal = broken / "search" / "journal.json"
        while process.poll() is None and (
            not journal.exists() or len(json.loads(journal.read_text())["facts"]) < share * facts
        ):
            time.sleep(0.005)
        process.kill()
    assert not (broken / "compress.json").exists()
    assert forks.start(KILLED, broken, entry="code").wait() == 0
    assert (whole / "load.py").read_bytes() == (broken / "load.py").read_bytes()
    # The library writes a file's texts in any order; tensors and texts are covered by a checksum.
    files = [read_tensors(each / "model.safetensors") for each in (whole, broken)]
    assert files[0].texts == files[1].texts
    assert files[0].checksum == files[1].checksum
    records = [json.loads((each / "compress.json").read_text()) for each in (whole, broken)]
    for timed in ("seconds", "hours", "advice", "machine"):
        for record in records:
            record.pop(timed)
    assert records[0] == records[1]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
    st.floats(0.05, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_a_descent_reaches_every_cost_it_can(knobs, most):
    """Costs fall and losses rise along a descent, and a cost that is asked for is met closely."""
    made = [
        Knob(str(n), (1.0, 0.5, 0.1), (0.0, min(loss), max(loss))) for n, loss in enumerate(knobs)
    ]

    def cost(shares):
        return sum(shares.get(knob.name, 1.0) for knob in made)

    way = descent(made, cost)
    assert all(a.cost > b.cost and a.loss <= b.loss for a, b in itertools.pairwise(way))
    assert math.isclose(way[-1].cost, 0.1 * len(made))
    reached = at_cost(way, most * len(made), cost)
    if most >= 0.1:
        assert 0 <= most * len(made) - reached.cost < 0.01


@given(st.integers(50, 400), st.floats(0, 0.2), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_bound_is_above_the_mean_and_shrinks(count, wrong, seed):
    """The upper end lies above the mean, and four times the examples halve what is between."""
    random = np.random.default_rng(seed)
    other = (random.random(count) > wrong).astype(float)
    few, many = drop(np.ones(count), other), drop(np.ones(4 * count), np.tile(other, 4))
    assert few.mean < few.most
    assert math.isclose(few.mean, many.mean, abs_tol=1e-12)
    assert 0.2 < (many.most - many.mean) / (few.most - few.mean) < 0.6


def test_the_bound_covers():
    """In 95 % of draws or a little more, the true drop is below the bound."""
    random = np.random.default_rng(0)
    below = 0
    for _ in range(400):
        dense, other = (random.random((2, 500)) < np.array([[0.9], [0.88]])).astype(float)
        below += drop(dense, other).most >= 0.02
    assert 0.92 <= below / 400 <= 0.985


def test_accuracy_takes_classes_wherever_they_are():
    """Images, tokens with the classes last, and targets that are left out."""
    logits = torch.zeros(2, 3, 4).index_fill(1, torch.tensor([1]), 1.0)
    assert accuracy(logits, torch.ones(2, 4, dtype=torch.long)).tolist() == [1.0, 1.0]
    tokens = logits.movedim(1, 2)
    targets = torch.tensor([[1, 1, -100, 0], [-100] * 4])
    assert accuracy({"logits": tokens}, targets).tolist() == pytest.approx([2 / 3, 0.0])
    with pytest.raises(InvalidInput, match="give metric="):
        accuracy(torch.ones(2, 3), torch.ones(2, 3))


def test_batches_are_taken_apart():
    """Tensors, pairs, dicts, and dicts in lists."""
    x, y = torch.ones(3, 2), torch.zeros(3)
    task = Task(model=nn.Linear(2, 1), train=[x])
    assert task.split(x) == (x, None)
    assert task.split([x, y])[1] is y
    inputs, targets = task.split({"input": x, "labels": y})
    assert list(inputs) == ["input"]
    assert targets is y
    two = Task(model=nn.Bilinear(2, 2, 1), train=[(x, x, y)], example=(x, x))
    assert len(two.split((x, x, y))[0]) == 2
    assert rows_of(first_rows({"a": x, "b": torch.ones(5)}, 2)) == 2


@pytest.mark.parametrize(
    ("given", "unit", "wanted"),
    [("5MB", "bytes", 5e6), ("1.5G", "multiply-adds", 1.5e9), ("0.25", "bytes", 25.0), ("8ms", "seconds", 0.008)],
)  # fmt: skip
def test_costs_are_read(given, unit, wanted):
    """Numbers with units, and fractions."""
    assert math.isclose(cost_of(given, 100.0, unit), wanted)
