"""The structural recipe: units go as masks, and stay gone through retraining."""

import torch
from torch import nn
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.deployment import load
from boxwood._internal.graph.scoring import score_units
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.phase import Genesis
from boxwood._internal.recipes.phases.prune_units import PruneUnits
from boxwood._internal.recipes.structural import slimming, structural
from boxwood._internal.runs.chain import keys
from boxwood._internal.runs.runner import run_recipe
from boxwood._internal.runs.store import Store
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.criteria import geometric_median, network_slimming, taylor_gate


def test_units_stay_gone_and_the_cut_network_computes_the_same(tmp_path):
    """After retraining, the network cut by its masks gives the outputs of the masked one."""
    training = Training(epochs=2, batch=60, optimizer=SGD(lr=0.05, momentum=0.9))
    start = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
    state = run_recipe(start, structural(training, training, 0.25), Store(tmp_path))
    assert {n: int(m.any(1).sum()) for n, m in state.masks.items() if m.dim() == 2} == {
        "fc1.weight": 75, "fc2.weight": 25, "fc3.weight": 10,
    }  # fmt: skip
    assert all(not state.weights[n][~m].any() for n, m in state.masks.items())
    assert state.facts["test"]["correct"] > 0.5 * state.facts["test"]["total"]
    net = lenet_300_100(inputs=64)
    net.load_state_dict(dict(state.weights))
    small = nn.Sequential(nn.Flatten())
    rows = torch.arange(64)
    for name in ("fc1", "fc2", "fc3"):
        layer, mask = net.get_submodule(name), state.masks[f"{name}.weight"]
        kept = mask.any(1).nonzero().view(-1)
        cut = nn.Linear(len(rows), len(kept))
        with torch.no_grad():
            cut.weight.copy_(layer.weight[kept][:, rows])
            cut.bias.copy_(layer.bias[kept])
        small += nn.Sequential(cut, *[nn.ReLU()] * (name != "fc3"))
        rows = kept
    x = digits().test.take(torch.arange(8))[0]
    assert torch.allclose(small(x), net(x), atol=1e-5)
    assert len(find_units(net, x)) == 400


def test_the_smaller_network_of_a_run_is_a_file(tmp_path):
    """Its masked units cut out, it computes what the masked network does."""
    training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.05))
    start = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
    recipe, store = structural(training, training, 0.25), Store(tmp_path / "store")
    state = run_recipe(start, recipe, store)
    key = keys(start, recipe)[-1]
    call = ["runs", "export", key[:12], "--store", str(store.root), "--out"]
    done = CliRunner().invoke(app, [*call, str(tmp_path / "small.safetensors"), "--cut"])
    assert done.output.endswith("7,035 of 50,610 parameters.\n"), done.output
    small = load(tmp_path / "small.safetensors", build=lambda: lenet_300_100(inputs=64))
    net = lenet_300_100(inputs=64)
    net.load_state_dict(dict(state.weights))
    x = digits().test.take(torch.arange(8))[0]
    assert torch.allclose(small.eval()(x), net.eval()(x), atol=1e-6)
    dense = CliRunner().invoke(
        app, [*call[:2], keys(start, recipe)[1][:12], *call[3:], "x", "--cut"]
    )
    assert "got none; give the key of a phase after the pruning" in str(dense.exception)


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def test_slimming_removes_the_filters_of_the_smallest_scales(tmp_path):
    """The penalty makes scales smaller, and the smallest of the whole network go."""
    training = Training(epochs=3, batch=60, optimizer=SGD(lr=0.1))
    start = Genesis(model=normed, data=digits)
    recipe = slimming(training, training, 0.5, l1=0.1)
    plain, dense, pruned = (
        run_recipe(start, each, Store(tmp_path))
        for each in (structural(training, training, 0.5)[:1], recipe[:1], recipe[:2])
    )
    scales = {n: dense.weights[f"{n}.weight"].abs() for n in (1, 4)}
    for name, scale in scales.items():
        assert scale.sum() < 0.8 * plain.weights[f"{name}.weight"].abs().sum()
    cut = torch.cat(list(scales.values())).sort().values[5]
    for (norm, scale), conv in zip(scales.items(), (0, 3), strict=True):
        kept = pruned.masks[f"{conv}.weight"].flatten(1).any(1)
        assert torch.equal(kept, scale >= cut), norm
    assert run_recipe(start, recipe, Store(tmp_path)).facts["test"]["total"] == 360


def test_criteria_of_filters_and_of_gradients_score_units(tmp_path):
    """One score per filter counts for the filters; what reads them has none."""
    net = normed().eval()
    x = torch.rand(2, 1, 8, 8)
    found = find_units(net, x)
    scale = {"norm_scale": {"0.weight": torch.arange(6.0), "3.weight": torch.arange(4.0)}}
    scores = score_units(found, network_slimming, evidence=scale, normalise=False)
    assert sorted(scores) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]
    by_median = score_units(found, geometric_median, normalise=False)
    first = next(g for g in found.groups if ("0.weight", 0) in g.axes)
    own = (
        geometric_median(net.get_parameter(n)) for n in ("0.weight", "0.bias", "1.weight", "1.bias")
    )
    expected = sum(each.detach().double().view(6) for each in own)
    assert torch.allclose(torch.from_numpy(by_median[first.units]), expected, atol=1e-5)
    training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
    start = Genesis(model=normed, data=digits)
    phases = (
        structural(training, training, 0.5)[0],
        PruneUnits(keep=0.5, criterion=taylor_gate, loss=cross_entropy, evidence=50),
    )
    assert run_recipe(start, phases, Store(tmp_path)).facts["kept"] == {
        "0.weight": 3,
        "3.weight": 2,
    }
