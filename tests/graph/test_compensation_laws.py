"""Compensation: refitted readers give back accuracy that surgery took, without retraining."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from boxwood._internal.data.digits import digits
from boxwood._internal.graph.compensate import compensate, reestimate_batch_norm_
from boxwood._internal.graph.reparametrised import baked, reparametrised
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.train.loop import train_
from boxwood._internal.train.metrics import accuracy
from boxwood._internal.train.optimizers import Adam
from boxwood._internal.train.settings import Training
from boxwood.errors import BoxwoodError, TooFewExamples

pytest.importorskip("sklearn")


def conv_net(*, norm: bool) -> nn.Module:
    widths = [1, 16, 32, 32]
    layers: list[nn.Module] = []
    for place in range(3):
        layers.append(nn.Conv2d(widths[place], widths[place + 1], 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(widths[place + 1])] * norm + [nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * (place < 2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


@pytest.fixture(scope="module", params=[True, False], ids=["batch norm", "no norm"])
def trained(request):
    """A network trained for a few seconds on digits."""
    torch.manual_seed(0)
    net, data = conv_net(norm=request.param), digits()
    train_(net, data.train, Training(epochs=12, batch=64, optimizer=Adam(lr=0.003)), seed=0)
    return net.eval(), data


@pytest.mark.parametrize("fraction", [0.7, 0.5])
def test_least_squares_beats_dropping(trained, fraction):
    """Refit and new batch statistics recover most of what dropping filters loses."""
    net, data = trained
    inputs, _ = data.train.take(torch.arange(400))
    selection = select_units(find_units(net, inputs[:2]), fraction)
    small = shrink(net, selection)
    dense = accuracy(net, data.test).fraction
    dropped = accuracy(small, data.test).fraction
    mean = accuracy(compensate(net, small, selection, [inputs], refit=False), data.test).fraction
    fitted = accuracy(compensate(net, small, selection, [inputs]), data.test).fraction
    assert dense > 0.93
    assert fitted > dropped + 0.5 * (dense - dropped)
    assert fitted >= mean - 0.02


def test_what_is_whole_stays(trained):
    """The original and the small network are not touched, and refitting changes only readers."""
    net, data = trained
    inputs, _ = data.train.take(torch.arange(64))
    selection = select_units(find_units(net, inputs[:2]), 0.5)
    small = shrink(net, selection)
    before = {k: v.clone() for k, v in small.state_dict().items()}
    original = {k: v.clone() for k, v in net.state_dict().items()}
    compensate(net, small, selection, [inputs])
    assert all(torch.equal(v, before[k]) for k, v in small.state_dict().items())
    assert all(torch.equal(v, original[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, dilation=2)])
def test_a_redundant_channel_costs_nothing(layer):
    """Where a removed channel is a mixture of kept ones, the refitted network equals the original."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        first.weight[2], first.bias[2] = first.weight[0] + 2 * first.weight[1], 0.5
        first.bias[:2] = 0
    net = nn.Sequential(first, layer, nn.Flatten()).double().eval()
    x = torch.randn(40, 3, 9, 9, dtype=torch.float64)
    found = find_units(net, x)
    import numpy as np

    from boxwood._internal.graph.selection import UnitSelection

    kept = np.ones(len(found), dtype=bool)
    group = next(g for g in found.groups if g.name == "0.weight")
    kept[group.units[2]] = False
    selection = UnitSelection(found, kept)
    repaired = compensate(net, shrink(net, selection), selection, [x], ridge=1e-12)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    got, wanted = (nn.Sequential(*list(n)[:-1])(x)[inner] for n in (repaired, net))
    # Only the padding, where a constant is not constant, keeps the two apart.
    assert (got - wanted).abs().max() < (1e-5 if layer.padding == (0, 0) else 0.3)


