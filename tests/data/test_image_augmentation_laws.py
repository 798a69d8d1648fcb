"""Images that are changed as they are read: what the changes may do, and what they follow from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from boxwood._internal.data.image_augmentation import IMAGENET_MEAN, IMAGENET_SD, ImageAugmentation
from boxwood._internal.data.vision import imagenet_folder
from boxwood._internal.train.averaging import EMA
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.loading import Loading
from boxwood._internal.train.loop import train_
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.train.snapshots import Snapshot
from boxwood.errors import BoxwoodError

pytest.importorskip("torchvision")
from PIL import Image

PLAIN = ImageAugmentation(size=8, flip=False)
ALL = ImageAugmentation(size=8, rand_augment=(2, 9), erasing=0.5, bicubic=True)


def changed(augmentation: ImageAugmentation, image: object, seed: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return augmentation(image)


def noise(height: int = 12, width: int = 20, seed: int = 0) -> object:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("augmentation", [PLAIN, ALL])
def test_an_image_of_any_size_becomes_one_of_the_size(augmentation: ImageAugmentation) -> None:
    """Standardised floats, which the seed alone decides, and not the image's size."""
    for height, width in ((12, 20), (9, 3), (40, 41)):
        image = noise(height, width)
        found = [changed(augmentation, image, seed) for seed in range(6)]
        assert all(x.shape == (3, 8, 8) and x.dtype == torch.float32 for x in found)
        assert all(torch.isfinite(x).all() for x in found)
        assert torch.equal(found[0], changed(augmentation, image, 0))
        assert len({x.numpy().tobytes() for x in found}) > 3


def test_one_colour_stays_that_colour() -> None:
    """Crops, flips and scaling change no value, and ImageNet's statistics are taken off by hand."""
    colour = (200, 100, 7)
    found = changed(ImageAugmentation(size=5), Image.new("RGB", (17, 9), colour), 3)
    for channel, value, mean, sd in zip(found, colour, IMAGENET_MEAN, IMAGENET_SD, strict=True):
        torch.testing.assert_close(channel, torch.full((5, 5), (value / 255 - mean) / sd))


def test_flips_mirror_and_erasing_erases() -> None:
    """With the same random numbers, an image is that of the crop or its mirror image."""
    image, whole = noise(), ImageAugmentation(size=8, scale=(0.5, 1.0))
    rows = [changed(whole, image, seed) for seed in range(8)]
    crops = [
        changed(ImageAugmentation(size=8, scale=(0.5, 1.0), flip=False), image, s) for s in range(8)
    ]
    mirrored = [torch.equal(row, crop.flip(2)) for row, crop in zip(rows, crops, strict=True)]
    same = [torch.equal(row, crop) for row, crop in zip(rows, crops, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < 8
    erased = changed(ImageAugmentation(size=8, erasing=1.0), image, 0)
    assert (erased == 0).any()


class Kept:
    """A snapshot after every step, in memory."""

    def __init__(self, at: Snapshot | None = None) -> None:
        self.at, self.all = at, []

    def load(self) -> Snapshot | None:
        return self.at

    def due(self) -> bool:
        return True

    def save(self, snapshot: Snapshot) -> None:
        tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.all.append(Snapshot(tensors, snapshot.facts))


def test_a_training_on_a_folder_goes_on_anywhere_with_any_workers(tmp_path: Path) -> None:
    """RandAugment, crops and erasing from files: the same bits with none, one and two workers."""
    for part, count in (("train", 6), ("val", 1)):
        for kind in ("ant", "bee"):
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                noise(20 + number, 25, seed=number).save(folder / f"{number}.png")
    data = imagenet_folder(str(tmp_path), size=8, validation=2)

    def trained(workers: int, kept: Kept | None = None) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(192, 2))
        training = Training(
            epochs=2, batch=4, optimizer=SGD(lr=0.01), averaging=EMA(),
            loading=Loading(transform=ALL, workers=workers),
        )  # fmt: skip
        train_(net, data.train, training, seed=1, callbacks=Callbacks(checkpoints=kept))
        return net.state_dict()

    kept = Kept()
    whole = trained(0, kept)
    assert len(kept.all) == 5
    for workers, at in ((1, None), (2, None), (0, 1), (2, 2), (1, 3)):  # an epoch has three steps
        again = trained(workers, Kept(None if at is None else kept.all[at]))
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_what_it_refuses() -> None:
    """The message says what is expected of each value."""
    for wrong in (
        {"size": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.9, 0.2)}, {"erasing": 1.5},
        {"rand_augment": (0, 9)}, {"rand_augment": (2, 31)},
    ):  # fmt: skip
        with pytest.raises(BoxwoodError, match=r"Expected size >= 1, 0 < scale\[0\] <= scale\[1\]"):
            ImageAugmentation(**wrong)
