"""Documents and code use plain words, because most readers learned English as a foreign language.

Each of the words below has a common one that says the same: again, given or reported, a number,
next to or as well as, is. Code is read as a whole, so that docstrings, messages, comments and names
keep to one vocabulary.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RARE = re.compile(r"\b(?:anew|told|so\s+many|beside|stands)\b", re.IGNORECASE)
TEXTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src/boxwood").rglob("*.py")),
]


def rare_words(text: str) -> list[str]:
    """List each rare word of a text with its line."""
    return [f"{text.count(chr(10), 0, at.start()) + 1}: {at[0]}" for at in RARE.finditer(text)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_plain(path: Path) -> None:
    """A rare word is named with its line."""
    assert rare_words(path.read_text()) == []


def test_rare_words_are_found_over_line_ends_and_in_capitals() -> None:
    """Words that only contain one, such as besides, are fine."""
    assert rare_words("Told\nof so\n  many, besides") == ["1: Told", "2: so\n  many"]
