"""A phase whose masks change while it trains resumes at any step, byte for byte."""

import pytest
import torch

from boxwood import SGD, Fit, Genesis
from boxwood.core.policies import Gradual, RigL
from boxwood.core.schedules import Cubic
from boxwood.core.spec import Call
from boxwood.data.digits import digits
from boxwood.data.pairs import paired
from boxwood.data.splits import Splits
from boxwood.model.prunable import linear_and_conv
from boxwood.recipes.phase import State, World
from boxwood.recipes.phases.train import Train
from boxwood.train.snapshots import Snapshot
from boxwood.zoo.lenet import lenet_300_100
from boxwood.zoo.seq2seq import gnmt, outside_attention


def toy_pairs() -> Splits:
    """Sequences to turn round, of 1 to 5 tokens."""
    sources = [[1 + i * j % 7 for j in range(1, 2 + i % 5)] for i in range(1, 81)]
    data = paired(sources, [source[::-1] for source in sources], "toy")
    return Splits("toy", data, data, data, classes=8, identity="toy")


CLASSIFIER = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits, seed=3)
WRITER = Genesis(
    model=Call.of(gnmt, sources=8, classes=8, hidden=8, layers=3), data=toy_pairs, seed=3
)
STEPS = 60


class Stopping:
    """Keeps a snapshot at one step and stops there."""

    def __init__(self, stop: int) -> None:
        self.stop, self.step, self.kept = stop, 0, None

    def load(self) -> Snapshot | None:
        return self.kept

    def due(self) -> bool:
        self.step += 1
        return self.step == self.stop

    def save(self, snapshot: Snapshot) -> None:
        copied = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.kept = Snapshot(copied, snapshot.facts)
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("genesis", "where", "policy"),
    [
        (
            CLASSIFIER,
            linear_and_conv,
            Gradual(schedule=Cubic(final=0.9, begin=10, end=50), every=10),
        ),
        (CLASSIFIER, linear_and_conv, RigL(sparsity=0.9, until=50, every=10)),
        (
            WRITER,
            outside_attention,
            Gradual(schedule=Cubic(final=0.9, begin=10, end=50), every=10),
        ),
    ],
    ids=["gradual", "rigl", "gradual on sequences"],
)
@pytest.mark.parametrize("stop", [5, 29, 30, 55])
def test_a_phase_stopped_in_a_ramp_is_the_undisturbed_one(genesis, where, policy, stop):
    """Weights, masks and history after a stop are those without one; dropout is among it."""
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=1e-4)
    fit = Fit(steps=STEPS, batch=60, optimizer=optimizer, policy=policy, where=where)
    phase = Train(fit=fit)
    model = genesis.build()
    start = State(model.state_dict(), {})

    def world(checkpoints=None):
        return World(
            genesis=genesis, data=genesis.data(), earlier=lambda _: start, checkpoints=checkpoints
        )

    whole = phase.run(start, world())
    checkpoints = Stopping(stop)
    with pytest.raises(KeyboardInterrupt):
        phase.run(start, world(checkpoints))
    checkpoints.stop = -1
    again = phase.run(start, world(checkpoints))
    assert again.facts == whole.facts
    for mine, other in ((again.weights, whole.weights), (again.masks, whole.masks)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    kept = sum(int(mask.sum()) for mask in whole.masks.values())
    assert kept == sum(round(0.1 * mask.numel()) for mask in whole.masks.values())
    assert set(whole.masks) == set(where(model))
