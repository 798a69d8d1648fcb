"""A smaller network lies in memory as the one it comes from did."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from boxwood import find_units, shrink
from boxwood._internal.graph.slicing import sliced
from boxwood.networks import small_resnet, small_vgg


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shrinking_keeps_the_memory_format(layout: torch.memory_format) -> None:
    """With the channels last they stay so, and the numbers are those of the other layout."""
    images = torch.randn(2, 3, 8, 8)
    small = shrink(net().to(memory_format=layout), images, keep=0.5)
    kernels = [p for p in small.parameters() if p.dim() == 4]
    assert all(each.is_contiguous(memory_format=layout) for each in kernels)
    usual = shrink(net(), images, keep=0.5)
    torch.testing.assert_close(small(images), usual(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", range(1, 6))
@pytest.mark.parametrize("last", [False, True])
def test_what_stays_is_a_copy_in_the_format_of_the_tensor(dims: int, last: bool) -> None:
    whole = torch.arange(float(4**dims)).view([4] * dims)
    if last and dims > 3:
        layout = torch.channels_last if dims == 4 else torch.channels_last_3d
        whole = whole.to(memory_format=layout)
    cuts = [(axis, torch.tensor([0, 2, 3])) for axis in range(min(dims, 2))]
    part = sliced(whole, cuts)
    wanted = whole[torch.tensor([0, 2, 3])]
    if dims > 1:
        wanted = wanted[:, torch.tensor([0, 2, 3])]
    assert torch.equal(part, wanted)
    order = sorted(range(dims), key=whole.stride)
    assert sorted(range(dims), key=part.stride) == order
    assert part.data_ptr() != whole.data_ptr()


class Averaged(nn.Module):
    """A convolution whose channels are averaged over the image, in one of several ways."""

    def __init__(self, average: Callable[[torch.Tensor], torch.Tensor], dims: int) -> None:
        super().__init__()
        self.conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(3, 8, 3)
        self.average = average
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits."""
        return self.head(self.average(self.conv(x).relu()).flatten(1))


@pytest.mark.parametrize(
    ("average", "dims"),
    [
        (nn.AdaptiveAvgPool2d(1), 2),
        (lambda x: nn.functional.adaptive_avg_pool2d(x, (1, 1)), 2),
        (lambda x: torch._C._nn.adaptive_avg_pool2d(x, 1), 2),
        (lambda x: x.mean((2, 3), keepdim=True), 2),
        (nn.AdaptiveAvgPool3d(1), 3),
    ],
    ids=["module", "function", "operation", "mean", "volume"],
)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_filters_before_an_average_can_go_in_either_format(
    average: Callable[[torch.Tensor], torch.Tensor], dims: int, last: bool
) -> None:
    """The last convolution of a network is found, and half of its filters can go."""
    torch.manual_seed(0)
    whole = Averaged(average, dims).eval()
    if last:
        whole = whole.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    images = torch.randn(2, 3, *[6] * dims)
    assert [group.name for group in find_units(whole, images).groups] == ["conv.weight"]
    small = shrink(whole, images, keep=0.5)
    assert len(small.conv.weight) == 4
    assert small(images).shape == (2, 4)


@pytest.mark.parametrize("make", [small_vgg, small_resnet])
def test_the_same_layers_are_found_in_either_format(make: Callable[[], nn.Module]) -> None:
    """Whatever the format, the groups of units are the same."""
    image = torch.zeros(1, 1, 14, 14)
    usual = find_units(make(), image).groups
    last = find_units(make().to(memory_format=torch.channels_last), image).groups
    assert [group.name for group in last] == [group.name for group in usual]
