"""Removing dead units changes nothing that the network computes, and leaves none behind."""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood._internal.model.dead import DeadRemoval, remove_dead, remove_dead_
from boxwood.errors import BoxwoodError

POINTWISE = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus, nn.Identity, nn.Dropout]
POOLS = [
    lambda: nn.MaxPool2d(2),
    lambda: nn.MaxPool2d(3, 1, padding=1),
    lambda: nn.AvgPool2d(2),
    lambda: nn.AvgPool2d(3, 1, padding=1),
    lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    lambda: nn.AdaptiveAvgPool2d(3),
    nn.Identity,
]
KERNELS = [(1, 0), (1, "same"), (2, 0), (2, 1), (3, 0), (3, 0), (3, 1), (3, "same")]
IMAGE = (2, 8, 8)


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    """Draw a float64 network of some convolutions, then some linear layers."""
    layers: list[nn.Module] = []
    channels, image = IMAGE[0], torch.zeros(1, *IMAGE)
    for _ in range(draw(st.integers(0, 3))):
        wider, groups = draw(
            st.sampled_from([(2, 1), (4, 1), (4, 2), (6, 2), (channels, channels)])
        )
        kernel, padding = draw(st.sampled_from(KERNELS))
        conv = nn.Conv2d(
            channels,
            wider,
            kernel,
            padding=padding,
            padding_mode=draw(st.sampled_from(["zeros", "zeros", "replicate"])),
            groups=groups,
            bias=draw(st.booleans()),
        )
        steps = [conv, draw(st.sampled_from(POINTWISE))(), draw(st.sampled_from(POOLS))()]
        steps.append(draw(st.sampled_from(POINTWISE))())
        if min(nn.Sequential(*steps)(image).shape[2:], default=0) < 3:
            steps = [steps[0], steps[1], steps[3]]
        image = nn.Sequential(*steps).eval()(image)
        layers += steps
        channels = wider
        if min(image.shape[2:]) < 4:
            break
    layers.append(nn.Flatten())
    width = image.numel()
    for wider in draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)):
        layers += [nn.Linear(width, wider, bias=draw(st.booleans()))]
        layers += [draw(st.sampled_from(POINTWISE))()]
        width = wider
    return nn.Sequential(*layers).double().eval()


@st.composite
def masked_networks(draw: st.DrawFn) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """Draw a network with random values, and masks that leave many units dead, for some weights."""
    net = draw(networks())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = draw(st.sampled_from([0.02, 0.2, 0.6]))
    whole = draw(st.sampled_from([0.3, 0.6, 1.0]))
    zero_biases = draw(st.booleans())
    masks = {}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.double))
            if parameter.ndim == 1:
                if zero_biases:
                    parameter[torch.rand(len(parameter), generator=generator) < 0.5] = 0
            elif draw(st.integers(0, 3)):
                mask = torch.rand(parameter.shape, generator=generator) < density
                rows, columns = parameter.shape[:2]
                mask &= _broadcast(torch.rand(rows, 1, generator=generator) < whole, mask)
                mask &= _broadcast(torch.rand(1, columns, generator=generator) < whole, mask)
                masks[name] = mask
    return net, masks


