"""Multiply-adds, weights and activities against the tables of Han et al. 2015 and torch's own."""

from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from boxwood._internal.model.counting import (
    LayerCount,
    count_layers,
    count_nonzero,
    count_parameters,
)
from boxwood._internal.model.evidence.activations import input_norm
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.prunable import Named
from boxwood.errors import BoxwoodError


def lenet_300_100() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, 300), nn.ReLU()),
        *(nn.Linear(300, 100), nn.ReLU()),
        nn.Linear(100, 10),
    )


def lenet_5() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


def flops(model: nn.Module, example: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    return counter.get_total_flops()


def total(layers: tuple[LayerCount, ...]) -> int:
    return sum(layer.multiply_adds for layer in layers)


def test_lenet_300_100_as_the_paper_counts_it():
    """Table 2: 235K, 30K and 1K weights, and as many multiply-adds: 266,200, or 532K FLOPs."""
    layers = count_layers(lenet_300_100(), torch.rand(2, 1, 28, 28))
    assert [layer.weights for layer in layers] == [235_200, 30_000, 1_000]
    assert [layer.multiply_adds for layer in layers] == [235_200, 30_000, 1_000]
    assert 2 * total(layers) == 532_400
    assert count_parameters(lenet_300_100()) == 266_610


def test_lenet_5_as_the_paper_counts_it():
    """Table 3: 576K, 3200K, 800K and 10K FLOPs are 288K, 1600K, 400K and 5K multiply-adds."""
    layers = count_layers(lenet_5(), torch.rand(2, 1, 28, 28))
    assert [layer.weights for layer in layers] == [500, 25_000, 400_000, 5_000]
    assert [layer.multiply_adds for layer in layers] == [288_000, 1_600_000, 400_000, 5_000]
    assert [layer.kind for layer in layers] == ["Conv2d", "Conv2d", "Linear", "Linear"]
    assert count_parameters(lenet_5()) == 431_080


def test_kept_weights_count_at_their_positions():
    """One kept weight of a convolution does one multiply-add per output position."""
    net = nn.Sequential(nn.Conv2d(1, 20, 5), nn.Flatten(), nn.Linear(11520, 10))
    mask = torch.zeros(20, 1, 5, 5, dtype=torch.bool)
    mask[3, 0, 1, 2] = mask[7, 0, 0, 0] = True
    conv, fc = count_layers(net, torch.rand(3, 1, 28, 28), {"0.weight": mask})
    assert (conv.kept, conv.effective_multiply_adds) == (2, 2 * 576)
    assert (fc.kept, fc.effective_multiply_adds) == (fc.weights, fc.multiply_adds)
    assert count_nonzero(net, {"0.weight": mask}) == count_parameters(net) - 498


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (
            nn.Sequential(
                nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
                nn.ReLU(),
                nn.Conv2d(6, 6, (3, 2), dilation=(1, 2), groups=6, bias=False),
                nn.Flatten(),
                nn.Linear(6 * 4 * 4, 5),
            ),
            (4, 12, 12),
        ),
        (nn.Sequential(nn.Conv1d(4, 6, 3, stride=2), nn.Linear(5, 2)), (4, 12)),
        (nn.Conv3d(2, 4, (1, 2, 3), padding=1, groups=2), (2, 4, 5, 6)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (4, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5, 6)),
        (nn.ConvTranspose3d(2, 4, 2, groups=2), (2, 3, 4, 5)),
        (nn.Linear(5, 3), (7, 2, 5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_dense_counts_are_half_of_torch_flops(net, shape):
    """Multiply-adds per example are half of FlopCounterMode's FLOPs, whatever the batch."""
    assert 2 * total(count_layers(net, torch.rand(1, *shape))) == flops(net, torch.rand(1, *shape))
    assert total(count_layers(net, torch.rand(3, *shape))) == total(
        count_layers(net, torch.rand(1, *shape))
    )


def test_activities_by_hand():
    """Act% of a layer is what the next layer receives, and the first layer's input counts as 1."""
    net = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(2, 4, bias=False), relu=nn.ReLU(), fc2=nn.Linear(4, 1, bias=False)
        )
    )
    with torch.no_grad():
        net.fc1.weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [1, 1]]))
        net.fc2.weight.fill_(1)
    masks = {
        "fc1.weight": torch.tensor([[True, False], [True, True], [True, True], [False, False]]),
        "fc2.weight": torch.tensor([[True, False, True, False]]),
    }
    fc1, fc2 = count_layers(net, torch.tensor([[1.0, 0], [2.0, 3.0]]), masks)
    # Behind ReLU, of the masked net: (1, 0, 0, 0) and (2, 0, 3, 0).
    assert (fc1.input_activity, fc1.output_activity) == (3 / 4, 3 / 8)
    assert fc1.han_flops_kept == 5 / 8
    assert (fc2.input_activity, fc2.output_activity) == (3 / 8, 1.0)
    assert fc2.han_flops_kept == 1 / 2 * 3 / 8


