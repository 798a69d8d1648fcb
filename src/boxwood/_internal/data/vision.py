"""CIFAR-10, and folders of images in ImageNet's layout."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.extras import extra
from boxwood._internal.data.data_paths import find_folder, folders_to_search
from boxwood._internal.data.downloads import torchvision_datasets
from boxwood._internal.data.image_augmentation import IMAGENET_MEAN, IMAGENET_SD
from boxwood._internal.data.splits import Splits, fingerprint, from_tensors, hold_out
from boxwood.errors import InvalidInput

_MEAN, _SD = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_SD))


def cifar10(root: str | None = None) -> Splits:
    """Load CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images (3, 32, 32).

    ``cifar-10-batches-py`` is looked for in ``root``, ``$CIFAR10_DIR`` and ``$BOXWOOD_DATA``,
    which is ``.data`` if not set. Images are neither flipped nor cropped.

    Args:
        root: folder to look in first.

    Raises:
        MissingDependency: torchvision is not installed.
        InvalidInput: no place holds the data, or it is damaged.

    Example:
        >>> cifar10().shape  # doctest: +SKIP
        (3, 32, 32)

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
    chapter 3; the split of 45,000 and 5,000 is that of He et al., arXiv:1512.03385, section 4.2.
    """
    datasets = torchvision_datasets()
    folder = find_folder(
        "CIFAR-10's folder cifar-10-batches-py",
        folders_to_search(root, "CIFAR10_DIR", "."),
        lambda place: (place / "cifar-10-batches-py").is_dir(),
        "call boxwood.downloads.download_cifar10() where there is a network, or set "
        "CIFAR10_DIR to the folder that holds cifar-10-batches-py.",
    )
    try:
        parts = [datasets.CIFAR10(folder, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise InvalidInput(
            f"Expected intact CIFAR-10 files in {folder / 'cifar-10-batches-py'}, got: {error}; "
            f"delete that folder and fetch it again."
        ) from error
    train, test = (
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return from_tensors("cifar10", train, test, validation=5_000)


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files that are read when they are taken, several at a time.

    Each image is scaled so that its shorter edge is ``size · 256 / 224``, cropped to the central
    ``size`` × ``size``, and standardised with ImageNet's means and standard deviations. The same
    image always gives the same tensor: nothing is flipped or cropped at random, which is for
    ``Loading(transform=ImageAugmentation(…))``.

    Args:
        paths: the files, n of them.
        targets: int64 [n].
        size: height and width of an input in pixels.

    Source: the preprocessing of torchvision's classification reference.
    """

    paths: tuple[str, ...]
    targets: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read a batch: float32 [batch, 3, size, size] and int64 [batch].

        Args:
            indices: int64 [batch], each in [0, n).

        Raises:
            InvalidInput: a file is no image that can be read.
        """
        wanted = [self.paths[index] for index in indices.tolist()]
        inputs = torch.empty(len(wanted), 3, self.size, self.size)
        # Decoding releases the interpreter lock, so threads are enough.
        with ThreadPoolExecutor() as pool:
            for row, image in zip(inputs, pool.map(self._read, wanted), strict=True):
                row.copy_(image)
        return inputs.sub_(_MEAN).div_(_SD), self.targets[indices]

    def raw(self, index: int) -> tuple[Any, int]:
        """Read one file as a Pillow image in red, green and blue, and its target.

        Args:
            index: in [0, n).

        Raises:
            InvalidInput: the file is no image that can be read.
        """
        return self._open(self.paths[index]), int(self.targets[index])

    def _open(self, path: str) -> Any:
        with extra("vision", "torchvision and Pillow to read images"):
            from PIL import Image

        try:
            with Image.open(path) as file:
                return file.convert("RGB")
        except OSError as error:
            raise InvalidInput(
                f"Expected an image that can be read at {path}, got {type(error).__name__}: "
                f"{error}; replace or remove the file."
            ) from error

    def _read(self, path: str) -> Tensor:
        image = self._open(path)
        with extra("vision", "torchvision and Pillow to read images"):
            from torchvision.transforms import functional

        image = functional.resize(image, [round(self.size * 256 / 224)])
        pixels: Tensor = functional.to_tensor(functional.center_crop(image, [self.size, self.size]))
        return pixels


def imagenet_folder(
    root: str | None = None, *, size: int = 224, validation: int = 50_000
) -> Splits:
    """Read images in ImageNet's layout: ``train/<class>/<file>`` and ``val/<class>/<file>``.

    ``val`` is the test part, because papers report on it; the validation part is held out of
    ``train``. The folder is looked for in ``root``, ``$IMAGENET_DIR`` and
    ``$BOXWOOD_DATA/imagenet``. Its identity is computed from the files' names and sizes, because
    reading every file would take hours.

    Args:
        root: folder to look in first.
        size: height and width of an input in pixels, at least 1; see `FolderImages`.
        validation: images held out of ``train``.

    Raises:
        MissingDependency: torchvision is not installed.
        InvalidInput: no place holds both folders, they hold no
            images or different classes, or ``validation`` leaves a part empty.

    Example:
        >>> imagenet_folder("/data/imagenet").classes  # doctest: +SKIP
        1000

    Source: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge",
    arXiv:1409.0575, 2014.
    """
    if size < 1:
        raise InvalidInput(f"Expected size >= 1 pixel, got {size}; the papers' nets take 224.")
    datasets = torchvision_datasets()
    folder = find_folder(
        "the folders train and val of an image data set",
        folders_to_search(root, "IMAGENET_DIR", "imagenet"),
        lambda place: (place / "train").is_dir() and (place / "val").is_dir(),
        "unpack the images (ImageNet's come from image-net.org, after registration) as "
        "train/<class>/<file> and val/<class>/<file>, and give that folder, or set IMAGENET_DIR.",
    )
    train, test = (_listing(datasets, folder / part) for part in ("train", "val"))
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InvalidInput(
            f"Expected the same classes in train and val of {folder}, got {len(odd)} in only one "
            f"of them, such as {odd[0]!r}; complete the folders."
        )
    kept, held = hold_out(len(train.samples), validation, seed=0)
    everything = torch.arange(len(test.samples))
    return Splits(
        name=folder.resolve().name,
        train=_images(train.samples, kept, size),
        validation=_images(train.samples, held, size),
        test=_images(test.samples, everything, size),
        classes=len(train.classes),
        identity=fingerprint(
            f"size {size}",
            *(_names_and_sizes(folder, part.samples) for part in (train, test)),
            kept,
            held,
        ),
    )


def _listing(datasets: Any, folder: Path) -> Any:
    try:
        return datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        raise InvalidInput(
            f"Expected a folder of images per class in {folder}, got: {error}; arrange them as "
            f"{folder.name}/<class>/<file>."
        ) from error


def _images(samples: list[tuple[str, int]], indices: Tensor, size: int) -> FolderImages:
    chosen = [samples[index] for index in indices.tolist()]
    return FolderImages(
        paths=tuple(path for path, _ in chosen),
        targets=torch.tensor([target for _, target in chosen]),
        size=size,
    )


def _names_and_sizes(folder: Path, samples: list[tuple[str, int]]) -> str:
    files = (Path(path) for path, _ in samples)
    return "\n".join(
        f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path in files
    )
