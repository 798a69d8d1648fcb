"""The report of 200 runs of LeNet-300-100: seconds to build and to open it, and its size.

There is no other tool that makes such a page, so each figure is held against the limit that the
project sets itself: 10 s to build, 2 s until a browser shows the first chart, 3 MB. Building is
counted in seconds of processor time, which a busy machine does not stretch.

    python benchmarks/report.py --quick
"""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring
import torch

from boxwood._internal.core.digests import digest
from boxwood._internal.core.timing import by_turns, elapsed
from boxwood._internal.recipes.phase import State
from boxwood._internal.report.page.build import Report, page
from boxwood._internal.runs.store import Store
from boxwood._internal.zoo.lenet import lenet_300_100

BRANCHES, SEEDS, KEPT = 20, 10, (0.5, 0.3, 0.2, 0.12, 0.08, 0.05)
EPOCHS = 5
ABOUT = {"provenance": {"processor": "synthetic", "torch": "-", "threads": 1, "seconds": 1.0}}
PHASES = "boxwood.phases"


def fill(store: Store) -> None:
    """Write 200 runs of 18 phases; states that are alike are one file on the disk."""
    weights = {n: t.detach() for n, t in lenet_300_100().state_dict().items()}
    training = {"is": "boxwood.training:Training", "epochs": EPOCHS, "batch": 60}
    for seed in range(SEEDS):
        genesis = {
            "is": "boxwood.recipes:Genesis", "seed": seed,
            "model": {"function": "boxwood.networks:lenet_300_100"},
            "data": {"function": "boxwood.data:fashion_mnist"},
        }  # fmt: skip
        start = digest(genesis)
        _commit(store, start, genesis, None, {}, weights, 1.0)
        for branch in range(BRANCHES):
            chain, recipe = [start], []
            for level, kept in enumerate(KEPT, 1):
                for spec, facts in _level(training, branch, seed, level, kept):
                    chain.append(digest(chain[-1], spec))
                    recipe.append(spec)
                    _commit(store, chain[-1], spec, chain[-2], facts, weights, kept)
            store.note_run(
                chain[-1],
                {"name": f"recipe {chr(97 + branch)} / seed {seed}", "chain": chain,
                 "genesis": genesis, "recipe": recipe},
            )  # fmt: skip


def _level(
    training: dict[str, Any], branch: int, seed: int, level: int, kept: float
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    right = 8900 - 10 * branch - round(4 / kept) + (7 * seed + 3 * level) % 20
    history = [
        {"epoch": e, "loss": 1 / (e + level), "validation": right / 10_000 - 0.01 / e}
        for e in range(1, EPOCHS + 1)
    ]
    sizes = {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000}
    layers = [
        {
            "name": name, "kind": "Linear", "weights": size, "kept": round(kept * size),
            "multiply_adds": size, "effective_multiply_adds": round(kept * size),
            "input_activity": 0.5, "output_activity": 0.3, "han_flops_kept": kept / 2,
        }
        for name, size in sizes.items()
    ]  # fmt: skip
    whole, left = sum(sizes.values()), sum(layer["kept"] for layer in layers)
    measured = {
        "test": {"correct": right, "total": 10_000},
        "validation": {"correct": right // 2 + 20, "total": 5_000},
        "parameters": whole + 410, "nonzero": left + 410, "weights": whole, "kept": left,
        "multiply_adds": left, "dense_multiply_adds": whole, "bytes": 5 * left,
        "dense_bytes": 4 * whole, "layers": layers,
    }  # fmt: skip
    prune = {"is": f"{PHASES}:Prune", "sparsity": 1 - kept, "variant": branch, "label": ""}
    return [
        (prune, {"sparsity": 1 - kept, "kept": {f"{x['name']}.weight": x["kept"] for x in layers}}),
        (
            {"is": f"{PHASES}:Train", "training": training, "label": ""},
            {"history": history, "epochs": EPOCHS},
        ),
        ({"is": f"{PHASES}:Measure", "label": f"round-{level}"}, measured),
    ]


_FIRST: dict[float, tuple[Path, str]] = {}


def _commit(
    store: Store,
    key: str,
    spec: Any,
    parent: str | None,
    facts: dict[str, Any],
    weights: dict[str, torch.Tensor],
    kept: float,
) -> None:
    about = {"spec": spec, "parent": parent, "data": "synthetic", **ABOUT}
    folder = store.root / "phases" / key
    if kept not in _FIRST:
        chance = torch.Generator().manual_seed(0)
        masks = {
            name: torch.rand(tensor.shape, generator=chance) < kept
            for name, tensor in weights.items()
            if name.endswith("weight") and kept < 1
        }
        store.commit(key, State(weights, masks, facts), about)
        _FIRST[kept] = folder / "state.safetensors", store.record(key)["sha256"]
        return
    folder.mkdir(parents=True)
    file, checksum = _FIRST[kept]
    os.link(file, folder / "state.safetensors")
    record = {"format": 1, "key": key, **about, "facts": facts, "sha256": checksum}
    (folder / "phase.json").write_text(json.dumps(record))


def opened(path: Path, times: int) -> list[float]:
    """Seconds from asking for the page until its first chart is drawn."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    took = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(times):
            tab = browser.new_page()

            def shown(tab: Any = tab) -> None:
                tab.goto(path.as_uri())
                tab.wait_for_selector("figure.chart .view svg")

            took.append(elapsed(shown))
            tab.close()
        browser.close()
    return took


def measure(quick: bool) -> list[measuring.Row]:
    """Build once or thrice, open as often."""
    times = 1 if quick else 3
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "runs")
        fill(store)
        path = Path(folder) / "report.html"

        def build() -> None:
            path.write_text(page(Report(stores=(store.root,))), encoding="utf-8")

        built = by_turns({"page": build}, times, clock=time.process_time)["page"]
        limit = "limit"
        rows.append(
            measuring.compare("build, 200 runs", built, [10.0] * times, limit, unit="s of CPU")
        )
        size = path.stat().st_size / 1e6
        rows.append(measuring.compare("size", [size], [3.0], limit, unit="MB"))
        try:
            took = opened(path, times)
        except ImportError:
            print("open: not measured, playwright is not installed")
        else:
            rows.append(
                measuring.compare("open, first chart", took, [2.0] * times, limit, unit="s")
            )
    return rows


if __name__ == "__main__":
    measuring.main(measure, __doc__.splitlines()[0])
