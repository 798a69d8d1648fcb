"""Networks of the gradual pruning paper: counts, non-zeros, and the recipe of Zaremba et al."""

import re

import pytest
import torch
from torch import nn

from boxwood._internal.core.call import Call
from boxwood._internal.core.policies import LayerByLayer
from boxwood._internal.core.schedules import Cubic, Linear, OneShot
from boxwood._internal.model.counting import count_layers
from boxwood._internal.recipes import gradual_networks
from boxwood._internal.recipes.gradual import (
    Size,
    at_the_end,
    dense_training,
    gradual_pruning,
    sparse_training,
)
from boxwood._internal.recipes.gradual_networks import LANGUAGE_MODEL, MOBILENET
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.language_models import LSTMLanguageModel
from boxwood._internal.zoo.mobilenet import mobilenet_v1
from boxwood._internal.zoo.torchvision_nets import inception_v3
from boxwood.errors import BoxwoodError


def millions(count: float) -> float:
    return round(count / 1e6, 2)


@pytest.mark.parametrize(
    ("width", "parameters"), [(0.25, 464_600), (0.5, 1_320_648), (0.75, 2_569_144), (1, 4_210_088)]
)
def test_mobilenet_has_the_papers_parameters(width: float, parameters: int) -> None:
    """0.46, 1.32, 2.57 and 4.21 million without norms, as the table of Zhu and Gupta says."""
    with torch.device("meta"):
        net = mobilenet_v1(width=width)
    found = sum(p.numel() for name, p in net.named_parameters() if "norm" not in name)
    assert found == parameters


@pytest.mark.parametrize(
    ("sparsity", "nonzero"), [(0.5, 2.13), (0.75, 1.09), (0.9, 0.46), (0.95, 0.25)]
)
def test_mobilenet_has_the_papers_nonzeros(sparsity: float, nonzero: float) -> None:
    """With pointwise convolutions and the last layer pruned, the table's non-zeros are left."""
    with torch.device("meta"):
        net = mobilenet_v1()
    norms = sum(p.numel() for name, p in net.named_parameters() if "norm" in name)
    size = Size.of(mobilenet_v1, MOBILENET)
    assert millions(size.total - norms - sparsity * size.prunable) == nonzero
    assert size.rest - norms - 1000 == 45_504  # the first convolution and the depthwise ones
    assert round(45_504 / (size.total - norms), 3) == 0.011


@pytest.mark.parametrize(
    ("sparsity", "nonzero"), [(0, 27.1), (0.5, 13.6), (0.75, 6.8), (0.875, 3.4)]
)
def test_inception_has_the_papers_nonzeros(sparsity: float, nonzero: float) -> None:
    """With the second classifier, and every layer pruned, the table's non-zeros are left."""
    pytest.importorskip("torchvision")
    size = Size.of(Call.of(inception_v3, auxiliary=True))
    assert size.total == 27_161_264
    assert abs((size.total - sparsity * size.prunable) / 1e6 - nonzero) < 0.07
    assert Size.of(inception_v3).total == 23_834_568


@pytest.mark.parametrize(
    ("row", "parameters", "paper"),
    [
        (gradual_networks.small(), 4_653_200, 4.6),
        (gradual_networks.medium(), 19_780_400, 19.8),
        (gradual_networks.large(), 66_034_000, 66.0),
    ],
)
def test_language_models_have_the_papers_parameters(
    row: gradual_networks.Row, parameters: int, paper: float
) -> None:
    """4.6, 19.8 and 66 million; all but the biases are pruned."""
    size = Size.of(row.model, row.layers)
    assert size.total == parameters
    assert abs(size.total / 1e6 - paper) <= 0.06  # the paper cuts 4.65 to 4.6
    assert size.rest < 0.003 * size.total


@pytest.mark.parametrize(
    ("row", "sparsity", "nonzero"),
    [
        (gradual_networks.medium(), 0.8, 4.0),
        (gradual_networks.medium(), 0.85, 3.0),
        (gradual_networks.medium(), 0.9, 2.0),
        (gradual_networks.medium(), 0.95, 1.0),
        (gradual_networks.large(), 0.8, 13.2),
        (gradual_networks.large(), 0.85, 9.9),
        (gradual_networks.large(), 0.9, 6.6),
        (gradual_networks.large(), 0.95, 3.3),
        (gradual_networks.large(), 0.975, 1.7),
    ],
)
def test_language_models_have_the_papers_nonzeros(
    row: gradual_networks.Row, sparsity: float, nonzero: float
) -> None:
    """Pruning embedding, LSTM and softmax leaves what the paper's table says."""
    size = Size.of(row.model, row.layers)
    assert abs((size.total - sparsity * size.prunable) / 1e6 - nonzero) <= 0.05


