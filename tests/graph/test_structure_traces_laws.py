"""What the trace sees: positions beyond the example, sizes behind caches, shapes changed in place.

Each network is held to the law over random removals, and on inputs that the example did not reach.
"""

import copy
import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.slicing import mask_
from boxwood._internal.graph.surgery import cuts_of
from boxwood._internal.graph.units import find_units
from boxwood.errors import BoxwoodError

_SPEC = importlib.util.spec_from_file_location(
    "structure_checks", Path(__file__).parent / "structure_checks.py"
)
checks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(checks)
check_law, some_selection = checks.check_law, checks.some_selection

TOKENS = torch.randint(9, (2, 4), generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Positions(nn.Module):
    """Adds what it knows about the first positions, in each of the ways that code takes them."""

    def __init__(self, take, width=6, longest=9):
        super().__init__()
        self.take, self.longest = take, longest
        self.embedding, self.out = nn.Embedding(9, width), nn.Linear(width, 2)
        self.table = nn.Parameter(torch.randn(longest, width))
        self.mix = nn.Parameter(torch.randn(longest, longest))

    def forward(self, x):
        return self.out(torch.relu(self.take(self, self.embedding(x), x.shape[1])))


POSITIONS = {
    "slice": lambda net, x, n: x + net.table[:n] + net.mix[:n, 0:1],
    "from the end": lambda net, x, n: x + net.table[-n:] + net.mix[:n, 0:1],
    "behind a product": lambda net, x, n: x + (2 * net.table)[:n] + net.mix[:n, 0:1],
    "behind a view": lambda net, x, n: (
        x + net.table.view(1, net.longest, -1)[:, :n] + net.mix[0:1, :n].T
    ),
    "the smaller of two": lambda net, x, n: x + net.table[: min(n, net.longest)] + net.mix[:n, 0:1],
    "narrow": lambda net, x, n: x + net.table.narrow(0, 0, n) + net.mix[:n, 0:1],
    "split": lambda net, x, n: x + net.table.split([n, net.longest - n])[0] + net.mix[:n, 0:1],
    "one": lambda net, x, n: x + net.table.unbind(0)[2] + net.mix[:n, 0:1],
    "mixed": lambda net, x, n: net.mix[:n, :n] @ (x + net.table[:n]),
    "mixed below the diagonal": lambda net, x, n: net.mix.tril()[:n, :n] @ (x + net.table[:n]),
}


@pytest.mark.parametrize("reached", [4, 9])
@pytest.mark.parametrize("name", POSITIONS)
def test_positions_beyond_the_example_stay(name, reached):
    """The shrunken network takes inputs of any length that the original takes, and is right."""
    torch.manual_seed(0)
    net = Positions(POSITIONS[name]).eval()
    found = check_law(net, torch.randint(9, (2, reached)))
    assert len(found) == 6
    selection = some_selection(found, 0)
    small, masked = shrink(net, selection), copy.deepcopy(net)
    with torch.no_grad():
        for parameter_name, parameter in masked.named_parameters():
            mask_(parameter, cuts_of(selection).get(parameter_name, ()))
        for length in (1, 4, 7, 9):
            x = torch.randint(9, (2, length))
            torch.testing.assert_close(small(x), masked(x))


class Masked(nn.Module):
    """Attention under a mask of all positions, which is a buffer."""

    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.register_buffer("mask", torch.full((4, 4), -math.inf).triu(1))

    def forward(self, x):
        x = self.embedding(x)
        return self.out(self.attention(x, x, x, need_weights=False, attn_mask=self.mask)[0])


def test_the_positions_of_a_mask_stay():
    """An operand that decides where to look loses nothing."""
    found = check_law(Masked().eval(), TOKENS)
    assert "mask" not in {name for axis in found.axes for name in axis.names}
    assert len(found) == 4 + 8  # heads, and outputs of the attention


class Attention(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale, self.heads = scale, 3
        self.q, self.k, self.v, self.o = (nn.Linear(6, 12) for _ in range(4))
        self.o = nn.Linear(12, 6)

    def forward(self, x):
        q, k, v = (
            layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        weights = (self.scale(q) * q @ k.transpose(-1, -2)).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "scale",
    [
        lambda q: 1 / math.sqrt(q.size(-1)),
        lambda q: q.shape[-1] ** -0.5,
        lambda q: float(1 / np.sqrt(q.size(-1))),
        lambda q: 1 / int(q.size(-1)),
        lambda q: 1 / (len(q.transpose(0, -1)) + q.new_zeros(q.shape[-1]).numel()),
        lambda q: torch.tensor(q.size(-1)).rsqrt(),
    ],
)
def test_a_scale_by_the_size_of_heads_keeps_their_features_only(scale):
    """Whole heads can go, as where the same scale is a number in the code."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), Attention(scale), nn.Linear(6, 2)).eval()
    literal = nn.Sequential(nn.Linear(6, 6), Attention(lambda q: 0.5), nn.Linear(6, 2)).eval()
    found, expected = check_law(net, SEQUENCE), find_units(literal, SEQUENCE)
    assert [(g.axes, len(g.units)) for g in found.groups] == [
        (g.axes, len(g.units))
        for g in expected.groups
        if g.name != "1.q.weight" or len(g.units) == 3
    ]


@functools.lru_cache
def halves(count):
    return count // 2, count - count // 2


@functools.lru_cache
def ramp(count):
    return torch.linspace(0, 1, count)


def cached_inside(function):
    kept = functools.lru_cache(function)

    @functools.wraps(function)
    def wrapper(*args):
        return kept(*args)

    return wrapper


class Anchors:
    @staticmethod
    @cached_inside
    def behind_a_wrapper(count):
        return torch.linspace(0, 1, count)

    @staticmethod
    @functools.lru_cache
    def static(count):
        return torch.linspace(0, 1, count)


KNOWN_SIZES = {}


class Remembering(nn.Module):
    """Takes sizes from caches, and from a table of its module's."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x) * ramp(x.shape[1]).sum()
        x = x + Anchors.behind_a_wrapper(x.shape[1]).sum() + Anchors.static(x.shape[1]).sum()
        first, second = x.split(halves(x.shape[1]), 1)
        KNOWN_SIZES.setdefault("half", second.shape[1])
        x = self.b(torch.relu(first) * second)
        return self.c(x.unsqueeze(1).expand(-1, KNOWN_SIZES["half"], -1).mean(1))


def test_caches_hand_no_sizes_and_no_tensors_from_one_run_to_another():
    """What can go does not depend on what ran before, and a run afterwards meets no tensor of it."""
    torch.manual_seed(0)
    net = Remembering().eval()
    found = check_law(net, ROWS)
    for _ in range(2):
        with torch.no_grad():
            assert net(ROWS).isfinite().all()
        again = find_units(net, ROWS)
        assert [g.axes for g in again.groups] == [g.axes for g in found.groups]
    for function in (ramp, Anchors.behind_a_wrapper, Anchors.static):
        assert type(function(6)) is type(function(8)) is torch.Tensor
    assert [type(each) for each in halves(8)] == [int, int]


def test_einops_gives_the_same_units_every_time():
    """Its own cache of shapes is not asked during a trace."""
    einops = pytest.importorskip("einops")

    class Rearranged(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.qkv, self.o = 3, nn.Linear(6, 36), nn.Linear(12, 2)

        def forward(self, x):
            q, k, v = (
                einops.rearrange(each, "b n (h d) -> b h n d", h=self.heads)
                for each in self.qkv(x).chunk(3, -1)
            )
            y = F.scaled_dot_product_attention(q, k, v)
            return self.o(einops.rearrange(y, "b h n d -> b n (h d)"))

    nets = [nn.Sequential(nn.Linear(6, 6), Rearranged()).eval() for _ in range(2)]
    with torch.no_grad():
        nets[0](SEQUENCE)
    for net in nets:
        for _ in range(2):
            assert len(find_units(net, SEQUENCE)) == 3 + 6
        check_law(net, SEQUENCE)


class Lazy(dict):
    """Loads what it holds when it is read, as tables of large libraries do."""

    def _load(self, *args):
        raise AssertionError("nothing may read this")

    __getitem__ = __iter__ = keys = values = items = _load


TABLE, ROW, LAST, LAZY = {}, [], None, Lazy(model=1)


class Kept:
    last = None


class Keeping(nn.Module):
    """Keeps a tensor of its first call where no copy of the network reaches."""

    made = None

    def __init__(self, where):
        super().__init__()
        self.a, self.b, self.where = nn.Linear(6, 8), nn.Linear(8, 2), where

    def forward(self, x):
        return self.b(torch.relu(self.a(x)) * self.where(x.shape[0]))


def in_a_dict(count):
    if count not in TABLE:
        TABLE[count] = (torch.arange(count).cos()[:, None], count)
    return TABLE[count][0]


def in_a_list(count):
    if not ROW:
        ROW.append(torch.ones(count, 1))
    return ROW[0]


def in_a_variable(count):
    global LAST
    LAST = torch.ones(count, 1) if LAST is None else LAST
    return LAST


def in_a_class(count):
    if Keeping.made is None:
        Keeping.made = {"ones": torch.ones(count, 1)}
    return Keeping.made["ones"]


def in_another_class(count):
    if Kept.last is None:
        Kept.last = torch.ones(count, 1)
    return Kept.last


@pytest.mark.parametrize(
    "where", [in_a_dict, in_a_list, in_a_variable, in_a_class, in_another_class]
)
def test_nothing_of_a_trace_is_left_in_the_code(where):
    """The network runs as ever after its trace, and a trace after a run finds the same units."""
    torch.manual_seed(0)
    net = Keeping(where).eval()
    assert len(find_units(net, ROWS)) == 8
    with torch.no_grad():
        out = net(ROWS)
    assert type(out) is torch.Tensor
    assert out.isfinite().all()
    assert len(check_law(net, ROWS)) == 8


class ByOtherMeans(nn.Module):
    """Puts one tensor in the place of another, or makes one that shares its memory."""

    def __init__(self, change):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.change = change

    def forward(self, x):
        x = self.a(x)
        return self.c(self.change(x, self.b(x)))


def with_data(x, y):
    x = x.clone()
    x.data = y.relu().data
    return x


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (with_data, 16),
        (lambda x, y: torch.Tensor._make_subclass(torch.Tensor, y), 16),
        (lambda x, y: nn.Parameter(y) + 0 * x, 8),
        (lambda x, y: y.real * 2, 16),
    ],
)
def test_tensors_that_no_operation_returned(change, count):
    """Labels follow the memory."""
    torch.manual_seed(0)
    net = ByOtherMeans(change).eval()
    found = find_units(net, ROWS)
    assert len(found) == count
    shrink(net, some_selection(found, 0))


class InPlace(nn.Module):
    """Changes the shape of what it has in place, and back again."""

    def __init__(self, change):
        super().__init__()
        self.a, self.b, self.c, self.change = (
            nn.Linear(6, 5),
            nn.Linear(5, 5),
            nn.Linear(5, 2),
            change,
        )

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x)))) + 0
        return self.c(self.change(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.transpose_(1, 2).softmax(-1).transpose(1, 2),
        lambda x: x.swapaxes_(1, 2).transpose_(1, 2),
        lambda x: x.unsqueeze_(0).squeeze_(0),
        lambda x: x.unsqueeze_(1).mean(1),
        lambda x: (x[0].t_().softmax(-1) + 0).t_().unsqueeze_(0),
        lambda x: x.detach_().swapdims_(0, 1).transpose_(0, 1),
    ],
)
def test_shapes_changed_in_place(change):
    """Labels move with the data, although the tensor is the same one; sizes alike hide nothing."""
    torch.manual_seed(0)
    assert len(check_law(InPlace(change).eval(), SEQUENCE)) == 5 + 5


