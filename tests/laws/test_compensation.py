"""Compensation: refitted readers give back accuracy that surgery took, without retraining."""

import pytest
import torch
from torch import nn

from boxwood.data.digits import digits
from boxwood.graph.compensate import compensate, reestimate_batch_norm_
from boxwood.graph.units import units
from boxwood.graph.verify import shrink
from boxwood.train.loop import Fit, fit_
from boxwood.train.metrics import accuracy
from boxwood.train.optimizers import Adam

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
    fit_(net, data.train, Fit(epochs=12, batch=64, optimizer=Adam(lr=0.003)), seed=0)
    return net.eval(), data


@pytest.mark.parametrize("fraction", [0.7, 0.5])
def test_least_squares_beats_dropping(trained, fraction):
    """Refit and new batch statistics recover most of what dropping filters loses."""
    net, data = trained
    inputs, _ = data.train.take(torch.arange(400))
    keep = units(net, inputs[:2]).keep_best(fraction)
    small = shrink(net, keep)
    dense = accuracy(net, data.test).fraction
    dropped = accuracy(small, data.test).fraction
    mean = accuracy(compensate(net, small, keep, [inputs], refit=False), data.test).fraction
    fitted = accuracy(compensate(net, small, keep, [inputs]), data.test).fraction
    assert dense > 0.93
    assert fitted > dropped + 0.5 * (dense - dropped)
    assert fitted >= mean - 0.02


def test_what_is_whole_stays(trained):
    """The original and the small network are not touched, and refitting changes only readers."""
    net, data = trained
    inputs, _ = data.train.take(torch.arange(64))
    keep = units(net, inputs[:2]).keep_best(0.5)
    small = shrink(net, keep)
    before = {k: v.clone() for k, v in small.state_dict().items()}
    original = {k: v.clone() for k, v in net.state_dict().items()}
    compensate(net, small, keep, [inputs])
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
    found = units(net, x)
    import numpy as np

    from boxwood.graph.keep import Keep

    kept = np.ones(len(found), dtype=bool)
    group = next(g for g in found.groups if g.name == "0.weight")
    kept[group.units[2]] = False
    keep = Keep(found, kept)
    repaired = compensate(net, shrink(net, keep), keep, [x], ridge=1e-12)
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
