"""The study of 1 x 4 blocks against single weights: networks, data and trainings.

    boxwood run experiments/blocks.py:experiment --set name=lenet --seeds 5

`run_blocks.py` runs all of it and compares the two.
"""

from collections.abc import Mapping
from functools import partial

from boxwood import Experiment
from boxwood._internal.recipes.gradual_networks import language_training
from boxwood.data import Splits, fashion_mnist, first_examples
from boxwood.granularity import Blocks, Elements, Granularity
from boxwood.networks import lenet_300_100, lstm_language_model, small_resnet
from boxwood.optim import Adam, StepDecay
from boxwood.phases import Measure
from boxwood.recipes import Call, dense_training, gradual_pruning
from boxwood.training import Training, cross_entropy
from boxwood_studies.brown import brown
from boxwood_studies.halved_images import halved

SPARSITIES = (0.7, 0.8, 0.9)
WAYS: Mapping[str, Granularity] = {"single": Elements(), "blocks": Blocks(1, 4)}
DENSE = "dense"
LEARNED, WORDS = 10_000, 1000
STEPS = {"lenet": 2000, "resnet": 400, "lstm": 600}
FALLING = StepDecay(fractions=(0.7, 0.85))


def small_images() -> Splits:
    """Fashion-MNIST of 14 pixels, with the first images to learn from."""
    return first_examples(partial(halved, fashion_mnist), LEARNED)


def experiment(name: str = "lenet") -> Experiment:
    """A dense training, and those that prune to each sparsity in each way."""
    steps = STEPS[name]
    images = Training(steps=steps, batch=64, optimizer=Adam(lr=2e-3, lr_schedule=FALLING))
    words = language_training(
        length=20, clip=5, steps=steps,
        lr_schedule=StepDecay(fractions=(0.6, 0.7, 0.8, 0.9), factor=0.5),
    )  # fmt: skip
    model, data, train = {
        "lenet": (lenet_300_100, fashion_mnist, images),
        "resnet": (small_resnet, small_images, images),
        "lstm": (
            Call.of(lstm_language_model, words=WORDS, hidden=64),
            Call.of(brown, words=WORDS, length=20),
            words,
        ),
    }[name]
    measure = Measure(loss=cross_entropy)
    tick = steps // 20
    branches = [(DENSE, dense_training(train=train, measure=measure))]
    for sparsity in SPARSITIES:
        for way, granularity in WAYS.items():
            recipe = gradual_pruning(
                train=train, sparsity=sparsity, begin=2 * tick, end=12 * tick, every=tick,
                granularity=granularity, measure=measure,
            )  # fmt: skip
            branches.append((f"{way} {sparsity:.0%}", recipe))
    return Experiment(model=model, data=data, branches=tuple(branches))
