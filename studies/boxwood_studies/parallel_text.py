"""Sentences and their translations, from two plain files that agree line by line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwood._internal.data.splits import fingerprint
from boxwood._internal.data.text import UNKNOWN
from boxwood.data import Splits
from boxwood.errors import InvalidInput
from boxwood_studies.pairs import paired

_PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class ParallelText:
    """A parallel text in numbers, and the words that they stand for.

    Args:
        splits: the examples; see `boxwood_studies.pairs.paired`.
        sources: words of the source language; word i has the number i + 1.
        targets: words of the target language, likewise.
    """

    splits: Splits
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def sentence(self, tokens: Sequence[int]) -> str:
        """Write a target as text.

        Args:
            tokens: numbers from 1.
        """
        return " ".join(self.targets[token - 1] for token in tokens)


def parallel_text(
    folder: str, *, source: str, target: str, words: int | None = None, longest: int = 50
) -> ParallelText:
    r"""Read a folder of parallel text: ``train.en`` and ``train.de``, and so for valid and test.

    The files are UTF-8, a sentence a line, tokens between blanks: cut the text into subwords before,
    as translation usually does, such as by SentencePiece. The training text decides the
    vocabularies. A training pair in which a sentence is empty or too long is left out; the other
    parts are read as they are, and an empty sentence in them is an error.

    Args:
        folder: where the six files are.
        source: their ending in the source language, such as ``"en"``.
        target: their ending in the target language.
        words: size of each vocabulary, `UNKNOWN` among them: the most frequent words, of equals
            the first in the alphabet; None for all.
        longest: tokens of a training sentence at most.

    Raises:
        InvalidInput: a file cannot be read, two files differ in their number of lines, a part has
            no pair, or a sentence of valid or test is empty.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "valid", "test"):
        ...         _ = pathlib.Path(folder, f"{part}.en").write_text("a house\na a cat\n")
        ...         _ = pathlib.Path(folder, f"{part}.de").write_text("ein Haus\neine Katze\n")
        ...     text = parallel_text(folder, source="en", target="de")
        >>> text.sources, text.splits.classes
        (('<unk>', 'a', 'cat', 'house'), 6)
        >>> text.splits.train.inputs[0]
        tensor([[2, 4, 0],
                [0, 4, 2]])
        >>> text.sentence([4, 2])
        'ein Haus'

    Source: the form of the WMT16 sets that Zhu and Gupta (2017), section 4.3, prune GNMT on.
    """
    if longest < 1 or (words is not None and words < 2):
        raise InvalidInput(
            f"Expected longest >= 1 and a vocabulary of words >= 2, {UNKNOWN} among them, got "
            f"longest={longest}, words={words}; 50 and 32,000 are usual."
        )
    pairs = {part: _pairs(Path(folder), part, source, target) for part in _PARTS}
    pairs["train"] = [
        pair for pair in pairs["train"] if all(0 < len(each) <= longest for each in pair)
    ]
    sources, targets = (
        _vocabulary([pair[side] for pair in pairs["train"]], words) for side in (0, 1)
    )
    ours, theirs = ({w: i for i, w in enumerate(known, 1)} for known in (sources, targets))
    train, validation, test = (
        paired(
            [_numbered(sentence, ours) for sentence, _ in pairs[part]],
            [_numbered(sentence, theirs) for _, sentence in pairs[part]],
            f"{part} sentences of {folder}",
        )
        for part in _PARTS
    )
    tensors = [x for each in (train, validation, test) for x in (each.inputs, each.targets)]
    splits = Splits(
        f"{Path(folder).name} {source}-{target}",
        train,
        validation,
        test,
        classes=len(targets) + 1,
        identity=fingerprint(" ".join(sources), " ".join(targets), *tensors),
    )
    return ParallelText(splits, sources, targets)


def translation(
    folder: str, *, source: str, target: str, words: int | None = None, longest: int = 50
) -> Splits:
    """Load the examples of `parallel_text` alone, as experiments do; its arguments and errors.

    Example:
        >>> translation("wmt16", source="en", target="de").classes  # doctest: +SKIP
        32001
    """
    return parallel_text(folder, source=source, target=target, words=words, longest=longest).splits


def _pairs(folder: Path, part: str, source: str, target: str) -> list[tuple[list[str], list[str]]]:
    ours, theirs = (_lines(folder / f"{part}.{language}") for language in (source, target))
    if len(ours) != len(theirs):
        raise InvalidInput(
            f"Expected {part}.{source} and {part}.{target} in {folder} to agree line by line, got "
            f"{len(ours)} and {len(theirs)} lines; align them."
        )
    return list(zip(ours, theirs, strict=True))


def _lines(path: Path) -> list[list[str]]:
    try:
        # Not splitlines: a text may hold other line breaks than those that end its lines.
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Expected a readable text in UTF-8 at {path}, got {type(error).__name__}: {error}; "
            f"correct the folder or the ending, or convert the file."
        ) from error
    return [line.split() for line in lines]


def _vocabulary(sentences: Sequence[Sequence[str]], words: int | None) -> tuple[str, ...]:
    counts = Counter(word for sentence in sentences for word in sentence)
    del counts[UNKNOWN]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return (UNKNOWN, *ranked[: None if words is None else words - 1])


def _numbered(sentence: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    return [numbers.get(word, numbers[UNKNOWN]) for word in sentence]
