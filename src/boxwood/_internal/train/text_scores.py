"""How well a language model predicts a text: the tokens that each window predicts, and their sum."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from boxwood.errors import InvalidInput

_AT_ONCE = 1024  # tokens whose probabilities are in memory at a time


@dataclass(frozen=True)
class Window:
    """A part of a text that a model reads in one call.

    Args:
        start: place of its first token in the text.
        stop: place after the last token that it predicts.
        first: place of the first token that it predicts and no earlier window does.
    """

    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class TextScore:
    """What a model made of one text, added up by pieces of the same number of predicted tokens.

    Args:
        nats: of each piece, the sum of ``-log p`` over its tokens.
        tokens: that were predicted in each piece; the last piece may have fewer.
        bytes: of the predicted text in UTF-8.
        tokens_read: that went through the model; with a stride below the length some do repeatedly.
        seconds: that this took.

    Example:
        >>> score = TextScore((2.0, 1.0), (2, 1), bytes=6, tokens_read=4, seconds=0.5)
        >>> score.nats_per_token, round(score.perplexity, 3), round(score.bits_per_byte, 3)
        (1.0, 2.718, 0.721)
    """

    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: int
    tokens_read: int
    seconds: float

    @property
    def nats_per_token(self) -> float:
        """Mean cross-entropy of a token."""
        return sum(self.nats) / sum(self.tokens)

    @property
    def perplexity(self) -> float:
        """Exp of `nats_per_token`."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy of a byte of the text: comparable between tokenizers."""
        return sum(self.nats) / math.log(2) / self.bytes


@dataclass(frozen=True)
class TaskScore:
    """What a language model scored in a task.

    Args:
        task: its name.
        metric: such as acc or acc_norm.
        value: the score.
        error: its standard error over the examples; None where it is not known.
        examples: that were answered.

    Example:
        >>> TaskScore("piqa", "acc", 0.68, 0.011, 1838).metric
        'acc'
    """

    task: str
    metric: str
    value: float
    error: float | None
    examples: int


def windows(count: int, length: int, stride: int, *, prefixed: bool = False) -> Iterator[Window]:
    """Cut a text into windows so that every token but the first is predicted exactly once.

    A window begins every ``stride`` tokens and holds ``length``; it predicts the token after each
    of its own, and those that an earlier window predicted are not counted again. So every token but
    those of the first window has at least ``length - stride`` tokens before it.

    Args:
        count: tokens of the text.
        length: tokens that the model reads at a time.
        stride: tokens between the starts of windows, in [1, length].
        prefixed: whether each window begins with a token that is not of the text, by which the first
            token of the text is predicted too.

    Example:
        >>> [(w.start, w.stop, w.first) for w in windows(6, 3, 2)]
        [(0, 4, 1), (2, 6, 4)]
        >>> [(w.start, w.stop, w.first) for w in windows(6, 3, 3, prefixed=True)]
        [(0, 3, 0), (3, 6, 3)]

    Source: transformers' documentation, "Perplexity of fixed-length models".
    Differs from it: windows end one token later, so that none is left out where one window ends and
    the next begins.
    """
    ahead = 0 if prefixed else 1
    start, done = 0, ahead
    while done < count:
        stop = min(start + length + ahead, count)
        yield Window(start, stop, done)
        start, done = start + stride, stop


def score_windows(
    logits_of: Callable[[Tensor], Tensor],
    ids: Tensor,
    *,
    length: int,
    stride: int,
    size: int,
    prefix: int | None = None,
    batch: int = 1,
    watch: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> TextScore:
    """Measure how well a model predicts a text.

    Args:
        logits_of: token ids [N, T] to logits [N, T, V] of the next token.
        ids: int64 [T], the text.
        length: tokens that are read at a time.
        stride: tokens between the starts of two windows, in [1, length].
        size: bytes of the text in UTF-8, without the first token's where that is not predicted.
        prefix: token with which each window begins, such as that of the beginning of a text.
        batch: windows in a call.
        watch: called with tokens that are predicted, and of all tokens.

    Raises:
        InvalidInput: the text is shorter than one window, or the model makes a number that is not
            finite.

    Example:
        >>> even = lambda ids: torch.zeros(*ids.shape, 8)
        >>> score = score_windows(even, torch.arange(6), length=3, stride=2, size=5)
        >>> score.tokens, round(score.perplexity, 4)
        ((3, 2), 8.0)
    """
    ahead = 0 if prefix is not None else 1
    if len(ids) < length + ahead:
        raise InvalidInput(
            f"Expected a text of at least {length + ahead} tokens for one piece of {length}, got "
            f"{len(ids)}; give more text, or a smaller length."
        )
    begun = time.perf_counter()
    cut = list(windows(len(ids), length, stride, prefixed=prefix is not None))
    losses, read = torch.empty(len(ids) - ahead), 0
    for group in _alike(cut, batch):
        texts = torch.stack([ids[each.start : each.stop - 1] for each in group])
        if prefix is not None:
            texts = functional.pad(texts, (1, 0), value=prefix)
        with torch.no_grad():
            logits = logits_of(texts)
        read += texts.numel()
        for each, mine in zip(group, logits, strict=True):
            predicting = mine[each.first - ahead - each.start :]
            targets = ids[each.first : each.stop].to(mine.device)
            losses[each.first - ahead : each.stop - ahead] = _nats(predicting, targets)
        watch(group[-1].stop - ahead, len(losses))
    if not losses.isfinite().all():
        raise InvalidInput(
            "Expected finite losses of a language model, got NaN or infinite ones; the weights "
            "are damaged, or half precision is not precise enough: try float32."
        )
    pieces = losses.double().split(length)
    return TextScore(
        nats=tuple(float(piece.sum()) for piece in pieces),
        tokens=tuple(map(len, pieces)),
        bytes=size,
        tokens_read=read,
        seconds=time.perf_counter() - begun,
    )


def _alike(cut: list[Window], batch: int) -> Iterator[list[Window]]:
    """Put windows of equal length together; only the last ones of a text are shorter."""
    group: list[Window] = []
    for each in cut:
        if group and (
            len(group) == batch or each.stop - each.start != group[0].stop - group[0].start
        ):
            yield group
            group = []
        group.append(each)
    yield group


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    parts = [
        functional.cross_entropy(some.float(), wanted, reduction="none")
        for some, wanted in zip(logits.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True)
    ]
    return torch.cat(parts).cpu()
