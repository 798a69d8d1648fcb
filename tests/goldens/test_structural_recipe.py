"""The structural recipe: units go as masks, and stay gone through retraining."""

import torch
from torch import nn

from boxwood.core.spec import Call
from boxwood.data.digits import digits
from boxwood.graph.units import units
from boxwood.recipes.phase import Genesis
from boxwood.recipes.structural import structural
from boxwood.runs.runner import run
from boxwood.runs.store import Store
from boxwood.train.loop import Fit
from boxwood.train.optimizers import SGD
from boxwood.zoo.lenet import lenet_300_100


def test_units_stay_gone_and_the_cut_network_computes_the_same(tmp_path):
    """After retraining, the network cut by its masks gives the outputs of the masked one."""
    fit = Fit(epochs=2, batch=60, optimizer=SGD(lr=0.05, momentum=0.9))
    start = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
    state = run(start, structural(fit, fit, 0.25), Store(tmp_path))
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
    assert len(units(net, x)) == 400
