"""Letters with diacritics, drawn in the fonts of this machine: many classes, easily confused."""

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from boxwood._internal.core.extras import extra
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.data.splits import fingerprint, hold_out
from boxwood.data import InMemory, Splits
from boxwood.errors import InvalidInput

SYSTEM_FONTS = Path("/usr/share/fonts")
_FEWEST = 150
_SIZE = 28


def candidates() -> tuple[str, ...]:
    """List the Latin letters that are one of A-Z or a-z with one diacritic: 222 of them.

    Example:
        >>> letters = candidates()
        >>> len(letters), "".join(letters[:8])
        (222, 'ÀÁÂÃÄÅÇÈ')

    Source: The Unicode Standard, blocks Latin-1 Supplement to Latin Extended-B.
    """
    found = []
    for code in range(0xC0, 0x250):
        parts = unicodedata.normalize("NFD", chr(code))
        if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha():
            found.append(chr(code))
    return tuple(found)


def accents(
    folders: Sequence[str] | None = None,
    *,
    points: int = 16,
    test_families: float = 0.2,
    validation_families: float = 0.1,
) -> Splits:
    """Draw every accented letter in every font: images of shape (1, 28, 28), a class per letter.

    The classes are the letters that all fonts have, so they depend on the fonts of the machine,
    as the identity does. Whole families are held out for the test, and others for validation: what
    is chosen on families of the training part does not transfer to new ones. Fonts with fewer than
    150 of the letters, or that draw many of them alike, are left out, and of equal files one stays.

    Args:
        folders: where fonts are looked for; by default `SYSTEM_FONTS` and matplotlib's own.
        points: size of the letters.
        test_families: fraction of the families that are held out for the test.
        validation_families: fraction that are held out for validation.

    Raises:
        InvalidInput: Pillow or fontTools are missing, or there are fewer than three families.

    Example:
        >>> data = accents()  # doctest: +SKIP
        >>> data.shape  # doctest: +SKIP
        (1, 28, 28)
    """
    with extra("studies", "Pillow, fontTools and matplotlib to draw letters with"):
        import matplotlib as mpl
        from fontTools.ttLib import TTFont
        from PIL import ImageFont
    looked = folders or (str(SYSTEM_FONTS), str(Path(mpl.get_data_path()) / "fonts" / "ttf"))
    files: dict[str, Path] = {}
    for folder in looked:
        for path in sorted(Path(folder).rglob("*.[to]tf")):
            files.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    fonts: list[tuple[str, Path, set[str]]] = []
    for path in files.values():
        with TTFont(path, lazy=True) as font:
            known = font.getBestCmap() or {}
            family = font["name"].getBestFamilyName() or path.stem
        letters = {letter for letter in candidates() if ord(letter) in known}
        if len(letters) >= _FEWEST and _tells_apart(ImageFont.truetype(path, points), letters):
            fonts.append((family, path, letters))
    families = sorted({family for family, _, _ in fonts})
    if len(families) < 3:
        raise InvalidInput(
            f"Expected fonts of three families or more with accented letters in "
            f"{', '.join(looked)}, got {families}; install some, such as Debian's fonts-dejavu "
            f"and fonts-liberation."
        )
    classes = sorted(set.intersection(*(letters for _, _, letters in fonts)))
    part_of = _parts(families, test_families, validation_families)
    drawn: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
    for family, path, _ in sorted(fonts, key=lambda each: each[:2]):
        font = ImageFont.truetype(path, points)
        images = torch.stack([_draw(font, letter) for letter in classes])
        drawn[part_of[family]].append(images)
    labels = torch.arange(len(classes))
    xy = {part: (torch.cat(found), labels.repeat(len(found))) for part, found in drawn.items()}
    # In random order, so that the first examples are a fair sample.
    order = torch.randperm(len(xy["train"][0]), generator=generator_for(0, "accents"))
    train = (xy["train"][0][order], xy["train"][1][order])
    sd, mean = torch.std_mean(train[0].double() / 255, correction=0)
    parts = {
        part: InMemory(((x.double() / 255 - mean) / sd).float(), y)
        for part, (x, y) in {**xy, "train": train}.items()
    }
    tensors = [each for part in xy.values() for each in part]
    return Splits(
        "accents", **parts, classes=len(classes), identity=fingerprint("accents 2", *tensors)
    )


def _parts(families: Sequence[str], test: float, validation: float) -> dict[str, str]:
    """Say of each family which part it is in; those of the test are the same whatever ``validation`` is."""
    count = len(families)
    left, tested = hold_out(count, max(1, round(test * count)), seed=0, purpose="test_families")
    held = min(max(1, round(validation * count)), len(left) - 1)
    part_of = dict.fromkeys(families, "train")
    part_of |= {families[index]: "test" for index in tested.tolist()}
    return part_of | {families[index]: "validation" for index in left[:held].tolist()}


def _draw(font: object, letter: str) -> Tensor:
    """Draw a letter in the middle: uint8 [1, 28, 28], ink 255."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (_SIZE, _SIZE))
    middle = (_SIZE / 2, _SIZE / 2)
    ImageDraw.Draw(image).text(middle, letter, fill=255, font=font, anchor="mm")  # type: ignore[arg-type]
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, _SIZE, _SIZE)


def _tells_apart(font: object, letters: set[str]) -> bool:
    """Say whether a font draws most letters differently; a font of last resort does not."""
    drawn = {_draw(font, letter).numpy().tobytes() for letter in sorted(letters)}
    return len(drawn) > 0.9 * len(letters)
