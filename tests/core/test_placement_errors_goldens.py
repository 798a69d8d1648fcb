"""Weights that are not there are refused by name, before anything is done with them."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from boxwood import criteria
from boxwood._internal.engine.compiling import compile  # noqa: A004 - as torch names it
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.counting import count_layers
from boxwood._internal.model.dead import remove_dead
from boxwood._internal.model.oneshot import apply_masks_, find_masks, masks_from_zeros
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.model.reconstruct import load_, reconstruct
from boxwood._internal.model.scoring import score
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood.errors import BoxwoodError, InvalidInput
from boxwood.policies import RigL

MASKS = {"weight": torch.eye(3, dtype=torch.bool)}
X = torch.ones(2, 3)


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


ACTIONS: dict[str, Callable[[nn.Module], object]] = {
    "prune": lambda net: find_masks(net, 0.5),
    "prune by activations": lambda net: find_masks(net, 0.5, criterion=criteria.wanda, batches=[X]),
    "masks_from_zeros": masks_from_zeros,
    "score": lambda net: score(linear_and_conv(net), criteria.magnitude),
    "MaskBinding": lambda net: MaskBinding(net, sgd(net), MASKS),
    "SparseTraining": lambda net: SparseTraining(net, sgd(net), RigL(sparsity=0.5, until=9)),
    "apply_masks_": lambda net: apply_masks_(net, MASKS),
    "reconstruct": lambda net: reconstruct(net, MASKS, [X]),
    "load_": lambda net: load_(net, {"weight": torch.ones(3, 3)}),
    "count": lambda net: count_layers(net, X),
    "remove_dead": lambda net: remove_dead(net, MASKS, (3,)),
    "find_units": lambda net: find_units(net, X),
    "compile": lambda net: compile(net, X),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_weights_without_data_are_refused(action: Callable[[nn.Module], object]) -> None:
    """A network on the meta device has shapes only."""
    with pytest.raises(BoxwoodError) as caught:
        action(nn.Linear(3, 3, device="meta"))
    assert str(caught.value) == (
        "Expected parameters with data, got 'weight' on the meta device; load the weights first."
    )


@pytest.mark.parametrize("name", ["prune", "MaskBinding", "SparseTraining", "find_units"])
def test_lazy_weights_are_refused(name: str) -> None:
    """A lazy network has not even shapes."""
    with pytest.raises(BoxwoodError) as caught:
        ACTIONS[name](nn.LazyLinear(3))
    assert str(caught.value) == (
        "Expected parameters that have a shape, got 'weight', which gets its shape when the "
        "network first runs; run one batch through it first."
    )


@pytest.mark.parametrize(
    "name", ["prune", "MaskBinding", "SparseTraining", "apply_masks_", "count"]
)
def test_partitioned_weights_are_refused(name: str) -> None:
    """DeepSpeed's third stage leaves an empty parameter, and its part of it in an attribute."""
    net = nn.Linear(3, 3)
    net.weight.data = torch.empty(0)
    net.weight.ds_tensor = torch.ones(5)
    with pytest.raises(BoxwoodError) as caught:
        ACTIONS[name](net)
    assert str(caught.value).startswith(
        "Expected parameters of the network's own shapes, got 'weight', which DeepSpeed's ZeRO-3 "
        "has flattened and shared out; decide masks before the network is wrapped"
    )


def test_a_stage_of_a_pipeline_is_refused_with_the_way_out() -> None:
    """Its module is what has weights, and the ranks that hold the same stage are a group."""
    stage = SimpleNamespace(submod=nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match=r"got a value of type SimpleNamespace; give its submod"):
        find_masks(stage, 0.5)
