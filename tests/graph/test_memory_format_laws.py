"""A smaller network lies in memory as the one it comes from did."""

import pytest
import torch
from torch import nn

from boxwood import shrink
from boxwood._internal.graph.slicing import sliced


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
