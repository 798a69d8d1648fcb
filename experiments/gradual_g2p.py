"""Large-sparse against small-dense (Zhu and Gupta, 2017), where letters become phonemes.

    boxwood run experiments/gradual_g2p.py:large --seeds 5

Three dense networks of one shape, and the large one pruned gradually, its attention left dense, to
the size of each smaller one: the same training, the same steps. `run_gradual_g2p.py` runs all three
together, holds them against each other and draws the curves.

Scaled to what one CPU core can do: 128 units at most where the paper's translation has 1024, two
layers instead of eight, 32 units of attention, and a training of little more than an epoch.
"""

from collections.abc import Callable, Sequence
from math import exp

from boxwood import Adam, Call, Experiment, Fit, Splits
from boxwood.data.pronunciations import LETTERS, PHONEMES, cmudict
from boxwood.recipes.gradual import Size, dense_training, gradual_pruning
from boxwood.recipes.phase import Recipe
from boxwood.recipes.phases.decode import Decode
from boxwood.recipes.phases.measure import Measure
from boxwood.report.statistics import bootstrap_ratio, paired_difference
from boxwood.report.study import Finding, Measurement, by_seed
from boxwood.train.losses import cross_entropy
from boxwood.train.optimizers import Drops
from boxwood.zoo.seq2seq import gnmt, outside_attention

LARGE, MEDIUM, SMALL = 128, 64, 40
MEASURE = Measure(loss=cross_entropy)
WRITTEN = "written"
DECODE = Decode(width=4, first=2500, label=WRITTEN)
SEEDS = 5
"""The fewest that the pass rule takes."""
TOLERANCE = 1.03
"""Perplexity that a network pruned to 80 % may have, in those of the dense one."""


def large(data: Callable[[], Splits] = cmudict, steps: int = 2500) -> Experiment:
    """The large network, dense and pruned: to each smaller one's non-zeros, to 80 %, and to bytes.

    At 80 % it takes no more bytes than the medium network, its bit-mask among them.
    """
    size, least = Size.of(_net(LARGE), outside_attention), Size.of(_net(SMALL), outside_attention)
    middle = Size.of(_net(MEDIUM), outside_attention)
    sparsities = {
        f"sparse, non-zeros of {MEDIUM}": size.sparsity_at(middle.total),
        f"sparse, non-zeros of {SMALL}": size.sparsity_at(least.total),
        "sparse 80 %": 0.8,
        f"sparse, bytes of {SMALL}": size.sparsity_at_bytes(4 * least.total),
    }
    branches: list[tuple[str, Recipe]] = [(f"dense {LARGE}", _dense(steps))]
    branches += [(name, _sparse(steps, sparsity)) for name, sparsity in sparsities.items()]
    return Experiment(model=_net(LARGE), data=data, branches=tuple(branches))


def medium(data: Callable[[], Splits] = cmudict, steps: int = 2500) -> Experiment:
    """The medium network, with half the units and a quarter of the weights."""
    return Experiment(model=_net(MEDIUM), data=data, branches=((f"dense {MEDIUM}", _dense(steps)),))


def small(data: Callable[[], Splits] = cmudict, steps: int = 2500) -> Experiment:
    """The small network, with a tenth of the weights."""
    return Experiment(model=_net(SMALL), data=data, branches=((f"dense {SMALL}", _dense(steps)),))


def _net(hidden: int) -> Call:
    return Call.of(
        gnmt,
        sources=len(LETTERS) + 1,
        classes=len(PHONEMES) + 1,
        hidden=hidden,
        layers=2,
        attention=32,
        dropout=0.0,
        reach=0.1,
    )


def _fit(steps: int) -> Fit:
    """The rate was chosen from 0.002, 0.005 and 0.01 by the validation loss of another seed's dense nets."""
    return Fit(
        steps=steps,
        batch=64,
        optimizer=Adam(lr=5e-3, fused=True),
        course=Drops(at=(0.6, 0.8, 0.9), factor=0.3),
        clip=1.0,
    )


def _dense(steps: int) -> Recipe:
    return (*dense_training(train=_fit(steps), measure=MEASURE), DECODE)


def _sparse(steps: int, sparsity: float) -> Recipe:
    # The window opens behind the first turmoil and closes where the learning rate first drops.
    pruned = gradual_pruning(
        train=_fit(steps),
        sparsity=sparsity,
        begin=steps // 1000 * 100,
        end=steps * 6 // 1000 * 100,
        every=100,
        where=outside_attention,
        measure=MEASURE,
    )
    return (*pruned, DECODE)
