"""The conformance table of policies: one row each, and the laws that every row keeps.

To add a policy, add a row: the policy with settings for 30 steps of the toy network, and what it
promises.
"""

import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood import SparseTraining, policies
from boxwood._internal.core import spec
from boxwood._internal.core.chance import seeded_policy
from boxwood._internal.data.splits import from_tensors
from boxwood._internal.recipes.phase import State, World
from boxwood.granularity import NofM
from boxwood.optim import SGD, AdamW
from boxwood.phases import Train
from boxwood.policies import (
    ACDC,
    MEST,
    SET,
    SNFS,
    SRSTE,
    STR,
    Gradual,
    GraNet,
    LayerByLayer,
    MovementPruning,
    Policy,
    RigL,
    SRigL,
    Static,
    TopKAST,
)
from boxwood.recipes import Call, Genesis
from boxwood.schedules import Cubic
from boxwood.training import PolicyPruning, Training

_SPEC = importlib.util.spec_from_file_location("toy", Path(__file__).parent / "toy_trainings.py")
toy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(toy)

STEPS = 30


@dataclass(frozen=True)
class Row:
    """A policy and what it promises.

    Args:
        policy: with the settings of the tests.
        sparsity: of every tensor, or of all, at the end; None where it is what comes out.
        dense_at_first: whether it begins with all weights.
        draws: whether chance decides anything.
    """

    policy: Policy
    sparsity: float | None = None
    dense_at_first: bool = False
    draws: bool = False

    def __str__(self) -> str:
        return type(self.policy).__name__


ROWS = (
    Row(Gradual(Cubic(final=0.75, begin=5, end=25), every=5), 0.75, dense_at_first=True),
    Row(LayerByLayer(final=0.75, begin=5, end=25, every=5), 0.75, dense_at_first=True),
    Row(Static(0.75), 0.75, draws=True),
    Row(SET(0.75, until=25, every=5), 0.75, draws=True),
    Row(RigL(0.75, until=25, every=5), 0.75, draws=True),
    Row(GraNet(0.75, until=25, every=5), 0.75, dense_at_first=True),
    Row(SNFS(0.75, until=25, every=5), 0.75, draws=True),
    Row(MEST(0.75, until=25, every=5, soft=True), 0.75, draws=True),
    Row(SRigL(0.75, until=25, every=5, salient=0.5), 0.75, draws=True),
    Row(ACDC(0.75, begin=4, end=22, every=4), 0.75, dense_at_first=True),
    Row(SRSTE(NofM(1, 4), decay=0.01), 0.75),
    Row(TopKAST(0.75, backward_sparsity=0.5, penalty=0.01, every=3), 0.75),
    Row(MovementPruning(Cubic(final=0.75, begin=5, end=25)), 0.75, dense_at_first=True),
    Row(STR(-3.0, decay=0.02, momentum=0.5)),
)
EACH = pytest.mark.parametrize("row", ROWS, ids=str)
OPTIMIZERS = {"sgd": toy.sgd, "adamw": toy.adamw}


def finished(training: SparseTraining, net: nn.Module) -> dict[str, Tensor]:
    return {**toy.parameters(net), **training.state_dict()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize(
    ("stop", "late", "kind"),
    [(1, False, "sgd"), (9, True, "sgd"), (10, True, "adamw"), (21, False, "adamw")],
)
@EACH
def test_a_loop_resumes_bit_for_bit(row: Row, stop: int, late: bool, kind: str) -> None:
    """Stopped anywhere and resumed from what was saved, all is as if never stopped."""
    whole = toy.network()
    optimizer = OPTIMIZERS[kind](whole)
    undisturbed = SparseTraining(whole, optimizer, row.policy)
    toy.steps(whole, optimizer, range(STEPS))

    half = toy.network()
    optimizer = OPTIMIZERS[kind](half)
    training = SparseTraining(half, optimizer, row.policy)
    toy.steps(half, optimizer, range(stop))
    saved = (half.state_dict(), optimizer.state_dict(), training.state_dict())

    again = toy.network(seed=1)
    again.load_state_dict(saved[0])
    optimizer = OPTIMIZERS[kind](again)
    if late:
        training = SparseTraining(again, optimizer, row.policy)
        again.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        training.load_state_dict(saved[2])
    else:
        optimizer.load_state_dict(saved[1])
        training = SparseTraining(again, optimizer, row.policy, state=saved[2])
    toy.steps(again, optimizer, range(stop, STEPS))
    same(finished(training, again), finished(undisturbed, whole))


def splits() -> Any:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 12, generator=generator)
    return from_tensors("toy", (inputs, torch.arange(80) % 4), (inputs, torch.arange(80) % 4), validation=20)  # fmt: skip


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


