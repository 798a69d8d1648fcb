"""Keys that stores in use hold must not change."""

from boxwood._internal.core.spec import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Genesis
from boxwood._internal.recipes.three_step import iterative
from boxwood._internal.runs.chain import keys
from boxwood._internal.train.loop import Fit
from boxwood._internal.train.optimizers import SGD, Adam, Drops
from boxwood._internal.zoo.lenet import lenet_300_100


def test_keys_of_the_first_release_stay() -> None:
    """Settings that came later leave the key of a recipe that does not use them as it was."""
    train = Fit(
        epochs=2, batch=60, optimizer=SGD(lr=0.1, momentum=0.9), course=Drops(at=(0.5,)), l1=1e-5
    )
    again = Fit(epochs=1, batch=60, optimizer=Adam(lr=1e-3))
    start = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
    assert keys(start, iterative(train, again, (0.5,))) == (
        "199c5ad49bcf416c7411",
        "30bdccfc4a4de3c56139",
        "0bf01a4cc4a076833bc3",
        "f0063a347d1b59501b00",
        "ea0b790e8542ff86f819",
        "c7dbdec9aacd04f4ef95",
    )
