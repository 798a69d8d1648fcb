"""The accented letters, in the fonts that matplotlib brings."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from boxwood.errors import BoxwoodError
from boxwood_studies.glyphs import _parts, accents, candidates

mpl = pytest.importorskip("matplotlib")


def test_letters_of_matplotlibs_fonts() -> None:
    """Every font draws every class once, whole families are held out, and a second call is the same."""
    folder = str(Path(mpl.get_data_path()) / "fonts" / "ttf")
    data = accents((folder,))
    assert data.shape == (1, 28, 28)
    assert 150 <= data.classes <= len(candidates())
    _, labels = data.test.take(torch.arange(len(data.test)))
    assert len(torch.bincount(labels).unique()) == 1
    assert len(data.train) % data.classes == 0
    assert len(data.validation) % data.classes == 0
    again = accents((folder, folder))
    assert again.identity == data.identity


def test_a_letter_is_its_own() -> None:
    """In one font, no two classes have the same image, so that they can be told apart."""
    data = accents()
    inputs, _ = data.test.take(torch.arange(data.classes))
    assert len(inputs.flatten(1).unique(dim=0)) > 0.9 * data.classes


def test_families_are_in_one_part() -> None:
    """Each part has families of its own, and those of the test do not depend on validation."""
    names = [f"family {index}" for index in range(30)]
    found = _parts(names, 0.2, 0.1)
    sizes = Counter(found.values())
    assert sizes == {"train": 21, "validation": 3, "test": 6}
    tested = {name for name, part in found.items() if part == "test"}
    assert tested == {name for name, part in _parts(names, 0.2, 0.5).items() if part == "test"}
    assert set(_parts(names[:3], 0.2, 0.1).values()) == {"train", "validation", "test"}


def test_no_fonts(tmp_path: Path) -> None:
    """Where there are no fonts, the error says what to install."""
    with pytest.raises(BoxwoodError, match="fonts-dejavu"):
        accents((str(tmp_path),))