def test_memory_read_in_another_order_stays_whole():
    """Nothing is offered that such a call reads."""
    torch.manual_seed(0)
    net = InPlace(lambda x: x.as_strided_((2, 5, 5), (25, 1, 5))).eval()
    found = check_law(net, SEQUENCE)
    assert {axis.names[0] for axis in found.axes} == {"a.weight", "a.bias", "b.weight"}


class Choosing(nn.Module):
    def __init__(self, choose):
        super().__init__()
        self.a, self.b, self.choose = nn.Linear(6, 12), nn.Linear(12, 2), choose

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.relu(x) if self.choose(x) else torch.tanh(x))


@pytest.mark.parametrize(
    ("choose", "count"),
    [
        (lambda x: x.shape[1] > 8, 0),
        (lambda x: x.size(1) >= 8, 0),
        (lambda x: x.shape[1] == 12, 0),
        (lambda x: x.shape[1] % 4 == 0, 0),
        (lambda x: x.shape[1] > 0, 12),  # holds whatever goes
        (lambda x: x.shape[1] <= 99, 12),
        (lambda x: x.shape[0] > 2, 12),
        (lambda x: x.shape == x.relu().shape, 12),
    ],
)
def test_a_branch_on_a_size_keeps_it(choose, count):
    """Where fewer channels would run other code, they stay."""
    torch.manual_seed(0)
    net = Choosing(choose).eval()
    assert len(find_units(net, ROWS)) == count
    if count:
        check_law(net, ROWS)


