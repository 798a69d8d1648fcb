"""Running text as word numbers, and folders in the format of the Penn Treebank."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from boxwood._internal.data.data_paths import find_folder, folders_to_search
from boxwood._internal.data.splits import InMemory, Splits, fingerprint
from boxwood.errors import InvalidInput

UNKNOWN = "<unk>"
END = "<eos>"
"""Ends every sentence."""

LENGTH, HELD_OUT_LENGTH = 35, 400
_PARTS = ("train", "valid", "test")
_NO_TARGET = -100

Sentences = Iterable[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Training, validation and test texts as word numbers.

    Args:
        name: what reports call it.
        vocabulary: the words by number, the most frequent first, including `UNKNOWN` and `END`.
        train: int64 [words] to learn from.
        validation: likewise, to choose by.
        test: likewise, to report.
    """

    name: str
    vocabulary: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor

    def splits(self, length: int = LENGTH, held_out_length: int = HELD_OUT_LENGTH) -> Splits:
        """Cut the texts into rows, whose targets are the words that follow.

        Training rows are in the order of the text, for a training with ``stateful``. Held-out rows
        hold every word that follows another as a target once; the last is filled up with targets
        of -100, which do not count. A network reads each held-out row by itself.

        Args:
            length: words in a training row; gradients reach no further back.
            held_out_length: words in a held-out row; the whole text is the strictest, and slow.

        Raises:
            InvalidInput: a text is shorter than a row.

        Example:
            >>> text = [["a", "b", "a"], ["b", "a"]]
            >>> data = corpus("toy", text, text, text).splits(length=2, held_out_length=4)
            >>> data.train.take(torch.tensor([1]))
            (tensor([[0, 1]]), tensor([[1, 2]]))
        """
        validation, test = (_filled(text, held_out_length) for text in (self.validation, self.test))
        return Splits(
            self.name,
            _rows(self.train, length, f"training text of {self.name}"),
            _rows(validation, held_out_length, f"validation text of {self.name}"),
            _rows(test, held_out_length, f"test text of {self.name}"),
            classes=len(self.vocabulary),
            identity=fingerprint(
                f"rows of {length} and {held_out_length}",
                " ".join(self.vocabulary),
                self.train,
                self.validation,
                self.test,
            ),
        )


def corpus(
    name: str,
    train: Sentences,
    validation: Sentences,
    test: Sentences,
    *,
    words: int | None = None,
) -> Corpus:
    """Number the words of three texts; the training text alone decides the vocabulary.

    Args:
        name: what reports call it.
        train: sentences to learn from.
        validation: to choose by.
        test: to report.
        words: size of the vocabulary, `UNKNOWN` and `END` among them: the most frequent words,
            of equals the first in the alphabet; None for all.

    Raises:
        InvalidInput: a text is empty, or ``words`` leaves no word.

    Example:
        >>> text = [["a", "b", "a"], ["c", "a", "b"]]
        >>> found = corpus("toy", text, text, [["a", "z"]], words=4)
        >>> found.vocabulary, found.test
        (('a', '<eos>', 'b', '<unk>'), tensor([0, 3, 1]))
    """
    texts = [list(_words(text)) for text in (train, validation, test)]
    for part, text in zip(_PARTS, texts, strict=True):
        if not text:
            raise InvalidInput(
                f"Expected words in the {part} text of {name}, got none; add some text."
            )
    if words is not None and words < 3:
        raise InvalidInput(
            f"Expected a vocabulary of at least 3 words, {UNKNOWN} and {END} among them, got "
            f"words={words}; 10,000 is usual."
        )
    counts = Counter(texts[0])
    del counts[UNKNOWN], counts[END]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    kept = set(ranked[: None if words is None else words - 2])
    counts = Counter(word if word in kept or word == END else UNKNOWN for word in texts[0])
    counts[UNKNOWN] += 0  # numbered even where the training text knows every word
    vocabulary = tuple(sorted(counts, key=lambda word: (-counts[word], word)))
    numbers = {word: number for number, word in enumerate(vocabulary)}
    unknown = numbers[UNKNOWN]
    return Corpus(
        name,
        vocabulary,
        *(torch.tensor([numbers.get(word, unknown) for word in text]) for text in texts),
    )


def ptb(
    root: str | None = None,
    *,
    words: int | None = None,
    length: int = LENGTH,
    held_out_length: int = HELD_OUT_LENGTH,
) -> Splits:
    """Load a folder in the format of the Penn Treebank language-modelling set.

    Three files of UTF-8 text, one sentence per line, with words separated by blanks:
    ``ptb.train.txt``,
    ``ptb.valid.txt`` and ``ptb.test.txt``, or the same without ``ptb.``. They are looked for in
    ``root``, ``$PTB_DIR`` and ``$BOXWOOD_DATA/ptb``; BOXWOOD_DATA is ``.data`` if not set.

    Args:
        root: folder to look in first.
        words: as for `corpus`.
        length: as for `Corpus.splits`.
        held_out_length: likewise.

    Raises:
        InvalidInput: no place holds all three files, or one cannot be read.

    Example:
        >>> ptb(length=20).classes  # doctest: +SKIP
        10000

    Source: Mikolov et al., "Recurrent neural network based language model", 2010, for the set;
    its words are lower case, numbers are N, and rare words `UNKNOWN`.
    """
    folder = find_folder(
        "the three files of ptb",
        folders_to_search(root, "PTB_DIR", "ptb"),
        lambda place: all(_file(place, part) for part in _PARTS),
        "set PTB_DIR to the folder of ptb.train.txt, ptb.valid.txt and ptb.test.txt.",
    )
    texts = (_lines(path) for part in _PARTS if (path := _file(folder, part)))
    return corpus("ptb", *texts, words=words).splits(length, held_out_length)


def _file(folder: Path, part: str) -> Path | None:
    candidates = (folder / f"ptb.{part}.txt", folder / f"{part}.txt")
    return next((path for path in candidates if path.is_file()), None)


def _lines(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Expected a readable text in UTF-8 at {path}, got {type(error).__name__}: {error}; "
            f"convert it."
        ) from error


def _words(sentences: Sentences) -> Iterator[str]:
    for sentence in sentences:
        if sentence:
            yield from sentence
            yield END


def _rows(text: Tensor, length: int, what: str) -> InMemory:
    count = (len(text) - 1) // length if length >= 1 else 0
    if not count:
        raise InvalidInput(
            f"Expected rows of 1 to {len(text) - 1} words of the {what}, got rows of {length}; "
            f"give a longer text, or shorter rows."
        )
    inputs, targets = text[: count * length], text[1 : count * length + 1]
    # What fills up the last row is read as some word or other: nothing after it counts.
    return InMemory(inputs.clamp(min=0).view(count, length), targets.view(count, length))


def _filled(text: Tensor, length: int) -> Tensor:
    """Lengthen a text to whole rows by targets that do not count."""
    missing = -(len(text) - 1) % length if length >= 1 else 0
    return torch.cat([text, text.new_full((missing,), _NO_TARGET)])