def test_flop_percentages_follow_from_activities_as_in_the_tables():
    """FLOP%(i) = weights%(i) · Act%(i - 1) through pooling and flattening, measured on LeNet-5."""
    net = lenet_5()
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(parameter.shape, generator=generator) < 0.2
        for name, parameter in net.named_parameters()
        if parameter.ndim > 1
    }
    layers = count_layers(net, torch.rand(4, 1, 28, 28, generator=generator), masks)
    assert layers[0].han_flops_kept == layers[0].kept / layers[0].weights
    for before, layer in pairwise(layers):
        assert layer.input_activity == before.output_activity
        assert layer.han_flops_kept == layer.kept / layer.weights * before.output_activity
    assert layers[2].output_activity < 0.9
    assert layers[3].output_activity == 1.0


def test_the_tables_of_the_paper_obey_the_same_relation():
    """FLOP% is weights% times the Act% of the layer above, to a rounded percent, in tables 2 to 4."""
    lenet_300_100 = [(8, 38, 8), (9, 65, 4), (26, 100, 17)]
    lenet_5 = [(66, 82, 66), (12, 72, 10), (8, 55, 6), (19, 100, 10)]
    alexnet = [
        *((84, 88, 84), (38, 52, 33), (35, 37, 18), (37, 40, 14), (37, 34, 14)),
        *((9, 36, 3), (9, 40, 3), (25, 100, 10)),
    ]
    for table in (lenet_300_100, lenet_5, alexnet):
        activities = [100, *(activity for _, activity, _ in table)]
        for (weights, _, flop), above in zip(table, activities, strict=False):
            assert abs(weights * above / 100 - flop) < 1


class Recurrent(nn.Module):
    """One layer run three times, after one that is passed its input by name."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(3, 4)
        self.again = nn.Linear(4, 4)
        self.unused = nn.Linear(9, 9)

    def forward(self, x):
        x = self.start(input=x)
        for _ in range(3):
            x = torch.relu(self.again(x))
        return x


def test_a_layer_that_runs_three_times_adds_up():
    """Calls of one module add up, and a module that is not called is left out."""
    start, again = count_layers(Recurrent(), torch.rand(2, 3))
    assert (start.multiply_adds, again.weights, again.multiply_adds) == (12, 16, 48)


def test_tied_weights_take_the_mask_of_either_name():
    """Two layers that share a weight are both masked by a mask for one of them."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    mask = torch.eye(3).bool()
    for name in ("0.weight", "1.weight"):
        assert [layer.kept for layer in count_layers(net, torch.rand(1, 3), {name: mask})] == [3, 3]
        assert count_nonzero(net, {name: mask}) == 9 + 6 - 6


