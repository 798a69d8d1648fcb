"""Documents and code use plain words, because most readers learned English as a foreign language.

Each of the words below has a common one that says the same. Code is read as a whole, so that
docstrings, messages, help texts, comments and names keep to one vocabulary.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLAIN = {
    r"anew": "again",
    r"told": "given, or reported",
    r"so\s+many": "the number",
    r"beside": "next to",
    r"stands": "is",
}
"""A rare word, as a pattern, and what to write."""
PLAINER = PLAIN | {
    r"(?<!points )behind": "after, or under",
    r"besides": "in addition to, or other than",
    r"by\s+turns": "in turn",
    r"in\s+the\s+place\s+of": "instead of, or in place of",
    r"but\s+for(?=\s+(?:the|its|what)\b)": "except for",
    r"shall": "is to, or will",
    r"hence": "so",
    r"thus": "so",
    r"(?<!Once )upon": "on",
    r"rightly": "correctly",
    r"wrongly": "incorrectly",
    r"spoilt": "damaged",
    r"albeit": "although",
    r"whilst": "while",
    r"lest": "so that ... not",
    r"where(?:in|by|of|upon|with)": "in which, by which, ...",
    r"there(?:by|of|upon|with)": "by this, of this, ...",
    r"(?:live\s+or\s+die|lives\s+or\s+dies)": "are kept or pruned together",
    r"equally\s+many": "the same number of",
    r"likeliest": "most probable",
    r"again\s+and\s+again": "repeatedly",
    r"held\s+against": "compared with",
    r"the\s+way\s+out": "what to do",
    r"anybody": "any user, or nothing",
    r"one's\s+own": "your own",
    r"how\s+sure": "how certain",
    r"foretells?": "predict",
}
"""Those that everything but the record of decisions avoids as well."""
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
TEXTS = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "decisions"),
    *sorted((ROOT / "examples").glob("*.py")),
    *sorted((ROOT / "src/boxwood").rglob("*.py")),
]


def rare_words(text: str, plain: dict[str, str] = PLAIN) -> list[str]:
    """List each rare word of a text with its line and the word to take instead."""
    found = [
        (at.start(), f"{text.count(chr(10), 0, at.start()) + 1}: {at[0]}; write {instead}")
        for word, instead in plain.items()
        for at in re.finditer(rf"\b{word}\b", text, re.IGNORECASE)
    ]
    return [said for _, said in sorted(found)]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_of_decisions_are_plain(path: Path) -> None:
    """A rare word is named with its line."""
    assert rare_words(path.read_text()) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_plain(path: Path) -> None:
    """Pages for users, examples and code: messages, help and docstrings."""
    assert rare_words(path.read_text(), PLAINER) == []


def test_rare_words_are_found_over_line_ends_and_in_capitals() -> None:
    """Words that only contain one, such as besides in the short list, are fine."""
    assert rare_words("Told\nof so\n  many, besides") == [
        "1: Told; write given, or reported",
        "2: so\n  many; write the number",
    ]


def test_longer_list() -> None:
    """What has a second, common meaning is left alone."""
    assert rare_words("0.4 points behind; but for a while; Once upon a time", PLAINER) == []
    assert len(rare_words("behind it; all but for the last; rightly; whereby", PLAINER)) == 4
