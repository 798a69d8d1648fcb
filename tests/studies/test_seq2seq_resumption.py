"""A network that writes sequences, pruned while it trains, resumes at any step, byte for byte."""

import pytest

from boxwood._internal.core.call import Call
from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.data.splits import Splits
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.settings import PolicyPruning
from boxwood.optim import SGD
from boxwood.recipes import Genesis
from boxwood.training import Training
from boxwood_studies.pairs import paired
from boxwood_studies.seq2seq import gnmt, outside_attention

STEPS = 60


def turned_round() -> Splits:
    """Sequences of 1 to 5 tokens, and the same backwards."""
    sources = [[1 + i * j % 7 for j in range(1, 2 + i % 5)] for i in range(1, 81)]
    data = paired(sources, [source[::-1] for source in sources], "toy")
    return Splits("toy", data, data, data, classes=8, identity="toy")


@pytest.mark.parametrize("stop", [29, 30])
def test_a_writer_of_sequences_stopped_in_a_ramp(stop, stopped_is_undisturbed):
    """The attention, dense next to pruned LSTMs, and dropout go on as if nothing had happened."""
    genesis = Genesis(
        model=Call.of(gnmt, sources=8, classes=8, hidden=8, layers=3), data=turned_round
    )
    training = Training(
        steps=STEPS,
        batch=60,
        optimizer=SGD(lr=0.1, momentum=0.9),
        pruning=PolicyPruning(
            Gradual(schedule=Cubic(final=0.9, begin=10, end=50), every=10), outside_attention
        ),
    )
    start = State(genesis.build().state_dict(), {})

    def world(checkpoints=None):
        return World(
            genesis=genesis, data=turned_round(), earlier=lambda _: start, checkpoints=checkpoints
        )

    whole = stopped_is_undisturbed(Train(training=training), start, world, stop)
    kept = sum(int(mask.sum()) for mask in whole.masks.values())
    assert kept == sum(round(0.1 * mask.numel()) for mask in whole.masks.values())
