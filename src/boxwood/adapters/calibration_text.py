"""Calibration text to batches of token ids, by a model's own tokenizer."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood.adapters.resident import open_config, open_tokenizer
from boxwood.core.errors import BoxwoodError

Tokens = dict[str, Tensor]


def stream_batches(
    tokenizer: Any, text: str, *, samples: int = 128, length: int = 2048, size: int = 8
) -> list[Tokens]:
    """Cut a text into pieces of so many tokens, evenly spread over it: for language models.

    Args:
        tokenizer: from `boxwood.adapters.resident.open_tokenizer`.
        text: at least ``samples · length`` tokens; what is read should resemble it.
        samples: pieces, at least 1. The papers take 128.
        length: tokens of each. The papers take what the model was trained with.
        size: pieces in a batch.

    Raises:
        BoxwoodError: the text is too short.

    Example:
        >>> class Letters:
        ...     def __call__(self, text, **settings):
        ...         return {"input_ids": [ord(letter) for letter in text]}
        >>> stream_batches(Letters(), "abcdef", samples=2, length=2)
        [{'input_ids': tensor([[ 97,  98],
                [101, 102]])}]

    Source: Frantar and Alistarh (2023), section 4.
    Differs from the paper: pieces are spread evenly, not drawn at random.
    """
    _check(samples, length, size)
    ids: list[int] = []
    for part in _parts(text):
        ids += tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < samples * length:
        raise BoxwoodError(
            f"Expected calibration text of at least {samples} x {length} = {samples * length} "
            f"tokens, got {len(ids)}; give more text, or ask for fewer or shorter samples."
        )
    last = len(ids) - length
    starts = [round(place * last / max(samples - 1, 1)) for place in range(samples)]
    pieces = torch.tensor([ids[start : start + length] for start in starts])
    return [{"input_ids": part} for part in pieces.split(size)]


def line_batches(
    tokenizer: Any, text: str, *, samples: int = 128, length: int = 256, size: int = 8
) -> list[Tokens]:
    r"""Take lines of a text as examples of their own: for encoders of sentences.

    Lines of equally many tokens share a batch, so that nothing is padded and no padding counts.

    Args:
        tokenizer: from `boxwood.adapters.resident.open_tokenizer`.
        text: lines; empty ones are passed over.
        samples: lines that are taken, evenly spread over the text, at least 1.
        length: tokens after which a line is cut.
        size: lines in a batch at the most.

    Raises:
        BoxwoodError: there are too few lines.

    Example:
        >>> class Letters:
        ...     def __call__(self, lines, **settings):
        ...         return {"input_ids": [[ord(letter) for letter in line] for line in lines]}
        >>> [batch["input_ids"].shape for batch in line_batches(Letters(), "ab\nc\nde", samples=3)]
        [torch.Size([1, 1]), torch.Size([2, 2])]
    """
    _check(samples, length, size)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < samples:
        raise BoxwoodError(
            f"Expected calibration text of at least {samples} lines, got {len(lines)}; give more "
            f"text, or ask for fewer samples."
        )
    last = len(lines) - 1
    taken = [lines[round(place * last / max(samples - 1, 1))] for place in range(samples)]
    ids = tokenizer(taken, truncation=True, max_length=length)["input_ids"]
    groups: dict[int, list[list[int]]] = {}
    for each in ids:
        groups.setdefault(len(each), []).append(each)
    return [
        {"input_ids": part}
        for _, group in sorted(groups.items())
        for part in torch.tensor(group).split(size)
    ]


def batches_for(
    folder: Path,
    text: str,
    *,
    lines: bool = False,
    samples: int = 128,
    length: int | None = None,
    size: int = 8,
) -> list[Tokens]:
    """Make batches for a model by the tokenizer that lies beside it.

    Args:
        folder: config.json and tokenizer.
        text: calibration text.
        lines: by `line_batches` instead of `stream_batches`.
        samples: pieces or lines.
        length: tokens of each; as many as the model takes by default, and not more than 2048.
        size: samples in a batch.

    Raises:
        BoxwoodError: there is no tokenizer, the text is too short, or the model does not take so
            many tokens.

    Example:
        >>> batches = batches_for(Path("llama"), "Once upon a time ...")  # doctest: +SKIP
    """
    tokenizer = open_tokenizer(folder)
    config = open_config(folder)
    # A tokenizer that does not know says so with a number beyond all reason.
    most = min(getattr(config, "max_position_embeddings", 2048), tokenizer.model_max_length)
    length = min(most, 2048) if length is None else length
    if length > most:
        raise BoxwoodError(
            f"Expected samples of at most {most} tokens, which is what the model takes, got "
            f"{length}; ask for shorter ones."
        )
    cut = line_batches if lines else stream_batches
    return cut(tokenizer, text, samples=samples, length=length, size=size)


def _parts(text: str, size: int = 1 << 18) -> Iterator[str]:
    """Cut a text at ends of lines: tokenizers take hundreds of bytes for every character."""
    part: list[str] = []
    length = 0
    for line in re.split(r"(?<=\n)(?=\S)", text):  # never within a run of white space
        part.append(line)
        length += len(line)
        if length >= size:
            yield "".join(part)
            part, length = [], 0
    if part:
        yield "".join(part)


def _check(samples: int, length: int, size: int) -> None:
    if min(samples, length, size) < 1:
        raise BoxwoodError(
            f"Expected samples, length and batch size of at least 1, got {samples}, {length} and "
            f"{size}; correct them."
        )
