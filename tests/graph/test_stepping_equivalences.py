"""Passes that skip what has not changed show what whole passes show."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.stepping import Steps
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.q, self.k = nn.LayerNorm(width), nn.Linear(width, 6), nn.Linear(width, 6)
        self.out = nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.out(self.q(y) * self.k(y).sigmoid())


class Deep(nn.Module):
    """Blocks in a list, with work before, between and behind them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Residual(8) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x) * 0.9
        return self.last(x.tanh())


class Skips(Deep):
    """The last block reads what the first returned as well: earlier blocks cannot be skipped."""

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.blocks[0](self.first(x))
        for block in self.blocks[1:-1]:
            x = block(x)
        return self.last(self.blocks[-1](x + first))


class Repeats(Deep):
    """The same block again and again."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            for block in self.blocks:
                x = block(x)
        return self.last(x)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 9, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


class Branches(nn.Module):
    """Two layers read the same tensor, each in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.wide = nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.short = nn.Conv2d(6, 5, 1, stride=2)
        self.head = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((self.wide(x) + self.short(x)).relu())


class Pooled(nn.Module):
    """What is between two lists of modules takes the outputs of the first one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


NETS: dict[str, tuple[Any, tuple[int, ...], bool]] = {
    "deep": (lambda: Deep(4), (5, 4), True),
    "skips": (lambda: Skips(4), (5, 4), False),
    "repeats": (lambda: Repeats(3), (5, 4), False),
    "convolutions": (convolutions, (5, 1, 8, 8), True),
    "branches": (Branches, (5, 1, 8, 8), False),
    "pooled": (Pooled, (5, 1, 8, 8), False),
}


def setting(name: str) -> tuple[nn.Module, list[Tensor], bool]:
    build, shape, skips = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval(), [torch.randn(shape) for _ in range(3)], skips


@pytest.mark.parametrize("name", NETS)
def test_what_layers_read_and_return_is_what_whole_passes_show(name: str) -> None:
    """Also after layers behind the last finished block were changed."""
    net, batches, skips = setting(name)
    layers = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        steps = Steps(net, batches, layers)
        assert bool(steps._blocks) == skips
        for layer in steps.order:
            module = net.get_submodule(layer)
            module.weight.mul_(1.1)
            for number, batch in enumerate(batches):
                whole: list[Any] = []
                hook = module.register_forward_hook(
                    lambda _, args, out, into=whole: into.append((args[0], out))
                )
                net(batch)
                hook.remove()
                found = steps.calls([layer], number)[layer]
                assert len(found) == len(whole) > 0
                for ours, theirs in zip(found, whole, strict=True):
                    assert torch.equal(ours[0], theirs[0])
                    assert torch.equal(ours[1], theirs[1])


@pytest.mark.filterwarnings("ignore::boxwood.errors.TooFewExamples")  # of one of these networks
@pytest.mark.parametrize("name", NETS)
def test_compensation_with_and_without_skipping_is_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, batches, _ = setting(name)
    selection = select_units(find_units(net, batches[0]), 0.5)
    small = shrink(net, selection)
    quick = compensate(net, small, selection, batches)
    monkeypatch.setattr(Steps, "_may_skip", lambda *_: False)
    monkeypatch.setattr(Steps, "together", lambda _, names: [[name] for name in names])
    slow = compensate(net, small, selection, batches)
    for one, other in zip(quick.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_work_grows_with_the_depth_and_not_with_its_square() -> None:
    calls = []
    for depth in (4, 8):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = Deep(depth).eval()
        x = torch.ones(8, 4)
        selection = select_units(find_units(net, x), 0.5)
        small = shrink(net, selection)
        count = 0

        def add(*_: object) -> None:
            nonlocal count
            count += 1

        # Copies of the network call the same hooks.
        for block in (*net.blocks, *small.blocks):
            block.out.register_forward_hook(add)
        compensate(net, small, selection, [x])
        calls.append(count)
    assert 0 < calls[1] <= 2.2 * calls[0]
