"""ChipNet's search against the same training written down for one network, and what it promises."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from boxwood import find_masks
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.model.gate_search import gates
from boxwood.allocation import chipnet
from boxwood.errors import InvalidInput
from boxwood.granularity import Slices
from boxwood.layers import Named


def toy(*, norm: bool) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 10), nn.BatchNorm1d(10) if norm else nn.Identity(), nn.ReLU(), nn.Linear(10, 3)
        ).double()  # fmt: skip


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 6, generator=generator).double(), torch.randint(3, (12,), generator=generator))
        for _ in range(3)
    ]  # fmt: skip


HIDDEN = Named(("0.weight",))


@pytest.mark.parametrize("norm", [False, True])
def test_gates_are_trained_as_written_down(norm: bool) -> None:
    """Gates after the norm, three losses, growing curves, AdamW with decay of weights alone."""
    net = toy(norm=norm)
    psi = (0.01 * torch.rand(10, generator=generator_for(0, "chipnet/0.weight"))).requires_grad_()
    optimizer = torch.optim.AdamW(
        [{"params": list(net.parameters())}, {"params": [psi], "weight_decay": 0.0}], lr=0.01, weight_decay=0.1
    )  # fmt: skip
    for epoch in range(4):
        beta, gamma, steep = 1 + 0.02 * epoch, 2 * 2 ** (epoch / 2), 10 + 5 * epoch
        for x, labels in batches():
            y = 1 / (1 + torch.exp(-beta * psi))
            z = 1 - torch.exp(-gamma * y) + y * math.exp(-gamma)
            outputs = net[3](torch.relu(net[1](net[0](x)) * z))
            volume = (1 / (1 + torch.exp(-steep * (z - 0.5)))).mean()
            loss = cross_entropy(outputs, labels) + 10 * ((y - z) ** 2).mean() + 30 * (volume - 0.4) ** 2  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = chipnet(toy(norm=norm), 0.6, batches=batches(), loss=cross_entropy, epochs=4, layers=HIDDEN, rate=0.01, decay=0.1)  # fmt: skip
    wanted = gates(psi.detach(), 1.08, 8.0)[1]
    torch.testing.assert_close(found.gates["0.weight"], wanted, rtol=1e-5, atol=1e-7)
    assert found.allocation.sparsities == (("0.weight", 0.6),)


def test_the_curves_of_the_paper() -> None:
    """Y is logistic; z is 0 at y = 0, 1 at y = 1, and steep in between for large γ."""
    y, z = gates(torch.tensor([-1e9, 0.0, 1e9]), 1.0, 5.0)
    assert y.tolist() == [0.0, 0.5, 1.0]
    assert z.tolist() == pytest.approx([0.0, 1 - math.exp(-2.5) + 0.5 * math.exp(-5), 1.0])


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.75, 0.95])
def test_the_budget_is_met_to_half_a_filter(sparsity: float) -> None:
    """Over all gated layers together, one filter of each at least; the network is left alone."""
    net = toy(norm=True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    both = Named(("0.weight", "3.weight"))
    settings = {"batches": batches(), "loss": cross_entropy, "epochs": 3, "layers": both}
    found = chipnet(net, sparsity, **settings, rate=0.05)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    masks = find_masks(net, None, allocation=found.allocation, granularity=Slices(), layers=both) if sparsity else None  # fmt: skip
    if masks is not None:
        left = sum(int(mask.sum()) for mask in masks.values())
        assert all(mask.any() for mask in masks.values())
        assert sparsity == 0.95 or abs(left - (1 - sparsity) * 90) <= 5
    again = chipnet(net, sparsity, **settings, rate=0.05)
    other = chipnet(net, sparsity, **settings, rate=0.05, seed=1)
    assert torch.equal(again.gates["0.weight"], found.gates["0.weight"])
    assert not torch.equal(other.gates["0.weight"], found.gates["0.weight"])


def test_filters_that_nobody_reads_go_first() -> None:
    """Their gates get no gradient from the loss, and the budget closes them."""
    net = toy(norm=False)
    with torch.no_grad():
        net[3].weight[:, :5] = 0
        net[3].weight[:, 5:] *= 20
    net[3].requires_grad_(False)
    found = chipnet(net, 0.5, batches=batches(), loss=cross_entropy, epochs=40, layers=HIDDEN, rate=0.05)  # fmt: skip
    closed = found.gates["0.weight"].argsort()[:5]
    assert (closed < 5).sum() >= 4


def test_bad_settings_are_refused() -> None:
    """Lengths and rates are checked before anything is trained."""
    with pytest.raises(InvalidInput, match="Expected epochs >= 1"):
        chipnet(toy(norm=False), 0.5, batches=batches(), loss=cross_entropy, epochs=0)
    with pytest.raises(InvalidInput, match=r"Expected sparsity in \[0, 1\)"):
        chipnet(toy(norm=False), 1.5, batches=batches(), loss=cross_entropy, epochs=1)