def test_counting_leaves_the_model_as_it_was():
    """Modes, weights and hooks are unchanged, also after a pass that fails."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout().eval(), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count_layers(net, torch.rand(4, 3), {"0.weight": torch.zeros(2, 3, dtype=torch.bool)})
    with pytest.raises(RuntimeError, match="shapes"):
        count_layers(net, torch.rand(4, 5))
    assert [module.training for module in net.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_wrong_input_is_refused_with_the_way_out():
    """No weight layer, no batch axis and masks that do not fit are refused."""
    with pytest.raises(BoxwoodError, match="runs a linear or convolution layer, got one that runs"):
        count_layers(nn.ReLU(), torch.rand(1, 2))
    with pytest.raises(BoxwoodError, match=r"Expected a batch to enter ''.*unsqueeze"):
        count_layers(nn.Linear(3, 2), torch.rand(3))
    with pytest.raises(BoxwoodError, match="Expected a batch to enter '0'"):
        count_layers(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.rand(1, 4, 4))
    for name, mask, words in (
        ("wieght", torch.ones(2, 3).bool(), "named after parameters"),
        ("weight", torch.ones(2, 3), "Expected a bool mask of shape"),
        ("weight", torch.ones(3, 2).bool(), "Expected a bool mask of shape"),
    ):
        with pytest.raises(BoxwoodError, match=words):
            count_layers(nn.Linear(3, 2), torch.rand(1, 3), {name: mask})


def test_attention_counts_its_projections() -> None:
    """Four projections, each as often as what it reads is long; as linear layers would be."""
    attend = nn.MultiheadAttention(6, 2, kdim=4, vdim=3, batch_first=True)

    class Reading(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x, x[..., :4].repeat(1, 2, 1), x[..., :3].repeat(1, 2, 1))[0]

    (layer,) = count_layers(Reading(attend), torch.rand(2, 5, 6))
    assert layer.weights == 6 * 6 + 6 * 4 + 6 * 3 + 6 * 6
    assert layer.multiply_adds == 5 * 36 + 10 * 24 + 10 * 18 + 5 * 36
    together = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    mask = torch.zeros(18, 6, dtype=torch.bool)
    mask[:6] = True  # the queries alone
    layers = count_layers(together, torch.rand(2, 5, 6), {"self_attn.in_proj_weight": mask})
    assert [each.name for each in layers] == ["self_attn", "linear1", "linear2"]
    assert [each.multiply_adds for each in layers] == [5 * 4 * 36, 5 * 48, 5 * 48]
    assert layers[0].effective_multiply_adds == 5 * 2 * 36
    assert layers[0].kept == 2 * 36


def test_cells_and_bilinear_layers() -> None:
    """A cell counts once per call, a bilinear layer once per row."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.pair = nn.GRUCell(3, 4), nn.Bilinear(4, 4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.cell(x, self.cell(input=x))
            return self.pair(hidden, hidden)

    cell, pair = count_layers(Twice(), torch.rand(5, 3))
    assert (cell.weights, cell.multiply_adds) == (12 * 7, 2 * 12 * 7)
    assert (pair.weights, pair.multiply_adds) == (32, 32)


def test_linear_layers_of_transformers() -> None:
    """A matrix that lies the other way does the same work."""
    utils = pytest.importorskip("transformers.pytorch_utils")
    example = torch.rand(2, 7, 4)
    plain, other = nn.Linear(4, 6), utils.Conv1D(6, 4)
    figures = [
        (c.weights, c.multiply_adds) for net in (plain, other) for c in count_layers(net, example)
    ]
    assert figures == [(24, 7 * 24)] * 2


class Padded(nn.Module):
    """An encoder that is told which positions are padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x, src_key_padding_mask=torch.arange(5).expand(len(x), 5) > 2)


def test_an_encoder_with_padding_calls_its_layers() -> None:
    """Torch's fused encoder would leave padding out by nested tensors; its setting comes back."""
    net, example = Padded().eval(), torch.rand(2, 5, 6)
    layers = count_layers(net, example)
    assert [each.multiply_adds for each in layers] == [5 * 4 * 36, 5 * 48, 5 * 48]
    weights = Named(("encoder.layers.*.linear*.weight",))(net)
    norms = input_norm(Calibration(net, weights, [example]))
    read: list[torch.Tensor] = []
    first = net.encoder.layers[0].linear1
    first.register_forward_pre_hook(lambda _, args: read.append(args[0].detach()))
    with torch.enable_grad():  # the path that torch takes in training
        net(example)
    expected = read[0].flatten(0, 1).square().sum(0, keepdim=True).sqrt()
    torch.testing.assert_close(norms["encoder.layers.0.linear1.weight"], expected)
    assert torch.backends.mha.get_fastpath_enabled()
