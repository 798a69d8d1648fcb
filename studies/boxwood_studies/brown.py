"""The Brown corpus of American English, put into the form of the Penn Treebank set."""

import re
from collections.abc import Iterator
from pathlib import Path

from boxwood._internal.data.data_paths import find_folder, folders_to_search
from boxwood._internal.data.text import HELD_OUT_LENGTH, LENGTH, corpus
from boxwood.data import Splits
from boxwood.errors import InvalidInput

_FILES = 500
_NAME = re.compile(r"c[a-r][0-9]{2}")
_EVERY, _VALIDATION, _TEST = 14, 3, 4
_NUMBER = re.compile(r"\$?[0-9][0-9.,:/%-]*(?:st|nd|rd|th|s)?")
_CLITIC = re.compile(r"(.+)(n't|'(?:s|d|m|re|ve|ll))")


def brown(
    root: str | None = None,
    *,
    words: int | None = 10_000,
    length: int = LENGTH,
    held_out_length: int = HELD_OUT_LENGTH,
) -> Splits:
    """Load the Brown corpus: a million words, as many as the Penn Treebank set has.

    The 500 tagged files ``ca01`` to ``cr09`` are looked for in ``root``, ``$BROWN_DIR`` and
    ``$BOXWOOD_DATA/brown``. Of every genre, each 14th file is for validation and the next one for
    the test, so no text is in two parts.

    Args:
        root: folder to look in first.
        words: as for `corpus`.
        length: as for `Corpus.splits`.
        held_out_length: likewise.

    Raises:
        InvalidInput: no place holds the 500 files, or one is not tagged text.

    Example:
        >>> brown().classes  # doctest: +SKIP
        10000

    Source: W. N. Francis, H. Kucera, "Brown Corpus Manual", Brown University, 1979. Words are
    written as in Mikolov et al. (2010): see `ptb_words`.
    """
    texts: tuple[list[list[str]], ...] = ([], [], [])
    for part, path in _parts(root):
        written = (
            [each for word in words for each in ptb_words(word)]
            for words in map(_words, _read(path))
        )
        texts[part].extend(filter(None, written))
    return corpus("brown", *texts, words=words).splits(length, held_out_length)


def brown_sentences(root: str | None = None) -> tuple[list[list[str]], ...]:
    """Read the sentences of the Brown corpus as they were printed, for text that is to be spoken.

    Args:
        root: folder to look in first.

    Returns:
        Training, validation and test sentences, of the files that `brown` has in these parts: words
        and punctuation marks, capitals and all.

    Raises:
        InvalidInput: as for `brown`.

    Example:
        >>> brown_sentences()[0][1][:5]  # doctest: +SKIP
        ['The', 'jury', 'further', 'said', 'in']

    Source: as for `brown`.
    """
    texts: tuple[list[list[str]], ...] = ([], [], [])
    for part, path in _parts(root):
        texts[part].extend(map(_words, _read(path)))
    return texts


def brown_parts_of_speech(root: str | None = None) -> tuple[list[list[tuple[str, str]]], ...]:
    """Read the sentences of the Brown corpus as words with their parts of speech.

    Words are in lower case. Of a tag like ``np$-hl`` the first part counts: ``np$``.

    Args:
        root: folder to look in first.

    Returns:
        Sentences of the training, validation and test part.

    Raises:
        InvalidInput: no place holds the 500 files, or one is not tagged text.
    """
    found: tuple[list[list[tuple[str, str]]], ...] = ([], [], [])
    for part, path in _parts(root):
        found[part].extend(
            [(word.lower(), tag.partition("-")[0] or tag) for word, tag in sentence]
            for sentence in _read(path)
        )
    return found


def ptb_words(word: str) -> list[str]:
    """Write one word as the Penn Treebank set does.

    Lower case; what has no letter and no digit is left out; a number is ``N``; the end of a
    contraction or a possessive is a word of its own.

    Example:
        >>> [ptb_words(word) for word in ("Didn't", "Atlanta's", "1,250", "boys'", ";")]
        [['did', "n't"], ['atlanta', "'s"], ['N'], ['boys', "'"], []]
    """
    word = word.lower()
    if not any(character.isalnum() for character in word):
        return []
    if _NUMBER.fullmatch(word):
        return ["N"]
    if match := _CLITIC.fullmatch(word):
        return list(match.groups())
    return [word[:-1], "'"] if word.endswith("s'") else [word]


def _parts(root: str | None) -> Iterator[tuple[int, Path]]:
    """List the files, each with the number of its part: 0 training, 1 validation, 2 test."""
    folder = find_folder(
        "the 500 files of the Brown corpus",
        folders_to_search(root, "BROWN_DIR", "brown"),
        lambda place: len(_files(place)) == _FILES,
        "run `make data`, or set BROWN_DIR to the folder of ca01 to cr09.",
    )
    seen: dict[str, int] = {}
    for path in _files(folder):
        genre = path.name[1]
        place = seen.get(genre, 0) % _EVERY
        seen[genre] = seen.get(genre, 0) + 1
        yield {_VALIDATION: 1, _TEST: 2}.get(place, 0), path


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _words(sentence: list[tuple[str, str]]) -> list[str]:
    return [word for word, _ in sentence]


def _read(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Read sentences, one a line of words that are each followed by a slash and their tag."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Expected a readable file of the Brown corpus at {path}, got {type(error).__name__}: "
            f"{error}; fetch it again."
        ) from error
    for line in lines:
        written: list[tuple[str, str]] = []
        for token in line.split():
            word, slash, tag = token.rpartition("/")
            if not (word and slash and tag):
                raise InvalidInput(
                    f"Expected words with a slash and a tag in {path}, got {token!r}; give the "
                    f"tagged form of the corpus."
                )
            written.append((word, tag))
        if written:
            yield written
