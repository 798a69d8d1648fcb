"""Segmentation scenes made of real images: garments on photographs, every pixel with its class."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from boxwood._internal.core.examples import Examples
from boxwood._internal.core.extras import extra
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.data.splits import fingerprint
from boxwood.data import InMemory, Splits, fashion_mnist

SIZE = 32
_MOST = 6  # garments in one scene
_VISIBLE = 0.2  # brightness from which on a pixel belongs to the garment, of 1
_COLOURS = 3


def scenes(
    garments: Callable[[], Splits] = fashion_mnist,
    train: int = 4000,
    validation: int = 1000,
    test: int = 2000,
) -> Splits:
    """Compose scenes of 32 × 32 pixels: one to six garments of Fashion-MNIST on a photograph.

    A garment is halved to 14 × 14 pixels, given a colour, and laid at a random place; later ones
    cover earlier ones. A pixel has the class of the garment whose brightness there is above 0.2,
    plus one; the photograph is class 0. Training scenes take garments of the training part and
    crops of the left halves of two photographs; validation and test scenes take garments of their
    own parts, and crops of the right halves. All follows from fixed seeds.

    Args:
        garments: returns `Splits` of images [1, 28, 28].
        train: scenes to learn from.
        validation: scenes to decide by.
        test: scenes to report.

    Raises:
        MissingDependency: scikit-learn, which has the photographs, or Pillow is not installed.

    Example:
        >>> made = scenes(train=8, validation=4, test=4)  # doctest: +SKIP
        >>> made.shape, made.classes  # doctest: +SKIP
        ((3, 32, 32), 11)
    """
    whole = garments()
    left, right = _halves()
    parts = {
        "train": _composed(whole.train, left, train, "train"),
        "validation": _composed(whole.validation, right, validation, "validation"),
        "test": _composed(whole.test, right, test, "test"),
    }
    pixels, _ = parts["train"]
    mean = pixels.mean((0, 2, 3), keepdim=True)
    sd = pixels.std((0, 2, 3), correction=0, keepdim=True)
    made = {name: InMemory((x - mean) / sd, y) for name, (x, y) in parts.items()}
    return Splits(
        name=f"scenes of {whole.name}",
        train=made["train"],
        validation=made["validation"],
        test=made["test"],
        classes=whole.classes + 1,
        identity=fingerprint(
            "scenes", whole.identity, *(t for each in parts.values() for t in each)
        ),
    )


def _halves() -> tuple[list[Tensor], list[Tensor]]:
    """Left and right halves of the photographs, float32 [3, height, width] in [0, 1]."""
    with extra("digits,studies", "scikit-learn and Pillow for the photographs"):
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in images]
    middles = [photograph.shape[2] // 2 for photograph in photographs]
    return (
        [p[:, :, :middle] for p, middle in zip(photographs, middles, strict=True)],
        [p[:, :, middle:] for p, middle in zip(photographs, middles, strict=True)],
    )


def _composed(
    garments: Examples, photographs: list[Tensor], count: int, part: str
) -> tuple[Tensor, Tensor]:
    chance = generator_for(0, f"scenes/{part}")

    def below(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=chance))

    pixels = torch.empty(count, _COLOURS, SIZE, SIZE)
    classes = torch.zeros(count, SIZE, SIZE, dtype=torch.int64)
    numbers = torch.randint(1, _MOST + 1, (count,), generator=chance)
    images, labels = garments.take(
        torch.randint(len(garments), (int(numbers.sum()),), generator=chance)
    )
    images = avg_pool2d(images - images.amin((1, 2, 3), keepdim=True), 2)
    images /= images.amax((1, 2, 3), keepdim=True)
    colours = 0.3 + 0.7 * torch.rand(len(images), _COLOURS, 1, 1, generator=chance)
    height, width = images.shape[2:]
    laid = 0
    for scene, target, number in zip(pixels, classes, numbers.tolist(), strict=True):
        photograph = photographs[below(len(photographs))]
        top, left = (below(extent - SIZE + 1) for extent in photograph.shape[1:])
        scene.copy_(photograph[:, top : top + SIZE, left : left + SIZE])
        for each in range(laid, laid + number):
            y, x = below(SIZE - height + 1), below(SIZE - width + 1)
            place = (..., slice(y, y + height), slice(x, x + width))
            seen = images[each, 0] > _VISIBLE
            scene[place] = torch.where(seen, colours[each] * images[each], scene[place])
            target[place] = torch.where(seen, labels[each] + 1, target[place])
        laid += number
    return pixels, classes
