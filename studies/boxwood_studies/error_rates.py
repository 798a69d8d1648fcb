"""How far sequences are from the ones that were wanted: edits, errors and BLEU."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from boxwood._internal.core.extras import extra
from boxwood.errors import InvalidInput


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Count the insertions, deletions and replacements that make one sequence of another.

    Example:
        >>> edit_distance("kitten", "sitting")
        3

    Source: V. I. Levenshtein, "Binary codes capable of correcting deletions, insertions, and
    reversals", 1966.
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(corner + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@dataclass(frozen=True)
class ErrorRates:
    """Errors of sequences, each against the nearest of its references.

    Of pronunciations, the rate of tokens is the phoneme error rate and that of sequences the word
    error rate.

    Args:
        edits: edits of all sequences together.
        tokens: tokens of the references that they were compared with.
        wrong: sequences that equal none of their references.
        sequences: all of them.

    Example:
        >>> rates = ErrorRates(edits=3, tokens=60, wrong=2, sequences=10)
        >>> rates.token_rate, rates.sequence_rate
        (0.05, 0.2)
    """

    edits: int
    tokens: int
    wrong: int
    sequences: int

    @property
    def token_rate(self) -> float:
        """Edits per token of the references; above 1 where far too much was written."""
        return self.edits / self.tokens

    @property
    def sequence_rate(self) -> float:
        """Wrong sequences as a fraction of all."""
        return self.wrong / self.sequences


def error_rates(
    answers: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Sequence[Hashable]]]
) -> ErrorRates:
    """Hold every answer against the nearest of its references; of equally near ones, the first.

    Args:
        answers: sequences of tokens.
        references: for each answer those that are right, at least one, none of them empty.

    Raises:
        InvalidInput: the numbers differ, or an answer has no reference or an empty one.

    Example:
        >>> error_rates([("R", "EH", "D"), ("K",)], [[("R", "IY", "D"), ("R", "EH", "D")], [("S", "IY")]])
        ErrorRates(edits=2, tokens=5, wrong=1, sequences=2)
    """
    if not answers or len(answers) != len(references):
        raise InvalidInput(
            f"Expected as many answers as lists of references, and at least one, got "
            f"{len(answers)} and {len(references)}; give them in pairs."
        )
    edits = tokens = wrong = 0
    for index, (answer, right) in enumerate(zip(answers, references, strict=True)):
        if not right or not all(right):
            raise InvalidInput(
                f"Expected references with tokens for answer {index}, got {list(right)}; leave "
                f"the answer out."
            )
        distance, length = min(
            ((edit_distance(answer, each), len(each)) for each in right), key=lambda pair: pair[0]
        )
        edits, tokens, wrong = edits + distance, tokens + length, wrong + (distance > 0)
    return ErrorRates(edits, tokens, wrong, len(answers))


@dataclass(frozen=True)
class Bleu:
    """BLEU of a text, in [0, 100]."""

    bleu: float


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """BLEU of whole, detokenised sentences as sacrebleu counts it: what papers compare.

    Args:
        answers: translations.
        references: for each one those that are right, at least one.

    Raises:
        MissingDependency: sacrebleu is not installed.
        InvalidInput: the numbers differ, or a reference is missing.

    Example:
        >>> bleu(["The cat sat on the mat."], [["The cat sat on the mat."]])  # doctest: +SKIP
        Bleu(bleu=100.0)

    Source: K. Papineni et al., "BLEU: a method for automatic evaluation of machine translation",
    2002; M. Post, "A call for clarity in reporting BLEU scores", arXiv:1804.08771, 2018.
    """
    return _bleu(answers, references, "13a")


def token_bleu(
    answers: Sequence[Sequence[int]],
    references: Sequence[Sequence[Sequence[int]]],
    *,
    unknown: int = 1,
) -> Bleu:
    """BLEU of tokens as they are numbered: for a first look, since it depends on how text was cut.

    Args:
        answers: numbers of tokens.
        references: for each answer those that are right, at least one.
        unknown: the number of every unknown word, and so is never right.

    Raises:
        InvalidInput: as for `bleu`.

    Example:
        >>> token_bleu([(5, 2, 7, 3)], [[(5, 2, 7, 3)]])  # doctest: +SKIP
        Bleu(bleu=100.0)

    Source: as for `bleu`.
    """

    def text(tokens: Sequence[int], missing: str) -> str:
        return " ".join(missing if token == unknown else str(token) for token in tokens)

    said = [text(answer, "unknown") for answer in answers]
    return _bleu(said, [[text(each, "missing") for each in right] for right in references], "none")


def _bleu(answers: Sequence[str], references: Sequence[Sequence[str]], tokenize: str) -> Bleu:
    with extra("studies", "sacrebleu for BLEU"):
        import sacrebleu
    if not answers or len(answers) != len(references) or not all(references):
        raise InvalidInput(
            f"Expected a list of references for every answer, and at least one answer, got "
            f"{len(answers)} answers and {sum(map(bool, references))} lists; give them in pairs."
        )
    # It wants a list of all first references, one of all second ones, …; None where there is none.
    most = max(map(len, references))
    streams: Any = [
        [each[i] if i < len(each) else None for each in references] for i in range(most)
    ]
    score = sacrebleu.corpus_bleu(list(answers), streams, tokenize=tokenize, force=True)
    return Bleu(float(score.score))
