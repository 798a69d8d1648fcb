"""Searches, comparisons and what stays on the CPU, on the device: see `devices_at_work.py`."""

import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices_at_work import CPU, Device, Numbers, chain, rows
from devices_in_recipes import SHORT, linear, toy
from torch import Tensor, nn

import boxwood
from boxwood.allocation import amc, chipnet
from boxwood.comparison import METHODS, Comparison, ComparisonTask, compare
from boxwood.compression import agreement
from boxwood.errors import BoxwoodError
from boxwood.layers import Named
from boxwood.oneshot import reconstruct_by_fisher
from boxwood.training import cross_entropy


def batches(count: int = 20) -> list[tuple[Tensor, Tensor]]:
    return [rows(count).take(torch.arange(count))]


def allocations(device: Device) -> Numbers:
    net = chain().to(device)
    found = amc(
        net, 0.4, lambda masks: float(masks["2.weight"].float().mean()), episodes=4, warm_up=2
    )
    gates = chipnet(
        net, 0.5, batches=batches(), loss=cross_entropy, epochs=2, layers=Named(("0.weight",))
    )
    return {"amc": repr(found.allocation), "chipnet": repr(gates.allocation)}


def repaired_by_fisher(device: Device) -> Numbers:
    masks = boxwood.find_masks(chain(), 0.5)
    return reconstruct_by_fisher(chain().to(device), masks, batches(), cross_entropy, block=4)


def compared(device: Device) -> Numbers:
    task = ComparisonTask(name="toy", model=linear, data=toy, train=SHORT)
    study = Comparison(
        tasks=(task,), methods={"SNIP": METHODS["SNIP"]}, sparsities=(0.5,), controls={}
    )
    with tempfile.TemporaryDirectory() as folder:
        league = compare(study, store=folder, seeds=1, device=device)
    return {"league": repr([(each.place, each.score, each.nonzero) for each in league.standings])}


def left_to_the_cpu(device: Device) -> Numbers:
    """`compress` refuses a network on a device, before it searches; `accelerate_` lets it be."""
    net: Any = chain().to(device)
    if device != CPU:
        with pytest.raises(BoxwoodError, match=r"on the CPU, .* got '0\.weight' on gpu:0"):
            boxwood.compress(net, "unused", train=batches(), target="macs", steps=1)
        boxwood.accelerate_(net)
        assert type(net[0]) is nn.Linear
    boxwood.restore_(net)
    some = torch.eye(3).to(device)
    return {"outputs": net(batches()[0][0].to(device)), "agreement": agreement(some, some)}


SCENARIOS: dict[str, Callable[[Device], Numbers]] = {
    "allocations": allocations,
    "repaired by Fisher": repaired_by_fisher,
    "compared": compared,
    "left to the CPU": left_to_the_cpu,
}
