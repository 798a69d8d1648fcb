"""The study of Zhu and Gupta (2017): a large sparse network against a small dense one.

    boxwood run experiments/gradual.py:language_model --set hidden=64 --seeds 3

`run_gradual.py` runs the networks of all sizes, compares those with as many non-zeros or as many
bytes, and draws the curves. All networks of a study train for the same number of steps.

CPU time of `language_model` on one core, all sizes and controls: some 80 minutes a seed, five seeds, or
as much less as `--steps` is fewer (not run yet; the committed results are those of 16, 32 and 64 units in one epoch, whose late window
was not after the decay).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from boxwood import Experiment
from boxwood._internal.recipes.gradual_networks import LANGUAGE_MODEL, MOBILENET, language_training
from boxwood._internal.report.study import facts_by_seed
from boxwood._internal.report.verdicts import SMALLEST_GAIN, SMALLEST_GAIN_IN_LOSS, compared
from boxwood.data import Splits
from boxwood.layers import Layers
from boxwood.networks import lstm_language_model, mobilenet_v1
from boxwood.optim import SGD, StepDecay
from boxwood.phases import Measure
from boxwood.recipes import Call, Phase, Recipe, Size, at_the_end, dense_training, gradual_pruning
from boxwood.runs import Finding, Measurement
from boxwood.schedules import Linear
from boxwood.training import Training, cross_entropy
from boxwood_studies.brown import brown
from boxwood_studies.glyphs import accents
from boxwood_studies.memory_layout import channels_last

DENSE, AS, BYTES = "dense", "as", "bytes of"
LINEAR, ONE_SHOT, LATE = "linear", "one-shot", "late"

LENGTH = 20
UNITS = (32, 64, 128)
WIDTHS = (0.1875, 0.25, 0.375)


@dataclass(frozen=True)
class Window:
    """When the sparsity rises, in steps.

    Args:
        begin: of the rise.
        end: of the rise.
        every: steps between updates.
    """

    begin: int
    end: int
    every: int


def language_model(
    hidden: int = UNITS[-1],
    words: int = 1000,
    steps: int = 20_000,
    dropout: float = 0.2,
    data: Callable[[], Splits] | None = None,
) -> Experiment:
    """Train the stacked LSTM on the Brown corpus; the largest is pruned to the size of the others.

    Scaled: 32, 64 and 128 units in the place of 200, 650 and 1500, a vocabulary of 1,000 words, about
    nine epochs. The rest is the recipe of the small model: rows of 20 words at 20 places, a rate of 1
    that is halved five times in the second half, gradients limited to 5. Pruning takes place between
    a tenth and a half of the steps, at the full rate; ``late`` between 90 and 97 %, after the last
    halving. The ``dropout`` is to be tuned by validation of the largest dense network on a seed
    outside the study (0, 0.1, 0.2 and 0.4). Other ``data`` have a vocabulary of ``words`` too.
    """
    train = language_training(
        length=LENGTH,
        clip=5,
        lr_schedule=StepDecay(fractions=(0.5, 0.6, 0.7, 0.8, 0.9), factor=0.5),
        steps=steps,
    )
    tick = max(1, steps // 100)
    early = Window(10 * tick, 50 * tick, 2 * tick)
    late = Window(90 * tick, 97 * tick, tick)
    measure = Measure(loss=cross_entropy)
    model = _language_model(hidden, words, dropout)
    branches = [(f"{DENSE} {hidden}", dense_training(train=train, measure=measure))]
    if hidden == UNITS[-1]:
        size = Size.of(model, LANGUAGE_MODEL)
        smaller = [(str(units), _language_model(units, words, dropout)) for units in UNITS[:-1]]
        add = _Pruned(train, early, LANGUAGE_MODEL, measure)
        branches += add.to_size_of(smaller, size)
        branches.append(("80 %", add(0.8)))
        least = size.sparsity_at(Size.of(smaller[0][1], LANGUAGE_MODEL).total)
        branches += [
            (f"{AS} {smaller[0][0]} {LINEAR}", add(least, shape=Linear)),
            (f"{AS} {smaller[0][0]} {ONE_SHOT}", add(least, shape=at_the_end)),
            (f"{AS} {smaller[0][0]} {LATE}", add(least, window=late)),
        ]
    return Experiment(
        model=model,
        data=data or Call.of(brown, words=words, length=LENGTH),
        branches=tuple(branches),
    )


def mobilenet(
    width: float = WIDTHS[-1],
    steps: int = 2000,
    data: Callable[[], Splits] = accents,
) -> Experiment:
    """Train MobileNet-v1 on accented letters; the widest is pruned to the size of the others.

    Scaled: images of 28 pixels, 127 classes, at most three eighths of the width, 2,000 steps of 64
    images (six epochs). The rate of 0.1 falls to a tenth twice, at 70 and 90 % of the steps; pruning
    is over at 60 %. On the ten classes of Fashion-MNIST wider networks are hardly better. CPU time:
    some 5 minutes a seed.
    """
    train = Training(
        steps=steps,
        batch=64,
        optimizer=SGD(
            lr=0.1, momentum=0.9, weight_decay=1e-4, lr_schedule=StepDecay(fractions=(0.7, 0.9))
        ),
    )
    window = Window(steps // 10, steps // 10 * 6, steps // 20)
    classes = data().classes
    model = _mobilenet(width, classes)
    measure = Measure(loss=cross_entropy)
    branches = [(f"{DENSE} {width}", dense_training(train=train, measure=measure))]
    if width == WIDTHS[-1]:
        add = _Pruned(train, window, MOBILENET, measure)
        smaller = [(str(each), _mobilenet(each, classes)) for each in WIDTHS[:-1]]
        branches += add.to_size_of(smaller, Size.of(model, MOBILENET))
    return Experiment(model=model, data=data, branches=tuple(branches))


@dataclass(frozen=True)
class _Pruned:
    """Recipes that prune one network while it trains."""

    train: Training
    window: Window
    layers: Layers
    measure: Phase

    def __call__(self, sparsity: float, *, window: Window | None = None, **shape: object) -> Recipe:
        window = window or self.window
        return gradual_pruning(
            train=self.train,
            sparsity=sparsity,
            begin=window.begin,
            end=window.end,
            every=window.every,
            layers=self.layers,
            measure=self.measure,
            **shape,
        )

    def to_size_of(
        self, smaller: Sequence[tuple[str, Callable[..., object]]], size: Size
    ) -> list[tuple[str, Recipe]]:
        """Prune to as many non-zeros, and to as many bytes, as each smaller network has."""
        branches = []
        for name, model in smaller:
            total = Size.of(model, self.layers).total
            branches.append((f"{AS} {name}", self(size.sparsity_at(total))))
            branches.append((f"{BYTES} {name}", self(size.sparsity_at_bytes(4 * total))))
        return branches


def _language_model(hidden: int, words: int, dropout: float) -> Call:
    return Call.of(lstm_language_model, words=words, hidden=hidden, dropout=dropout)


def _mobilenet(width: float, classes: int) -> Call:
    net = Call.of(mobilenet_v1, width=width, channels=1, classes=classes)
    return Call.of(channels_last, net=net)


def loss(measured: Measurement) -> float:
    """Mean test loss, in nats a word."""
    return float(measured.facts["test"]["loss"])


def better(
    measured: Sequence[Measurement], one: str, other: str, what: str, claim: str = ""
) -> Finding:
    """Whether one network is better than another, by accuracy or by the loss."""
    claim = claim or f"{one!r} is better than {other!r}"
    a, b = facts_by_seed(measured, one), facts_by_seed(measured, other)
    if what == "loss":
        terms = [(-1.0, a), (1.0, b)]
        least = SMALLEST_GAIN_IN_LOSS
        return compared(
            claim, terms, smallest_gain=least, what=what, scale=1.0, unit="nats", digits=4
        )
    return compared(claim, [(1.0, a), (-1.0, b)], smallest_gain=SMALLEST_GAIN)
