"""Keys that stores in use hold must not change."""

from boxwood.core.spec import Call
from boxwood.data.digits import digits
from boxwood.recipes.phase import Genesis
from boxwood.recipes.three_step import iterative
from boxwood.runs.chain import keys
from boxwood.train.loop import Fit
from boxwood.train.optimizers import SGD, Adam, Drops
from boxwood.zoo.lenet import lenet_300_100


def test_keys_of_the_first_release_stay() -> None:
    """Settings that came later leave the key of a recipe that does not use them as it was."""
    train = Fit(
        epochs=2, batch=60, optimizer=SGD(lr=0.1, momentum=0.9), course=Drops(at=(0.5,)), l1=1e-5
    )
    again = Fit(epochs=1, batch=60, optimizer=Adam(lr=1e-3))
    start = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
    assert keys(start, iterative(train, again, (0.5,))) == (
        "b922f543b23e870db2b2",
        "b3a4351fbe625773d4f5",
        "1fb103aea58a5a44b6ca",
        "990d56c70ec33b44c9c2",
        "1e6495e95e12a20150cf",
        "7a03e4f7a91163bf40cb",
    )
