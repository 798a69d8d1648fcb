"""What distillation costs: an epoch from kept answers, and specialists in two processes."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from measuring import Row, compare, main

from boxwood._internal.core.call import Call
from boxwood._internal.core.spec import decode, encode
from boxwood._internal.core.timing import by_turns
from boxwood._internal.data.splits import InMemory, Splits, from_tensors
from boxwood._internal.distill.cached_logits import Shards, cache_logits
from boxwood._internal.distill.ensembles import forward_of
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.recipes.phase import Genesis
from boxwood._internal.recipes.specialists import generalist, specialists
from boxwood._internal.runs.runner import Job, run_all, run_recipe
from boxwood._internal.runs.store import Store
from boxwood._internal.train.loop import train_
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood._internal.zoo.wide_nets import wide_net

GROUPS = ((0, 1, 2), (3, 4, 5), (6, 7), (8, 9))
TRAINING = Training(epochs=1, batch=100, optimizer=SGD(lr=0.01, momentum=0.9))
GO = """
import json, sys
sys.path.insert(0, sys.argv[1])
import distill
distill.work(json.loads(sys.argv[2]), sys.argv[3])
"""


def measure(quick: bool) -> list[Row]:
    """Measure both."""
    return [
        epoch("epoch, 800-800 net", Call.of(wide_net, hidden=(800, 800)), quick),
        epoch("epoch, LeNet-300-100", lenet_300_100, quick),
        processes(quick),
    ]


def data(count: int = 4_000) -> Splits:
    """Random images of MNIST's size."""
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 1, 28, 28, generator=chance)
    labels = torch.arange(count) % 10
    return from_tensors("random", (inputs, labels), (inputs[:500], labels[:500]), validation=500)


def epoch(name: str, net: Call, quick: bool) -> Row:
    """Train on labels, and on a teacher's answers that were read from disk, by turns."""
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(4_000 if quick else 20_000, 1, 28, 28, generator=chance)
    examples = InMemory(inputs, torch.arange(len(inputs)) % 10)
    torch.manual_seed(0)
    taught, labelled, teacher = net(), net(), wide_net(hidden=(100,))
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(Path(folder))
        cache_logits(forward_of(teacher), examples, shards=shards)
        soft = replace(TRAINING, loss=Distillation(temperature=4.0))

        def from_answers() -> None:
            kept = cache_logits(forward_of(teacher), examples, shards=shards)
            train_(taught, examples, soft, seed=0, make_targets=kept)

        ways = {
            "ours": from_answers,
            "labels": lambda: train_(labelled, examples, TRAINING, seed=0),
        }
        times = by_turns(ways, turns=5 if quick else 15, warm_up=1)
    return compare(name, times["ours"], times["labels"], "labels alone", unit="s")


def processes(quick: bool) -> Row:
    """Train four specialists of a generalist that is there, in two processes and in one."""
    genesis = Genesis(model=Call.of(wide_net, hidden=(300, 300)), data=data)
    special = replace(TRAINING, epochs=None, steps=150 if quick else 600)
    recipe = specialists(generalist(TRAINING), special, groups=GROUPS)
    jobs = json.dumps([encode((genesis, member)) for member in recipe[-1].members])
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        run_recipe(genesis, recipe[:-1], Store(start))
        times: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(2 if quick else 7):
            for count in (1, 2) if repeat % 2 else (2, 1):
                store = Path(folder) / f"{count}-{repeat}"
                shutil.copytree(start, store)
                times[count].append(timed(count, jobs, store))
    rates = {count: [len(GROUPS) / each for each in found] for count, found in times.items()}
    return compare(
        "4 specialists, 2 processes", rates[2], rates[1], "1 process", unit="specialists/s"
    )


def timed(count: int, jobs: str, store: Path) -> float:
    """Seconds from the moment at which all processes are ready until the last one ends."""
    command = [sys.executable, "-c", GO, str(Path(__file__).parent), jobs, str(store)]
    pipe = subprocess.PIPE
    # Each in a session of its own, because a busy Linux divides its time among sessions.
    workers = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        for _ in range(count)
    ]
    for worker in workers:
        worker.stdout.readline()
    begin = time.perf_counter()
    for worker in workers:
        worker.stdin.close()
    if any(worker.wait() for worker in workers):
        raise SystemExit("a worker failed")
    return time.perf_counter() - begin


def work(jobs: list[object], store: str) -> None:
    """Get ready, wait for the start, and run."""
    torch.set_num_threads(1)
    # A first training loads what torch loads late.
    train_(wide_net(hidden=(4,)), data(1_000).train, TRAINING, seed=0)
    print("ready", flush=True)
    sys.stdin.read()
    run_all([Job(*decode(each)) for each in jobs], Store(store))


if __name__ == "__main__":
    main(measure, "Distillation: epochs from kept answers, and specialists in two processes")
