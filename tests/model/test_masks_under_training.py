"""Whatever moves a masked weight, every forward pass reads zeros, or there is an error."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood.errors import BoxwoodError

_SPEC = importlib.util.spec_from_file_location(
    "training_cases", Path(__file__).parent / "training_cases.py"
)
cases = importlib.util.module_from_spec(_SPEC)
sys.modules["training_cases"] = cases  # dataclasses look their module up
_SPEC.loader.exec_module(cases)
EVENTS, IMPOSSIBLE, WAYS, WHERE = cases.EVENTS, cases.IMPOSSIBLE, cases.WAYS, cases.WHERE
pytestmark = pytest.mark.filterwarnings(
    "ignore:Detected call of:UserWarning", "ignore:.*sparse:UserWarning"
)


def bound(way: str, *, frozen: tuple[str, ...] = ()) -> cases.Loop:
    if way == "accelerate":
        pytest.importorskip("accelerate")
    net = cases.network(sparse="Sparse" in way)
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    optimizer, iterate = WAYS[way](net)
    held = MaskBinding(net, optimizer, cases.masks_of(net))
    return recorded(cases.Loop(net, held, optimizer, iterate))


def recorded(loop: cases.Loop) -> cases.Loop:
    for module in loop.net.modules():
        if isinstance(module, cases.Recorded):
            module.masks = lambda: loop.held.masks
    return loop


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("way", WAYS)
def test_every_forward_pass_reads_zeros(way: str, event: str) -> None:
    """Under every way of training, through everything that happens to the network."""
    happening = EVENTS[event]
    loop = bound(way, frozen=happening.frozen)
    for _ in range(0 if happening.first else 2):
        loop.step()
    happening.happen(loop)
    if (way, event) in IMPOSSIBLE:
        kind, words = IMPOSSIBLE[way, event]
        with pytest.raises(kind, match=words):
            loop.step()
        return
    if happening.refused:
        with pytest.raises(BoxwoodError, match=r"to be the parameter that its mask was bound to"):
            loop.step()
        return
    for _ in range(3):
        loop.step()
    with torch.no_grad():
        loop.loss()
    assert len(loop.seen()) >= 8
    assert not any(loop.seen())
    for name, mask in loop.held.masks.items():
        saved = loop.net.state_dict()[name]
        assert not saved[~mask].any()
        assert saved.isfinite().all()
        assert saved[mask].any()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_counts_its_steps(way: str) -> None:
    """A schedule goes on with the steps that were taken: not with those that a scaler skipped."""
    if way == "accelerate":
        pytest.importorskip("accelerate")
    net = cases.network(sparse="Sparse" in way)
    optimizer, iterate = WAYS[way](net)
    policy = Gradual(schedule=Cubic(final=0.6, end=4), every=2)
    held = SparseTraining(net, optimizer, policy, layers=WHERE)
    loop = recorded(cases.Loop(net, held, optimizer, iterate))
    for _ in range(7):
        loop.step()
    assert held.steps == (5 if "GradScaler" in way else 7)
    for mask in held.masks.values():
        assert int((~mask).sum()) == round(0.6 * mask.numel())
    assert not any(loop.seen())


def test_there_are_enough_of_them() -> None:
    """The table keeps its size."""
    assert len(WAYS) >= 20
    assert len(EVENTS) >= 10
    assert len(IMPOSSIBLE) <= 5
