"""Language models on texts and tasks: perplexity with its interval, and the difference from a reference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from boxwood._internal.report.estimates import (
    Estimate,
    interval,
    over_seeds,
    over_seeds_and_examples,
)
from boxwood._internal.report.statistics import Interval
from boxwood._internal.train.text_scores import TaskScore, TextScore
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class MeasuredModel:
    """What was measured of one folder.

    Args:
        name: of the model; folders of one name are seeds of one method.
        folder: where it is.
        parameters: of it.
        nonzero: of them.
        bytes: of its weights in memory.
        tokens_per_second: read.
        peak_memory_bytes: that were held at most.
        texts: by name.
        tasks: scores in tasks.
    """

    name: str
    folder: str
    parameters: int
    nonzero: int
    bytes: int
    tokens_per_second: float | None
    peak_memory_bytes: int
    texts: Mapping[str, TextScore] = field(default_factory=dict)
    tasks: Sequence[TaskScore] = ()


@dataclass(frozen=True)
class TextRow:
    """A model on a text.

    Args:
        model: its name.
        text: the text's.
        nats: mean cross-entropy of a token, with its interval over pieces, and over seeds where there are
            several.
        difference: of ``nats`` from the reference's, piece by piece; None for the reference itself.
        bits_per_byte: mean over seeds.
        tokens: that were predicted.
        pieces: that the interval is made of.
        seeds: folders of this name.
    """

    model: str
    text: str
    nats: Interval
    difference: Interval | None
    bits_per_byte: float
    tokens: int
    pieces: int
    seeds: int

    @property
    def perplexity(self) -> Interval:
        """Exp of ``nats`` and of the ends of its interval."""
        return _exp(self.nats)


def text_rows(measured: Sequence[MeasuredModel], against: str | None) -> list[TextRow]:
    """Estimate cross-entropies with 95 % intervals, and what they differ from a reference by.

    The pieces of a text are a sample of text, and what one piece adds is correlated inside; so the
    interval is over pieces, not over tokens. A difference is taken piece by piece, by which what is
    hard about a piece cancels. Several folders of one name are seeds of one method, and the interval
    is over both.

    Args:
        measured: of one name or of several; names in the order of the rows.
        against: name of the reference; None for no differences.

    Raises:
        InvalidInput: the texts of two models have other tokens or pieces, or the reference has several
            seeds or is not there.

    Example:
        >>> score = lambda *nats: TextScore(nats, (2,) * len(nats), bytes=8, tokens_read=4, seconds=1)
        >>> model = lambda name, *nats: MeasuredModel(name, "", 1, 1, 4, 4, 1, {"wiki": score(*nats)})
        >>> rows = text_rows([model("dense", 2.0, 4.0, 3.0), model("pruned", 3.0, 5.2, 3.8)], "dense")
        >>> [f"{row.nats:.2f}" for row in rows]
        ['1.50 [0.26, 2.74]', '2.00 [0.62, 3.38]']
        >>> f"{rows[1].difference:.2f}"
        '0.50 [0.25, 0.75]'

    Source: Cochran (1977), "Sampling techniques", section 6: the error of a ratio of two sums.
    """
    names = list(dict.fromkeys(each.name for each in measured))
    texts = list(dict.fromkeys(text for each in measured for text in each.texts))
    rows = []
    for text in texts:
        of = {n: [m.texts[text] for m in measured if m.name == n] for n in names}
        sizes = _same_pieces(of, text)
        reference = None if against is None else _reference(of, against)
        for name, scores in of.items():
            nats = np.array([score.nats for score in scores])
            compared = reference is not None and name != against
            rows.append(
                TextRow(
                    model=name,
                    text=text,
                    nats=_interval(nats, sizes),
                    difference=_interval(nats - reference, sizes) if compared else None,
                    bits_per_byte=float(np.mean([score.bits_per_byte for score in scores])),
                    tokens=sum(sizes),
                    pieces=len(sizes),
                    seeds=len(scores),
                )
            )
    return rows


def task_interval(score: TaskScore) -> Interval:
    """Give a score its normal 95 % interval over examples.

    Example:
        >>> f"{task_interval(TaskScore('arc', 'acc', 0.5, 0.05, 100)):.1%}"
        '50.0 % [40.2, 59.8]'
    """
    reach = None if score.error is None else 1.959964 * score.error
    return Interval(
        estimate=score.value,
        low=None if reach is None else score.value - reach,
        high=None if reach is None else score.value + reach,
        n=score.examples,
        method="normal, over examples",
    )


def json_rows(
    measured: Sequence[MeasuredModel], rows: Sequence[TextRow]
) -> dict[str, list[dict[str, Any]]]:
    """Write everything as plain data: rows with intervals, and what every folder gave, piece by piece."""
    return {
        "rows": [
            {
                "model": row.model,
                "text": row.text,
                "seeds": row.seeds,
                "tokens": row.tokens,
                "pieces": row.pieces,
                "perplexity": ends(row.perplexity),
                "nats_per_token": ends(row.nats),
                "difference": None if row.difference is None else ends(row.difference),
                "bits_per_byte": row.bits_per_byte,
            }
            for row in rows
        ],
        "folders": [
            {
                "model": each.name,
                "folder": each.folder,
                "parameters": each.parameters,
                "nonzero": each.nonzero,
                "weights_bytes": each.bytes,
                "tokens_per_second": each.tokens_per_second,
                "peak_memory_bytes": each.peak_memory_bytes,
                "texts": {
                    name: {
                        "perplexity": score.perplexity,
                        "nats_per_token": score.nats_per_token,
                        "bits_per_byte": score.bits_per_byte,
                        "tokens": sum(score.tokens),
                        "bytes": score.bytes,
                        "tokens_read": score.tokens_read,
                        "seconds": score.seconds,
                        "piece_nats": list(score.nats),
                        "piece_tokens": list(score.tokens),
                    }
                    for name, score in each.texts.items()
                },
                "tasks": [vars(score) for score in each.tasks],
            }
            for each in measured
        ],
    }


def ends(found: Interval) -> dict[str, float | None]:
    """An interval as plain data."""
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def _interval(sums: np.ndarray, sizes: Sequence[int]) -> Interval:
    """Nats of seeds and pieces [S, P] to the mean of a token."""
    if len(sizes) < 2:
        found: Estimate = over_seeds([float(each.sum() / sum(sizes)) for each in sums])
    else:
        found = over_seeds_and_examples(sums, np.array(sizes))
    made = interval(found)
    # Interval counts seeds; with a single one its words would say that there is no interval.
    return replace(made, n=max(made.n, len(sizes)))


def _same_pieces(of: Mapping[str, Sequence[TextScore]], text: str) -> tuple[int, ...]:
    found = {score.tokens: name for name, scores in of.items() for score in scores}
    if len(found) > 1:
        (sizes, name), (other, second) = list(found.items())[:2]
        raise InvalidInput(
            f"Expected models that cut {text} into the same tokens, got {sum(sizes)} for {name} and "
            f"{sum(other)} for {second}; evaluate models with different tokenizers in separate "
            f"calls, and compare bits per byte."
        )
    return next(iter(found))


def _reference(of: Mapping[str, Sequence[TextScore]], against: str) -> np.ndarray:
    scores = of.get(against, ())
    if len(scores) != 1:
        raise InvalidInput(
            f"Expected one folder to compare with, got {len(scores)} of the name {against!r}; name "
            f"another."
        )
    return np.array(scores[0].nats)


def _exp(found: Interval) -> Interval:
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return replace(found, estimate=math.exp(found.estimate), low=low, high=high)