def _broadcast(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.view(*matrix.shape, *(1,) * (like.ndim - 2))


def apply_masks_(net: nn.Module, masks: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).masked_fill_(~mask, 0)


def hidden_units(net: nn.Module, masks: dict[str, Tensor]) -> Iterator[tuple[str, bool, bool]]:
    """Yield, unit by unit, the layer and whether the unit reads and feeds: the naive way."""
    names = [
        name for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    for name, following in pairwise(names):
        layer, after = net.get_submodule(name), net.get_submodule(following)
        mine = masks.get(f"{name}.weight", torch.ones_like(layer.weight).bool())
        theirs = masks.get(f"{following}.weight", torch.ones_like(after.weight).bool())
        for unit in range(len(mine)):
            if isinstance(after, nn.Conv2d):
                inputs, outputs = after.in_channels // after.groups, len(theirs) // after.groups
                group = unit // inputs
                outgoing = theirs[group * outputs : (group + 1) * outputs, unit % inputs]
            else:
                columns = after.in_features // len(mine)
                outgoing = theirs[:, unit * columns : (unit + 1) * columns]
            yield name, bool(mine[unit].any()), bool(outgoing.any())


def assert_same(found: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= 1e-12 * scale


@settings(max_examples=150, deadline=None)
@given(masked_networks(), st.integers(0, 2**31))
def test_the_network_computes_the_same(drawn, seed):
    """Outputs before and after removal are equal, in float64 to 1e-12."""
    net, masks = drawn
    x = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    smaller = copy.deepcopy(net)
    apply_masks_(net, masks)
    with torch.no_grad():
        expected = net(x)
        remove_dead_(smaller, masks, IMAGE)
        assert_same(smaller(x), expected)


@settings(max_examples=100, deadline=None)
@given(masked_networks())
def test_no_dead_unit_is_left_but_constants(drawn):
    """Afterwards a unit reads and feeds, or does neither, or is one of kept_constant."""
    net, masks = drawn
    done = remove_dead(net, masks, IMAGE)
    constants = dict.fromkeys(done.kept_constant, 0)
    removed = dict.fromkeys(done.removed, 0)
    before = hidden_units(net, masks)
    for (name, read, fed), (_, reads, feeds) in zip(
        before, hidden_units(net, done.masks), strict=True
    ):
        assert feeds or not reads
        constants[name] += feeds and not reads
        removed[name] += (read or fed) and not reads and not feeds
    assert constants == done.kept_constant
    assert removed == done.removed


@settings(max_examples=100, deadline=None)
@given(masked_networks())
def test_removing_twice_is_removing_once(drawn):
    """On the result there is nothing left to remove, and nothing changes."""
    net, masks = drawn
    once = remove_dead_(net, masks, IMAGE)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    twice = remove_dead_(net, once.masks, IMAGE)
    assert twice.biases == {}
    assert not any(twice.removed.values())
    assert twice.kept_constant == once.kept_constant
    assert twice.masks.keys() == once.masks.keys()
    assert all(torch.equal(twice.masks[name], once.masks[name]) for name in once.masks)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@settings(max_examples=50, deadline=None)
@given(masked_networks())
def test_removal_is_pure_and_only_takes(drawn):
    """remove_dead leaves model and masks alone, keeps no new weight, and spares the last biases."""
    net, masks = drawn
    state = {name: value.clone() for name, value in net.state_dict().items()}
    given_masks = {name: mask.clone() for name, mask in masks.items()}
    done = remove_dead(net, masks, IMAGE)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(mask, given_masks[name]) for name, mask in masks.items())
    assert not any((done.masks[name] & ~mask).any() for name, mask in masks.items())
    assert all(not mask.all() for name, mask in done.masks.items() if name not in masks)


def three_layers(act: Callable[[], nn.Module] = nn.ReLU, *, bias: bool = True) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 3), act(), nn.Linear(3, 2, bias=bias), act(), nn.Linear(2, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.arange(1.0, parameter.numel() + 1).view(parameter.shape))
    return net.double()


def test_a_unit_without_inputs_by_hand():
    """Its constant relu(2) moves into the next biases through weights 2 and 5; its own becomes 0."""
    mask = torch.tensor([[True, True], [False, False], [True, True]])
    done = remove_dead(three_layers(), {"0.weight": mask}, (2,))
    assert done.removed == {"0": 1, "2": 0}
    assert done.kept_constant == {"0": 0, "2": 0}
    assert done.biases["2.bias"].tolist() == [1 + 2 * 2, 2 + 5 * 2]
    assert done.biases["0.bias"].tolist() == [1, 0, 3]
    assert done.masks["2.weight"].tolist() == [[True, False, True]] * 2
    assert done.masks.keys() == {"0.weight", "2.weight"}


def test_death_spreads_forwards_and_backwards():
    """A unit that loses its last input, or its last reader, dies in turn."""
    net = three_layers()
    forwards = {
        "0.weight": torch.tensor([[True, True], [False, False], [True, True]]),
        "2.weight": torch.tensor([[False, True, False], [True, True, True]]),
    }
    done = remove_dead(net, forwards, (2,))
    assert done.removed == {"0": 1, "2": 1}
    # relu(2) · 2 + 1 = 5 moves on from the unit that this leaves without inputs.
    assert done.biases["4.bias"].tolist() == [1 + 1 * 5]
    assert done.biases["2.bias"].tolist() == [0, 2 + 5 * 2]
    backwards = {
        "2.weight": torch.tensor([[False, True, True], [True, True, True]]),
        "4.weight": torch.tensor([[True, False]]),
    }
    done = remove_dead(net, backwards, (2,))
    assert done.removed == {"0": 1, "2": 1}
    assert done.masks["0.weight"].tolist() == [[False, False], [True, True], [True, True]]
    assert {name: bias.tolist() for name, bias in done.biases.items()} == {
        "0.bias": [0, 2, 3],
        "2.bias": [1, 0],
    }


def test_a_constant_needs_a_bias_to_move_into():
    """Without a next bias the unit stays and is counted, unless it emits zero."""
    net = three_layers(bias=False)
    mask = {"0.weight": torch.tensor([[True, True], [False, False], [False, False]])}
    with torch.no_grad():
        net[0].bias[2] = -3
    done = remove_dead(net, mask, (2,))
    assert done.kept_constant == {"0": 1, "2": 0}
    assert done.removed == {"0": 1, "2": 0}
    assert done.masks["2.weight"].tolist() == [[True, True, False]] * 2


def identity() -> nn.Module:
    return nn.Identity()


def average() -> nn.Module:
    return nn.AvgPool2d(3, 1, padding=1)


@pytest.mark.parametrize(
    ("pool", "conv", "kept"),
    [
        (identity, nn.Conv2d(2, 1, 3), 0),
        (identity, nn.Conv2d(2, 1, 3, padding=1), 1),
        (identity, nn.Conv2d(2, 1, 3, padding="same"), 1),
        (identity, nn.Conv2d(2, 1, 1, padding="same"), 0),
        (identity, nn.Conv2d(2, 1, 3, padding="valid"), 0),
        (identity, nn.Conv2d(2, 1, 3, padding=1, padding_mode="reflect"), 0),
        (average, nn.Conv2d(2, 1, 3), 1),
        (lambda: nn.MaxPool2d(3, 1, padding=1), nn.Conv2d(2, 1, 3), 0),
        (lambda: nn.Sequential(average(), nn.Sigmoid()), nn.Conv2d(2, 1, 3), 1),
    ],
)
def test_a_constant_that_padding_breaks_stays(pool, conv, kept):
    """Zero padding and averages over padding keep a filter's constant, and only one that is not 0."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), pool(), conv, nn.Flatten(), nn.LazyLinear(1))
    net = net.double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    net(x)
    mask = torch.tensor([True, False]).view(2, 1, 1, 1).expand(2, 1, 3, 3)
    for bias, stays in ((0.5, kept), (-0.5, 0)):
        smaller = copy.deepcopy(net)
        with torch.no_grad():
            smaller[0].bias.fill_(bias)
            apply_masks_(smaller, {"0.weight": mask})
            expected = smaller(x)
            done = remove_dead_(smaller, {"0.weight": mask}, (1, 8, 8))
            assert_same(smaller(x), expected)
        assert done.kept_constant == {"0": stays, "3": 0}
        assert done.removed == {"0": 1 - stays, "3": 0}


class Called(nn.Module):
    """A hand-written network whose rows are as long as it is told."""

    def __init__(self, row: int):
        super().__init__()
        self.row = row
        self.conv, self.fc = nn.Conv2d(1, 4, 1), nn.Linear(row, 2)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).view(-1, self.row))


def test_flattening_several_images_or_none_into_a_row_is_refused():
    """view(-1, n) is taken where n is the size of an image, and refused where it splits one."""
    mask = {"conv.weight": torch.tensor([True, False, True, True]).view(4, 1, 1, 1)}
    assert remove_dead(Called(64), mask, (1, 4, 4)).removed == {"conv": 1}
    with pytest.raises(BoxwoodError, match=r"'fc' to be given one row per image .* got 8 rows"):
        remove_dead(Called(16), mask, (1, 4, 4))


def test_wrong_shapes_and_masks_are_refused_and_nothing_changes():
    """A shape that does not fit the network, and a mask that does not fit its weight, are named."""
    net = three_layers()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(BoxwoodError, match=r"the shape of an input .* got \(5,\)"):
        remove_dead_(net, {}, (5,))
    with pytest.raises(BoxwoodError, match="Expected a bool mask of shape"):
        remove_dead_(net, {"0.weight": torch.ones(2, 3).bool()}, (2,))
    with pytest.raises(BoxwoodError, match="surgery on the graph"):
        remove_dead(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2)), {}, (2,))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_masks_of_other_parameters_pass_through():
    """A mask for a parameter outside the chain is returned as it was."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.LayerNorm(1))
    masks = {"2.weight": torch.tensor([False])}
    assert remove_dead(net, masks, (2,)) == DeadRemoval(masks, {}, {"0": 0}, {"0": 0})
