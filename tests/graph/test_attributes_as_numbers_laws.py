"""An attribute that code uses as a number keeps its value, whatever the layer's size is."""

import math

import pytest
import torch
from torch import nn

from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.record import load_shrunken, record_of, save_shrunken
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.surgery import attribute_changes
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 9, (2, 5), generator=torch.Generator().manual_seed(0))


class ScaledEmbedding(nn.Module):
    """Multiplies by the root of the width, as Transformers do."""

    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.out(self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim))


class ScaledLinear(nn.Linear):
    """Divides by the root of its inputs, as equalised learning rates do."""

    def forward(self, x):
        return super().forward(x) / self.in_features**0.5


class Equalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = ScaledLinear(6, 8), ScaledLinear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).relu())


class Averaged(nn.Module):
    """Sums channels and divides by their number, which a normalisation knows."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.norm(self.a(x)).relu()
        return self.b(h) + h.sum(1, keepdim=True) / self.norm.num_features


class Counted(nn.Module):
    """Takes the number as a whole one, and out of a tuple."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.norm(self.a(x))
        return self.b(h) * int(self.a.out_features) + self.b.in_features


NETS = {
    "embedding": (ScaledEmbedding, TOKENS, [("embedding", "embedding_dim", 8)]),
    "linear": (Equalised, X, [("b", "in_features", 8)]),
    "norm": (Averaged, X, [("norm", "num_features", 8)]),
    "counts": (Counted, X, [("a", "out_features", 8), ("b", "in_features", 8)]),
}


@pytest.mark.parametrize("name", NETS)
def test_numbers_stay(name, tmp_path):
    """The small network computes with the same numbers, checked or not, and so does its file."""
    build, x, numbers = NETS[name]
    net = build().eval()
    found = find_units(net, x)
    assert len(found) == 8
    selection = select_units(found, 0.5)
    unchecked, small = shrink(net, selection, check=False), shrink(net, selection)
    assert check_equivalence(net, small, selection).equivalent
    save_shrunken(small, record_of(net, selection), tmp_path / "small.safetensors")
    again = load_shrunken(tmp_path / "small.safetensors", build).eval()
    assert torch.equal(small(x), again(x))
    assert torch.equal(small(x), unchecked(x))
    for network in (small, unchecked, again):
        for module, attribute, value in numbers:
            assert getattr(network.get_submodule(module), attribute) == value
    others = {change.path for change in attribute_changes(selection)}
    assert not any((module, attribute) in others for module, attribute, _ in numbers)


def test_what_is_no_number_says_the_size():
    """Of one layer, what the code uses stays and what it does not use is the new size."""
    net = Equalised().eval()
    small = shrink(net, select_units(find_units(net, X), 0.5))
    assert (small.a.out_features, small.a.in_features) == (4, 6)
    assert (small.b.out_features, small.b.in_features) == (3, 8)