def test_batch_statistics_are_averages():
    """Two batches of one size give the mean of their means."""
    net = nn.BatchNorm1d(1).eval()
    reestimate_batch_norm_(net, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    assert net.running_mean.item() == 4
    assert not net.training
    assert net.momentum == 0.1


def small_of(norm=True, width=16):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))
    net = net if norm else nn.Sequential(net[0], net[2], net[3])
    x = torch.randn(65, 6)
    net(x)
    return net.eval(), x


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, _ = small_of()

    def forward(self, x, scale=1.0):
        return self.net(x) * scale


def weights_of(net):
    return torch.cat([each.flatten().double() for each in net.state_dict().values()])


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: [x, y],
        lambda x, y: (x, y),
        lambda x, y: (x,),
        lambda x, y: x,
    ],
    ids=["list", "pair", "alone in a tuple", "alone"],
)
def test_batches_of_loaders(form):
    """Inputs with targets give what inputs alone give, for a network that takes one tensor."""
    net, x = small_of()
    selection = select_units(find_units(net, x), 0.5)
    small, y = shrink(net, selection), torch.zeros(32)
    wanted = compensate(net, small, selection, [x[:32], x[32:64]])
    got = compensate(net, small, selection, iter([form(x[:32], y), form(x[32:64], y)]))
    assert torch.equal(weights_of(got), weights_of(wanted))


@pytest.mark.parametrize(
    ("example", "form"),
    [
        ({"x": 0}, lambda x, y: {"x": x, "labels": y}),
        ({"x": 0}, lambda x, y: ({"x": x}, y)),
        ({"x": 0, "scale": 2.0}, lambda x, y: [x, y]),
        ((0, 2.0), lambda x, y: [x, y]),
        ((0, 2.0), lambda x, y: (x, 2.0)),
    ],
)
def test_batches_are_read_as_the_example(example, form):
    """Names, order and constants are the example's."""
    net, (_, x) = Named().eval(), small_of()
    put = {0: x[:2]}
    traced = (
        {k: put.get(v, v) for k, v in example.items()}
        if isinstance(example, dict)
        else tuple(put.get(v, v) for v in example)
    )
    selection = select_units(find_units(net, traced), 0.5)
    small = shrink(net, selection)
    scale = 2.0 if 2.0 in (example.values() if isinstance(example, dict) else example) else 1.0
    wanted = compensate(net, small, selection, [{"x": x, "scale": scale}] * isinstance(example, dict)
                        or [(x, scale)])  # fmt: skip
    got = compensate(net, small, selection, [form(x, torch.zeros(65))])
    assert torch.equal(weights_of(got), weights_of(wanted))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": torch.ones(2, 6), "label": 1}, r"begin with a Tensor, .* a dict, with image, l"),
        ([1, 2], r"begin with a Tensor, as the example is, got a list"),
        (torch.ones(2, 5), r"takes, got one of \(2, 5\), on which it fails \(RuntimeError: mat1"),
    ],
)
def test_batches_that_do_not_fit(batch, message):
    """The form, or what the network says, and the way out."""
    net, x = small_of()
    selection = select_units(find_units(net, x), 0.5)
    with pytest.raises(BoxwoodError, match=message):
        compensate(net, shrink(net, selection), selection, [batch])


def test_a_last_batch_of_one():
    """Statistics are of all values in batches that have a variance, each with the same weight."""
    net, x = small_of()
    selection = select_units(find_units(net, x), 0.5)
    small = shrink(net, selection)
    repaired = compensate(net, small, selection, list(x.split(32)), refit=False)
    by_hand = repaired[0](x[:64])
    assert torch.allclose(repaired[1].running_mean, by_hand.mean(0), atol=1e-6)
    with pytest.raises(BoxwoodError, match="got only single ones, which have no variance"):
        compensate(net, small, selection, [x[:1]])


