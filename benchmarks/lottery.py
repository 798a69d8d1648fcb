"""A whole level of a lottery ticket against the barest PyTorch loop, and two workers against one."""

import tempfile
import time
from dataclasses import replace
from functools import cache

import torch
from measuring import Row, compare, main
from torch.nn.functional import cross_entropy

from boxwood._internal.core.call import Call
from boxwood._internal.core.timing import by_turns
from boxwood._internal.data.digits import digits
from boxwood._internal.data.splits import InMemory, Splits
from boxwood._internal.recipes import lottery_networks as networks
from boxwood._internal.recipes.lottery_ticket import lottery_ticket
from boxwood._internal.recipes.phase import Genesis, State
from boxwood._internal.runs.runner import Job, run_all
from boxwood._internal.runs.store import Store
from boxwood._internal.runs.workers import run_in_processes
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100

BATCH = 60


def random_images() -> Splits:
    """Noise of Fashion-MNIST's sizes, with classes that a linear map separates."""
    return _random_images()


@cache
def _random_images() -> Splits:
    generator = torch.Generator().manual_seed(0)

    classes = torch.randn(784, 10, generator=generator)

    def part(count: int) -> InMemory:
        inputs = torch.randn(count, 1, 28, 28, generator=generator)
        return InMemory(inputs, (inputs.flatten(1) @ classes).argmax(1))

    return Splits("random", part(55_000), part(5_000), part(10_000), 10, identity="random")


def measure(quick: bool) -> list[Row]:
    """Measure levels by turns with bare loops, then workers."""
    return _level(quick) + _workers(quick)


def _level(quick: bool) -> list[Row]:
    steps = 1_000 if quick else 3_000
    data = random_images()
    row = networks.lenet()
    train = replace(row.train, steps=steps)
    start = Genesis(model=row.model, data=random_images)
    recipe = lottery_ticket(train=train, prune=row.prune, levels=1)[:-1]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        job = Job(start, recipe)
        run_all([Job(start, recipe[:-1])], store)

        def level() -> None:
            run_all([job], store)
            # The next repeat makes the same phase again.
            (store.root / "phases" / job.chain[-1]).rename(store.root / f"done-{time.time_ns()}")

        state = store.load(job.chain[-2])
        ways = {
            "level": level,
            "same": lambda: _bare(row, train, data, state, fused=True, watch=True),
            "plain": lambda: _bare(row, train, data, state, fused=False, watch=False),
        }
        times = by_turns(ways, turns=3 if quick else 11, warm_up=1)
    rates = {way: [steps / seconds for seconds in each] for way, each in times.items()}
    return [
        compare("level", rates["level"], rates["same"], "bare loop that validates too", unit="steps/s"),
        compare("level", rates["level"], rates["plain"], "bare loop without validation, Adam as torch has it", unit="steps/s"),
    ]  # fmt: skip


def _bare(
    row: networks.Row, train: Training, data: Splits, state: State, *, fused: bool, watch: bool
) -> None:
    """Train under masks, as one writes it by hand: no order to repeat, no history, no snapshots."""
    model = row.model()
    model.load_state_dict(dict(state.weights))
    masks = [(model.get_parameter(name), mask) for name, mask in state.masks.items()]
    optimizer = torch.optim.Adam(model.parameters(), lr=train.optimizer.lr, fused=fused)
    inputs, targets = data.train.inputs, data.train.targets
    step = 0
    while step < train.steps:
        for indices in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            outputs = model(inputs.index_select(0, indices))
            cross_entropy(outputs, targets.index_select(0, indices)).backward()
            optimizer.step()
            with torch.no_grad():
                for weight, mask in masks:
                    weight.mul_(mask)
            step += 1
            if watch and step % 100 == 0:
                model.eval()
                with torch.no_grad():
                    outputs = model(data.validation.inputs)
                    float(cross_entropy(outputs, data.validation.targets))
                    int((outputs.argmax(1) == data.validation.targets).sum())
                model.train()
            if step == train.steps:
                break


def _workers(quick: bool) -> list[Row]:
    """Time a small graph with one worker and with two, start of the processes included."""
    row = networks.lenet()
    train = replace(row.train, steps=500 if quick else 4_000)
    recipe = lottery_ticket(train=train, prune=row.prune, levels=2)
    net = Call.of(lenet_300_100, inputs=64)
    jobs = [Job(Genesis(model=net, data=digits, seed=seed), recipe) for seed in range(4)]
    steps = 4 * 3 * train.steps

    def run(workers: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_in_processes(jobs, Store(folder), workers=workers)

    ways = {"one": lambda: run(1), "two": lambda: run(2)}
    times = by_turns(ways, turns=1 if quick else 3)
    rates = {way: [steps / seconds for seconds in each] for way, each in times.items()}
    return [compare("two workers", rates["two"], rates["one"], "one worker", unit="steps/s")]


if __name__ == "__main__":
    main(measure, f"LeNet-300-100 as a ticket at batch {BATCH}, whole levels")
