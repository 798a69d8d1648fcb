"""The optimizer's state is cut as the weights are, or refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

from boxwood._internal.graph.carrying import carry_optimizer
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood.errors import BoxwoodError

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))


def trained(make):
    """Two steps of a network whose first layer is square; then half of its filters are to go."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = make(net.parameters())

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = net(X).square().sum()
            loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    found = find_units(net, X)
    selection = UnitSelection(found, np.arange(12) % 2 == 1)
    return net, optimizer, selection


def step_of(net, optimizer, gradients):
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


ELEMENTWISE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "capturable": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
}
ROWS = [1, 3, 5, 7, 9, 11]
CUTS = [lambda t: t[ROWS], lambda t: t[ROWS], lambda t: t[:, ROWS], lambda t: t]


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_the_next_step_is_the_original_s(kind):
    """With the same gradients, the small network's step is what is kept of the original's."""
    net, optimizer, selection = trained(ELEMENTWISE[kind])
    small = shrink(net, selection)
    carried = carry_optimizer(optimizer, net, small, selection)
    gradients = [torch.randn(p.shape) for p in net.parameters()]
    got = step_of(small, carried, [cut(g) for cut, g in zip(CUTS, gradients, strict=True)])
    wanted = step_of(net, optimizer, gradients)
    for cut, one, other in zip(CUTS, got, wanted, strict=True):
        assert torch.equal(one, cut(other))


def test_state_is_of_its_own():
    """Steps of one optimizer leave the state of the other."""
    net, optimizer, selection = trained(ELEMENTWISE["adam"])
    small = shrink(net, selection)
    carried = carry_optimizer(optimizer, net, small, selection)
    before = [s["exp_avg"].clone() for s in optimizer.state.values()]
    step_of(small, carried, [torch.ones_like(p) for p in small.parameters()])
    assert all(
        torch.equal(a, s["exp_avg"]) for a, s in zip(before, optimizer.state.values(), strict=True)
    )
    assert [int(s["step"]) for s in optimizer.state.values()] == [2] * 4


def test_factored_moments():
    """Rows and columns are cut each along their own axis, and a step is possible."""
    net, optimizer, selection = trained(lambda p: torch.optim.Adafactor(p, lr=0.01))
    small = shrink(net, selection)
    carried = carry_optimizer(optimizer, net, small, selection)
    old, new = ([*o.state.values()] for o in (optimizer, carried))
    assert torch.equal(new[0]["row_var"], old[0]["row_var"][ROWS])
    assert torch.equal(new[0]["col_var"], old[0]["col_var"])
    assert torch.equal(new[1]["variance"], old[1]["variance"][ROWS])
    assert torch.equal(new[2]["row_var"], old[2]["row_var"])
    assert torch.equal(new[2]["col_var"], old[2]["col_var"][:, ROWS])
    step_of(small, carried, [torch.ones_like(p) for p in small.parameters()])


def test_factored_moments_of_transformers():
    """Moments whose axes are dropped are told apart by name, also where a layer is square."""
    optimization = pytest.importorskip("transformers.optimization")
    net, optimizer, selection = trained(
        lambda p: optimization.Adafactor(p, lr=0.01, relative_step=False, scale_parameter=False)
    )
    small = shrink(net, selection)
    carried = carry_optimizer(optimizer, net, small, selection)
    old, new = ([*o.state.values()] for o in (optimizer, carried))
    assert torch.equal(new[0]["exp_avg_sq_row"], old[0]["exp_avg_sq_row"][ROWS])
    assert torch.equal(new[0]["exp_avg_sq_col"], old[0]["exp_avg_sq_col"])
    assert torch.equal(new[2]["exp_avg_sq_row"], old[2]["exp_avg_sq_row"])
    assert torch.equal(new[2]["exp_avg_sq_col"], old[2]["exp_avg_sq_col"][ROWS])
    step_of(small, carried, [torch.ones_like(p) for p in small.parameters()])


def test_flat_history_is_refused():
    """L-BFGS keeps one vector over all parameters; before its first step there is nothing to cut."""
    net, optimizer, selection = trained(lambda p: torch.optim.LBFGS(p, max_iter=3))
    small = shrink(net, selection)
    with pytest.raises(
        BoxwoodError, match=r"got 'd' of shape \(195,\) and float32 for '0\.weight'"
    ):
        carry_optimizer(optimizer, net, small, selection)
    fresh = torch.optim.LBFGS(net.parameters(), lr=0.3)
    assert carry_optimizer(fresh, net, small, selection).param_groups[0]["lr"] == 0.3


class Blockwise(torch.optim.SGD):
    """Keeps moments as bytes with a scale for each block, as 8-bit optimizers do."""

    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"state1": torch.zeros_like(p, dtype=torch.uint8)}
        return loss


class Wrapping(torch.optim.Optimizer):
    """Is made from another optimizer, as those for large batches and sharp minima are."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.param_groups, inner.defaults)
        self.state = inner.state

    def step(self, closure=None):
        return self.inner.step(closure)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Blockwise, r"got 'state1' of shape \(12, 12\) and uint8 for '0\.weight' in Blockwise"),
        (
            lambda p: Wrapping(torch.optim.SGD(p, lr=0.1)),
            r"Wrapping\(groups\) makes again, .*; give the optimizer that it wraps",
        ),
        (
            lambda p: torch.optim.SGD([*p, nn.Parameter(torch.ones(2))], lr=0.1),
            r"of this model's parameters, got one that holds another of shape \(2,\)",
        ),
    ],
)
def test_what_cannot_be_carried(make, message):
    """Quantised state, wrappers and parameters of others are refused, and by name."""
    net, optimizer, selection = trained(make)
    with pytest.raises(BoxwoodError, match=message):
        carry_optimizer(optimizer, net, shrink(net, selection), selection)


def test_groups_and_settings_stay():
    """Groups keep their settings and names, and the defaults are those for groups to come."""
    net, _, selection = trained(ELEMENTWISE["sgd"])
    named = list(net.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": named[:2], "weight_decay": 0.5}, {"params": named[2:], "lr": 0.3}], lr=0.2
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    net(X).sum().backward()
    optimizer.step()
    scheduler.step()
    carried = carry_optimizer(optimizer, net, shrink(net, selection), selection)
    assert [group["lr"] for group in carried.param_groups] == [0.1, 0.15]
    assert [group["initial_lr"] for group in carried.param_groups] == [0.2, 0.3]
    assert [group["weight_decay"] for group in carried.param_groups] == [0.5, 0.01]
    assert carried.param_groups[0]["param_names"] == ["0.weight", "0.bias"]
    assert carried.defaults["lr"] == 0.2
