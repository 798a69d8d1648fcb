"""A phase whose masks change while it trains resumes at any step, byte for byte."""

import pytest
import torch

from boxwood._internal.core.call import Call
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.data.digits import digits
from boxwood._internal.data.splits import Splits
from boxwood._internal.data.text import corpus
from boxwood._internal.recipes.gradual_networks import LANGUAGE_MODEL
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.settings import PolicyPruning, Regularisation
from boxwood._internal.zoo.language_models import lstm_language_model
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.optim import SGD
from boxwood.policies import Gradual, RigL
from boxwood.recipes import Genesis
from boxwood.training import Training

GENESIS = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits, seed=3)
STEPS = 60


@pytest.mark.parametrize(
    "policy",
    [
        Gradual(schedule=Cubic(final=0.9, begin=10, end=50), every=10),
        RigL(sparsity=0.9, until=50, every=10),
    ],
)
@pytest.mark.parametrize("stop", [5, 29, 30, 55])
def test_a_phase_stopped_in_a_ramp_is_the_undisturbed_one(policy, stop, stopped_is_undisturbed):
    """Weights, masks and history after a stop are those without one."""
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=1e-4)
    phase = Train(
        training=Training(steps=STEPS, batch=60, optimizer=optimizer, pruning=PolicyPruning(policy))
    )
    model = GENESIS.build()
    start = State(model.state_dict(), {})

    def world(checkpoints=None):
        return World(
            genesis=GENESIS, data=digits(), earlier=lambda _: start, checkpoints=checkpoints
        )

    check_kept(stopped_is_undisturbed(phase, start, world, stop))


def text() -> Splits:
    """Short, so that stops fall into the middle of epochs of 12 steps."""
    generator = torch.Generator().manual_seed(0)
    words = [f"w{i}" for i in torch.randint(30, (400,), generator=generator).tolist()]
    return corpus("toy", [words], [words[:60]], [words[:60]]).splits(8, 20)


@pytest.mark.parametrize("stop", [5, 24, 29, 30, 55])
def test_a_text_stopped_in_a_ramp_is_read_on(stop, stopped_is_undisturbed):
    """What a language model carries from batch to batch survives a stop, in an epoch or between."""
    genesis = Genesis(
        model=Call.of(lstm_language_model, words=32, hidden=8, dropout=0.5), data=text
    )
    policy = Gradual(schedule=Cubic(final=0.9, begin=10, end=50), every=10)
    training = Training(
        steps=STEPS,
        batch=4,
        optimizer=SGD(lr=2.0, momentum=0.5),
        regularisation=Regularisation(max_gradient_norm=0.5),
        pruning=PolicyPruning(policy, LANGUAGE_MODEL),
        stateful=True,
    )
    assert training.window(len(text().train)).per_epoch == 12
    start = State(genesis.build().state_dict(), {})

    def world(checkpoints=None):
        return World(genesis=genesis, data=text(), earlier=lambda _: start, checkpoints=checkpoints)

    check_kept(stopped_is_undisturbed(Train(training=training), start, world, stop))


def check_kept(whole):
    """After the ramp a tenth of every tensor is left."""
    kept = sum(int(mask.sum()) for mask in whole.masks.values())
    assert kept == sum(round(0.1 * mask.numel()) for mask in whole.masks.values())
