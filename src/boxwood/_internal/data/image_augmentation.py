"""Random crops, flips and RandAugment of images as they are read, by torchvision's transforms."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.extras import extra
from boxwood.errors import InvalidInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """Crop an image at random, mirror every second one, and standardise it by ImageNet's statistics.

    In this order: torchvision's ``RandomResizedCrop`` to ``size`` × ``size``, ``RandomHorizontalFlip``,
    ``RandAugment`` if requested, standardisation, and ``RandomErasing`` if requested. Use it as
    ``Loading(transform=…)``: every example has its own random numbers.

    Args:
        size: height and width of an input in pixels, at least 1.
        scale: the least and the largest share of the image's area that a crop may have, in (0, 1].
        flip: whether every second image is mirrored left to right.
        rand_augment: number of operations of RandAugment, and their magnitude from 0 to 30; None
            for no operations.
        erasing: the probability that a rectangle is erased, in [0, 1].
        bicubic: resize with cubic interpolation; otherwise linear.

    Raises:
        InvalidInput: a value is out of range.
        MissingDependency: at the call, torchvision is not installed.

    Example:
        >>> from PIL import Image
        >>> ImageAugmentation(size=32, rand_augment=(2, 9))(Image.new("RGB", (80, 60))).shape
        torch.Size([3, 32, 32])

    Source: Szegedy et al. (2015), "Going deeper with convolutions", section 6, of the crops; Cubuk
    et al. (2020), "RandAugment"; Zhong et al. (2020), "Random erasing data augmentation".
    Differs from the source: operations of RandAugment are those of torchvision, each with the same
    magnitude.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    rand_augment: tuple[int, int] | None = None
    erasing: float = 0.0
    bicubic: bool = False

    def __post_init__(self) -> None:
        least, most = self.scale
        count, magnitude = self.rand_augment or (1, 0)
        if (
            self.size < 1 or not 0 < least <= most <= 1 or not 0 <= self.erasing <= 1
            or count < 1 or not 0 <= magnitude <= 30
        ):  # fmt: skip
            raise InvalidInput(
                f"Expected size >= 1, 0 < scale[0] <= scale[1] <= 1, erasing in [0, 1] and "
                f"rand_augment=(operations >= 1, magnitude in 0..30), got {self}; correct it."
            )

    def __call__(self, image: Any) -> Tensor:
        """Change one image, by torch's random numbers.

        Args:
            image: a Pillow image, or a tensor uint8 [3, height, width].

        Returns:
            float32 [3, size, size].
        """
        changed: Tensor = _pipeline(self)(image)
        return changed


@lru_cache(maxsize=8)
def _pipeline(given: ImageAugmentation) -> Any:
    with extra("vision", "torchvision to change images"):
        from torchvision.transforms import InterpolationMode, v2

    how = InterpolationMode.BICUBIC if given.bicubic else InterpolationMode.BILINEAR
    parts = [v2.RandomResizedCrop(given.size, scale=given.scale, interpolation=how, antialias=True)]
    if given.flip:
        parts.append(v2.RandomHorizontalFlip())
    if given.rand_augment is not None:
        parts.append(v2.RandAugment(*given.rand_augment))
    parts += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    parts.append(v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_SD)))
    if given.erasing:
        parts.append(v2.RandomErasing(given.erasing))
    return v2.Compose(parts)