def test_a_branch_that_one_removal_would_change():
    """All but that one can be carried out, and that one is refused with its line."""
    net = Choosing(lambda x: x.shape[1] != 1).eval()
    found = check_law(net, ROWS)
    with pytest.raises(BoxwoodError, match=r"laws\.py:\d+"):
        shrink(net, UnitSelection(found, np.arange(12) == 3))


KEYWORDS = {
    "mean": lambda x: x - torch.mean(input=x, dim=1, keepdim=True),
    "another order": lambda x: x - torch.mean(dim=1, keepdim=True, input=x),
    "names of numpy": lambda x: x - torch.mean(x, axis=1, keepdims=True),
    "variance": lambda x: x / (torch.var(keepdim=True, input=x, dim=1) + 1).sqrt(),
    "maximum": lambda x: x - torch.max(dim=1, input=x, keepdim=True).values,
    "product": lambda x: torch.matmul(input=x, other=x.t()).mean() + x,
    "shape": lambda x: torch.reshape(input=x, shape=(-1, x.shape[1])),
    "part": lambda x: torch.narrow(input=x, dim=1, start=0, length=x.shape[1]),
    "pieces": lambda x: torch.cat(torch.chunk(input=x, chunks=2, dim=1), 1),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_tensors_may_be_given_by_keyword(name):
    """Under all names that torch takes, in any order."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(KEYWORDS[name](self.a(x)))

    torch.manual_seed(0)
    check_law(Net().eval(), ROWS)


class Widening(nn.Module):
    """Projects where two widths differ, one of which says nothing else."""

    def __init__(self):
        super().__init__()
        self.width, self.wide = 6, 12
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 12), nn.Linear(12, 2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        if self.width != self.wide:
            x = self.b(x).view(x.shape[0], 1, self.wide).amax(1)
        return self.c(torch.relu(x))


def test_widths_that_differ_go_on_to_differ():
    """Where as much goes as makes the two alike, the one that is compared only gives way."""
    torch.manual_seed(0)
    net = Widening().eval()
    found = check_law(net, ROWS)
    rows = next(axis for axis in found.axes if axis.names == ("b.weight",) and axis.dim == 0)
    kept = np.ones(len(found), dtype=bool)
    kept[rows.units[:6]] = False
    small = shrink(net, UnitSelection(found, kept))
    assert (small.b.out_features, small.wide) == (6, 6)
    assert small.width != small.wide
