"""Scenes and the networks that segment them."""

import numpy as np
import pytest
import torch

from boxwood._internal.data.splits import InMemory, Splits
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.zoo.cifar_nets import small_vgg
from boxwood_studies import scenes as made_of
from boxwood_studies.segmentation_nets import FCN32s, SegNet, encoder_decoder

VGG_16 = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6


def _parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _convolutions(widths: list[int], inputs: int = 3) -> int:
    return sum(9 * a * b for a, b in zip([inputs, *widths], widths, strict=False))


def test_fcn_32s_is_vgg_16_with_convolutions_for_linear_layers() -> None:
    """Weights and biases by hand: VGG-16's, 7 × 7 × 512 × 4096, 4096², 21 scores, 64 × 64 steps."""
    vgg = _convolutions(VGG_16) + sum(VGG_16)
    head = 49 * 512 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 21 + 21
    with torch.device("meta"):
        assert _parameters(FCN32s()) == vgg + head + 21 * 21 * 64 * 64 == 136_152_917


def test_segnet_mirrors_its_encoder() -> None:
    """The decoder has the encoder's convolutions but the first, and a score for each class."""
    encoder = _convolutions(VGG_16)
    decoder = encoder - 9 * 3 * 64
    norms = 2 * sum(VGG_16) + 2 * (3 * 512 + 2 * 512 + 256 + 2 * 256 + 128 + 128 + 64 + 64)
    with torch.device("meta"):
        assert _parameters(SegNet()) == encoder + decoder + norms + 64 * 11 * 9 + 11 == 29_441_419


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (encoder_decoder, (2, 3, 16, 16)),
        (lambda: SegNet(width=2), (2, 3, 32, 32)),
        (lambda: FCN32s(width=2, hidden=6, classes=4), (1, 3, 33, 20)),
    ],
    ids=["encoder_decoder", "segnet", "fcn_32s"],
)
def test_networks_that_segment_can_be_cut(make, shape) -> None:
    """Outputs have the size of the image, and half of every group can go by the law."""
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(shape)
    assert net(x).shape[2:] == x.shape[2:]
    found = find_units(net, x)
    selection = select_units(found, 0.5)
    assert check_equivalence(net, shrink(net, selection), selection).equivalent
    assert len(found.groups) == {"Sequential": 5, "SegNet": 21, "FCN32s": 16}[type(net).__name__]


def test_unpooling_ties_a_decoder_to_its_encoder() -> None:
    """What is unpooled to the places of an encoder's maxima has that encoder's channels."""
    found = find_units(SegNet(width=2).eval(), torch.randn(2, 3, 32, 32))
    group = next(each for each in found.groups if each.name == "down.0.conv2.weight")
    assert ("up.3.conv2.weight", 0) in group.axes


def test_small_vgg_wants_pairs() -> None:
    """Pooling follows every second convolution, so an odd number of widths is refused."""
    with pytest.raises(ValueError, match="Expected an even number of widths, got"):
        small_vgg(widths=(4, 4, 4))


def _garments() -> Splits:
    chance = torch.Generator().manual_seed(0)

    def part(count: int) -> InMemory:
        images = torch.rand(count, 1, 28, 28, generator=chance) + 0.5
        images[:, :, :4] = 0  # the upper edge is dark, and so belongs to what is behind
        return InMemory(images, torch.arange(count) % 10)

    return Splits("squares", part(40), part(30), part(20), 10, identity="squares")


def test_scenes_are_made_of_garments_and_photographs() -> None:
    """Every class occurs, dark edges stay background, and the same seeds make the same scenes."""
    made = made_of.scenes(_garments, train=60, validation=20, test=20)
    assert (made.shape, made.classes) == ((3, 32, 32), 11)
    assert [len(part) for part in (made.train, made.validation, made.test)] == [60, 20, 20]
    assert made.train.targets.unique().tolist() == list(range(11))
    pixels = (made.train.targets > 0).float().mean((1, 2))
    assert float(pixels.min()) + 1e-9 >= 12 * 14 / 1024
    assert float(pixels.max()) < 6 * 14 * 12 / 1024
    again = made_of.scenes(_garments, train=60, validation=20, test=20)
    assert again.identity == made.identity
    assert torch.equal(again.test.inputs, made.test.inputs)
    assert made.identity != made_of.scenes(_garments, train=61, validation=20, test=20).identity


def test_photographs_of_training_scenes_are_not_those_of_others() -> None:
    """Left halves for training, right halves for validation and test."""
    left, right = made_of._halves()
    for a, b in zip(left, right, strict=True):
        assert a.shape[1] == b.shape[1]
        assert a.shape[2] + b.shape[2] == 640
        assert not np.array_equal(a.numpy(), b.numpy()[:, :, : a.shape[2]])