def test_batches_of_any_size_weigh_by_their_values():
    """A batch of two counts a tenth of one of twenty; what is never called keeps its statistics."""
    net = nn.ModuleList([nn.BatchNorm1d(1), nn.BatchNorm1d(1)]).eval()
    net[1].running_mean.fill_(7)
    net.forward = lambda x: net[0](input=x)
    x = torch.arange(22.0)[:, None]
    reestimate_batch_norm_(net, [x[:20], x[20:]])
    assert torch.allclose(net[0].running_mean, x.mean(0))
    assert net[1].running_mean.item() == 7


class Squeezes(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, _ = small_of(norm=False)

    def forward(self, x):
        return self.net[2](self.net[:2](x).squeeze())


def test_a_last_row_that_is_squeezed():
    """A batch of one loses its axis on the way, and its row still counts."""
    net, (_, x) = Squeezes().eval(), small_of()
    selection = select_units(find_units(net, x), 0.5)
    small = shrink(net, selection)
    whole = compensate(net, small, selection, [x])
    parts = compensate(net, small, selection, list(x.split(32)))
    assert torch.allclose(weights_of(whole), weights_of(parts), atol=1e-6)


class Tied(nn.Module):
    """Reads with the matrix that its head writes with, as language models do."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(12, 6), nn.Linear(6, 6)
        self.out, self.head = nn.Linear(6, 6), nn.Linear(6, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids)
        return self.head(x + self.out(self.hidden(x).relu()))


def test_a_head_that_shares_its_matrix_with_the_embedding_is_left_alone():
    """Refitted to what the head should say, the embedding would say something else to all layers."""
    torch.manual_seed(0)
    net, ids = Tied().eval(), torch.arange(60).view(6, 10) % 12
    selection = select_units(find_units(net, ids), 0.5)
    small = shrink(net, selection)
    better = compensate(net, small, selection, [ids])
    assert better.head.weight is better.embedding.weight
    assert torch.equal(better.head.weight, small.head.weight)
    assert not torch.equal(better.out.weight, small.out.weight)
    lost, left = ((each(ids) - net(ids)).square().mean() for each in (small, better))
    assert left < lost


@pytest.mark.filterwarnings("ignore:Expected weights that are the same function of fewer")
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "special",
    [
        parametrizations.weight_norm,
        nn.utils.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.identity(prune.identity(layer, "weight"), "bias"),
    ],
    ids=["weight norm", "old weight norm", "spectral norm", "masks of ones"],
)
def test_weights_that_are_computed_are_refitted(special):
    """The repaired network computes what that with ordinary weights does, from its own tensors."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), special(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    x = torch.randn(200, 6)
    selection = select_units(find_units(net, x), 0.5)
    small = shrink(net, selection)
    repaired = compensate(net, small, selection, [x])
    plain = baked(net)
    alike = UnitSelection(find_units(plain, x), selection.kept)
    wanted = compensate(plain, shrink(plain, alike), alike, [x])
    with torch.no_grad():
        assert torch.allclose(repaired(x), wanted(x), atol=1e-5)
        assert not torch.allclose(repaired(x), small(x), atol=1e-3)
    assert reparametrised(repaired) == reparametrised(small)


def test_masked_weights_stay_masked():
    """A layer with zeros in its mask is left as it is; the next one makes up for what it can."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.random_unstructured(net[2], "weight", 0.3)
    x = torch.randn(200, 6)
    selection = select_units(find_units(net.eval(), x), 0.5)
    small = shrink(net, selection)
    repaired = compensate(net, small, selection, [x])
    assert torch.equal(repaired[2].weight, small[2].weight)
    assert not torch.equal(repaired[4].weight, small[4].weight)


@pytest.mark.parametrize(("rows", "warned"), [(4, True), (5, False)])
def test_fewer_rows_than_unknowns_are_warned_of(rows: int, warned: bool) -> None:
    """Four weights and a bias need five rows; a convolution has one for each of its positions."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    selection = select_units(find_units(net, torch.ones(1, 3)), 0.5)
    small, data = shrink(net, selection), [torch.randn(rows, 3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compensate(net, small, selection, data)
    assert [each.category for each in caught] == [TooFewExamples] * warned