GENESIS = Genesis(model=Call.of(model), data=splits, seed=3)


@pytest.mark.parametrize(
    ("stop", "optimizer"), [(7, SGD(lr=0.1, momentum=0.9)), (20, AdamW(lr=0.01))], ids=["7", "20"]
)
@EACH
def test_a_recipe_resumes_bit_for_bit(
    row: Row, stop: int, optimizer: Any, stopped_is_undisturbed: Any
) -> None:
    """So does a phase of a recipe, with the masks and facts that it leaves."""
    training = Training(
        steps=STEPS, batch=20, optimizer=optimizer, pruning=PolicyPruning(row.policy)
    )
    start = State(GENESIS.build().state_dict(), {})

    def world(checkpoints: Any = None) -> World:
        return World(
            genesis=GENESIS, data=splits(), earlier=lambda _: start, checkpoints=checkpoints
        )

    done = stopped_is_undisturbed(Train(training=training), start, world, stop)
    for name, mask in done.masks.items():
        assert not done.weights[name][~mask].any()
    assert 0 < done.facts["exploration"] <= 1


@pytest.mark.parametrize("kind", OPTIMIZERS)
@EACH
def test_what_is_pruned_reads_as_zero(row: Row, kind: str) -> None:
    """After every step, whatever momentum and weight decay do, in the network and its checkpoints."""
    net = toy.network()
    optimizer = OPTIMIZERS[kind](net)
    training = SparseTraining(net, optimizer, row.policy)
    assert row.dense_at_first == all(mask.all() for mask in training.masks.values())
    explored = [training.exploration]

    def check(step: int) -> None:
        saved = net.state_dict()
        for name, mask in training.masks.items():
            assert not saved[name][~mask].any()
        explored.append(training.exploration)

    toy.steps(net, optimizer, range(STEPS), check)
    assert explored == sorted(explored)
    assert 1 - training.sparsity <= explored[-1] <= 1
    if row.sparsity is not None:
        for mask in training.masks.values():
            assert int(mask.sum()) <= mask.numel()
        assert training.sparsity == pytest.approx(row.sparsity, abs=0.005)
    before = toy.parameters(net)
    training.detach(early=True)
    same(toy.parameters(net), before)


@EACH
def test_the_run_s_seed_decides_what_is_drawn(row: Row) -> None:
    """Another seed, other masks, where chance decides; the same everywhere else."""

    def masks(root: int) -> dict[str, Tensor]:
        return toy.trained(seeded_policy(row.policy, root), 12)[1].masks

    first, again, other = masks(0), masks(0), masks(1)
    same(first, again)
    differ = any(not torch.equal(first[name], other[name]) for name in first)
    assert differ == row.draws


@EACH
def test_a_policy_is_data(row: Row) -> None:
    """It is written into recipes by its public name, and read again; its text names its source."""
    written = spec.encode(row.policy)
    assert spec.decode(written) == row.policy
    assert written["is"] == f"boxwood.policies:{row}"
    text = type(row.policy).__doc__ or ""
    assert text.count("Source: ") == 1
    assert "Example:" in text


def test_every_policy_has_a_row() -> None:
    """Nothing that is exported is missing from the table."""
    listed = {
        name
        for name in policies.__all__
        if inspect.isclass(getattr(policies, name)) and hasattr(getattr(policies, name), "update")
    }
    assert {str(row) for row in ROWS} == listed - {"FixedMasks", "Policy"}
