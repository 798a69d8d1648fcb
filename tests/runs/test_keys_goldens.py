"""Keys that stores in use hold must not change."""

from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Genesis
from boxwood._internal.recipes.phases.remove_dead import RemoveDead
from boxwood._internal.recipes.three_step import iterative
from boxwood._internal.runs.chain import keys
from boxwood._internal.train.lr_schedules import StepDecay
from boxwood._internal.train.optimizers import SGD, Adam
from boxwood._internal.train.settings import Regularisation, Training
from boxwood._internal.zoo.lenet import lenet_300_100


def test_keys_of_the_first_release_stay() -> None:
    """Settings that came later leave the key of a recipe that does not use them as it was."""
    train = Training(
        epochs=2,
        batch=60,
        optimizer=SGD(lr=0.1, momentum=0.9, lr_schedule=StepDecay(fractions=(0.5,))),
        regularisation=Regularisation(l1=1e-5),
    )
    again = Training(epochs=1, batch=60, optimizer=Adam(lr=1e-3))
    start = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
    rounds = iterative(train, again, (0.5,), dead=False)
    # In the first release dead units went after each retraining.
    assert keys(start, (*rounds[:-1], RemoveDead(), rounds[-1])) == (
        "b8ede8e28f2efc2e2a7d",
        "32c175ab1bd17fdbced1",
        "3b6ee65d3e85ad85fbbc",
        "732beeb2852415d1e644",
        "78e4d1d36ddd2c1d93c0",
        "3aa577a60816b12032df",
    )