@pytest.mark.parametrize(
    ("row", "full", "factor", "first", "clip", "reach", "dropout"),
    [
        (gradual_networks.small(words=50), 4, 0.5, 20, 5, 0.1, 0.0),
        (gradual_networks.medium(words=50), 6, 1 / 1.2, 35, 5, 0.05, 0.5),
        (gradual_networks.large(words=3), 14, 1 / 1.15, 35, 10, 0.04, 0.65),
    ],
)
def test_the_recipe_of_zaremba(
    row: gradual_networks.Row,
    full: int,
    factor: float,
    first: int,
    clip: float,
    reach: float,
    dropout: float,
) -> None:
    """Rates fall epoch by epoch after those at the full one; steps are those of a summed loss."""
    training, per_epoch = row.train, 7
    epochs = training.epochs
    assert epochs is not None
    rates = [
        training.optimizer.lr_schedule(epoch * per_epoch, epochs * per_epoch)
        for epoch in range(epochs)
    ]
    assert rates == pytest.approx([factor ** max(0, e + 1 - full) for e in range(epochs)])
    assert (training.batch, training.optimizer.lr, training.regularisation.max_gradient_norm) == (
        20,
        first,
        pytest.approx(clip / first),
    )
    assert training.stateful
    net = row.model()
    assert isinstance(net, LSTMLanguageModel)
    assert (net.dropout.p, net.lstm.dropout) == (dropout, dropout)
    for parameter in net.parameters():
        assert float(parameter.detach().abs().max()) <= reach * (1 + 1e-6)


def test_layers_of_a_language_model_are_counted() -> None:
    """A weight of the LSTM or the softmax works once a word, one of the embedding never."""
    net = LSTMLanguageModel(words=11, hidden=3)
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in LANGUAGE_MODEL(net).items()}
    for mask in masks.values():
        mask[0] = True
    layers = count_layers(net, torch.zeros(2, 5, dtype=torch.int64), masks)
    assert [each.kind for each in layers] == ["Embedding", "LSTM", "Linear"]
    assert [each.weights for each in layers] == [33, 2 * 2 * 3 * 12, 33]
    assert [each.kept for each in layers] == [3, 4 * 3, 3]
    assert [each.multiply_adds for each in layers] == [0, 5 * 144, 5 * 33]
    assert [each.effective_multiply_adds for each in layers] == [0, 5 * 12, 5 * 3]


TRAINING = Training(steps=1000, batch=20, optimizer=SGD(lr=1.0))


def test_all_recipes_train_for_the_same_number_of_steps() -> None:
    """Pruning takes place inside the training, and takes no step of its own."""
    recipes = [
        dense_training(train=TRAINING),
        sparse_training(train=TRAINING, policy=LayerByLayer(final=0.5, end=600)),
        *(
            gradual_pruning(train=TRAINING, sparsity=0.8, begin=100, end=600, shape=shape)
            for shape in (Cubic, Linear, at_the_end)
        ),
    ]
    assert {recipe[0].training.steps for recipe in recipes} == {1000}
    ends = {recipe[0].training.pruning.policy.schedule(600) for recipe in recipes[2:]}
    assert ends == {0.8}
    assert isinstance(recipes[-1][0].training.pruning.policy.schedule, OneShot)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (
            (150, 600),
            "ends are multiples of every=100 steps, at which updates come, got 150 to 600",
        ),
        ((100, 650), "got 100 to 650; round them"),
        ((500, 1100), "within the 1000 steps of the training, got end=1100; end earlier"),
    ],
)
def test_windows_that_cannot_be(window: tuple[int, int], words: str) -> None:
    """A window that the training does not reach, or whose end no update meets, is refused."""
    with pytest.raises(BoxwoodError, match=words):
        gradual_pruning(train=TRAINING, sparsity=0.8, begin=window[0], end=window[1])


@pytest.mark.parametrize("nonzero", [6, 107])
def test_sizes_that_no_sparsity_has(nonzero: int) -> None:
    """Fewer non-zeros than stay dense, or more than there are, are refused."""
    words = (
        f"more than 6 non-zeros, which are never pruned, and at most 106, got {nonzero}; compare"
    )
    with pytest.raises(BoxwoodError, match=re.escape(words)):
        Size(prunable=100, rest=6).sparsity_at(nonzero)


def test_equal_bytes_are_equal() -> None:
    """Values of what is left and a bit for every prunable place take as much as asked for."""
    size = Size(prunable=80_000, rest=500)
    sparsity = size.sparsity_at_bytes(100_000)
    kept = (1 - sparsity) * size.prunable + size.rest
    assert 4 * kept + size.prunable / 8 == pytest.approx(100_000)


def test_mobilenet_without_filters() -> None:
    """A width that rounds to no filter is refused."""
    with pytest.raises(
        BoxwoodError, match=r"a width that leaves filters, got width=0\.01; the paper"
    ):
        mobilenet_v1(width=0.01)


def test_mobilenet_on_small_images() -> None:
    """Images of 28 pixels pass, whatever the stride of the first convolution."""
    for stride in (1, 2):
        net = mobilenet_v1(width=0.125, channels=1, classes=10, stride=stride)
        assert isinstance(net, nn.Module)
        assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
