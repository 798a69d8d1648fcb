"""What NVIDIA ModelOpt's FastNAS makes of a task at the multiply-adds that `boxwood compress` ended with.

    pip install nvidia-modelopt torchprofile==0.0.4
    python experiments/run_compress.py resnet8 --for macs --max-drop 2 --steps 3000
    python experiments/compress_fastnas.py resnet8 --max-drop 2

FastNAS sorts the channels of convolutions and searches their numbers by the score without training,
under a limit of FLOPs. What it finds is then taught by the dense network as our candidates are, for as
many steps as our whole search had, at the best of the same learning rates. The row is added to the
result of `run_compress.py`.
"""

import argparse
import copy
import json
import tempfile
import time
from dataclasses import asdict
from typing import Any

import torch
from run_compress import HERE, TASKS
from torch import nn

from boxwood._internal.compress.costs import multiply_add_costs
from boxwood._internal.compress.scores import Scorer, Scores, drop
from boxwood._internal.compress.search import RATES
from boxwood._internal.compress.task import Task, first_rows
from boxwood._internal.compress.teaching import Lesson, teach_
from boxwood._internal.graph.units import find_units

DIVISOR = 4
"""Channels are cut to multiples of it; FastNAS takes 32, which leaves small networks no choice."""
TRIAL = 8
"""A learning rate is tried for one part in eight of all steps."""


def searched(task: Task, share: float, scorer: Scorer) -> nn.Module:
    """Let FastNAS cut a copy of the network to a share of its multiply-adds."""
    import modelopt.torch.prune as mtp

    layers: dict[str, Any] = {
        "nn.Conv2d": {"*": {"channel_divisor": DIVISOR}},
        "nn.BatchNorm2d": {"*": {}},
        "nn.Linear": {"*": {"feature_divisor": DIVISOR}},
    }
    network = copy.deepcopy(task.model)
    with tempfile.TemporaryDirectory() as folder:
        found, _ = mtp.prune(
            model=network,
            mode=[("fastnas", layers)],
            constraints={"flops": f"{100 * share:.4f}%"},
            dummy_input=task.first(1)[0],
            config={
                "data_loader": task.train,
                "score_func": lambda net: float(scorer(net).mean()),
                "collect_func": lambda batch: task.split(batch)[0],
                "checkpoint": f"{folder}/search.pth",
            },
        )
    return found


def taught(network: nn.Module, task: Task, steps: int, dense: Scores, scorer: Scorer) -> nn.Module:
    """Teach it at the learning rate with which it recovers most in a part of the steps."""
    drops = {}
    for rate in RATES:
        trial = copy.deepcopy(network)
        teach_(trial, task.model, task, Lesson(steps=steps // TRIAL, rate=rate))
        drops[rate] = drop(dense, scorer(trial)).mean
    teach_(network, task.model, task, Lesson(steps=steps, rate=min(RATES, key=drops.__getitem__)))
    return network


def main() -> None:
    """Search, teach, measure, and add a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--max-drop", type=float, default=0.5, help="in points")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "results" / "compress.json"
    rows: dict[str, Any] = json.loads(path.read_text())
    row = rows[f"{given.task}_macs_{given.max_drop:g}"]
    task = TASKS[given.task]()
    scorer, test = (Scorer(task, part, task.model) for part in (task.validate, task.test))
    begun = time.perf_counter()
    dense = scorer(task.model)
    network = searched(task, row["cost"] / row["dense_cost"], scorer)
    before = drop(dense, scorer(network))
    taught(network, task, row["steps"], dense, scorer)
    example = first_rows(task.first(1)[0], 1)
    units = find_units(network, example)
    row["fastnas"] = {
        "cost": multiply_add_costs(network, units, example).measure(network, "float32"),
        "before_training": asdict(before),
        "validation": asdict(drop(dense, scorer(network))),
        "test": asdict(drop(test(task.model), test(network))),
        "hours": (time.perf_counter() - begun) / 3600,
    }
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row["fastnas"], indent=1))


if __name__ == "__main__":
    main()
