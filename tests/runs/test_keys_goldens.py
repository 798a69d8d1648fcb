"""Keys that stores in use hold must not change."""

from boxwood._internal.core.spec import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Genesis
from boxwood._internal.recipes.three_step import iterative
from boxwood._internal.runs.chain import keys
from boxwood._internal.train.optimizers import SGD, Adam, Drops
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100


def test_keys_of_the_first_release_stay() -> None:
    """Settings that came later leave the key of a recipe that does not use them as it was."""
    train = Training(
        epochs=2, batch=60, optimizer=SGD(lr=0.1, momentum=0.9), course=Drops(at=(0.5,)), l1=1e-5
    )
    again = Training(epochs=1, batch=60, optimizer=Adam(lr=1e-3))
    start = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
    assert keys(start, iterative(train, again, (0.5,))) == (
        "199c5ad49bcf416c7411",
        "b5fb29f6f71fa2b9fc65",
        "3bd88c2d1c9078b22e03",
        "fb9456e95a4cc0f4ec94",
        "06b8f73fae3357fcdc05",
        "010e9e164f2564700f85",
    )
