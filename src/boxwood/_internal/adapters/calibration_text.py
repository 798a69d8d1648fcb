"""Turn calibration text into batches of token ids, with a model's own tokenizer."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.adapters.resident import open_config, open_tokenizer
from boxwood.errors import InvalidInput

Tokens = dict[str, Tensor]

_SAMPLES = 128  # of the papers
_FEWEST, _SHORTEST = 8, 64  # pieces of a short text, and tokens of each


def stream_batches(
    tokenizer: Any,
    text: str,
    *,
    samples: int | None = None,
    length: int | None = None,
    longest: int = 2048,
    size: int = 8,
) -> list[Tokens]:
    """Cut a text into pieces of equal length, evenly spread over it: for language models.

    Args:
        tokenizer: from `boxwood._internal.adapters.resident.open_tokenizer`.
        text: at least ``samples · length`` tokens; what is read should resemble it.
        samples: pieces, at least 1; by default 128, as the papers take, or as many as the text has.
        length: tokens of each; by default ``longest``, or an eighth of a shorter text.
        longest: tokens that the model takes, and the papers take 2048.
        size: pieces in a batch.

    Raises:
        InvalidInput: the text is too short.

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
    ids = token_ids(tokenizer, text)
    if length is None:
        length = min(longest, max(len(ids) // (samples or _FEWEST), _SHORTEST))
    samples = min(_SAMPLES, max(len(ids) // length, 1)) if samples is None else samples
    _check(samples, length, size)
    if len(ids) < samples * length:
        raise InvalidInput(
            f"Expected calibration text of at least {samples} x {length} = {samples * length} "
            f"tokens, got {len(ids)}; give more text, or ask for fewer or shorter samples."
        )
    last = len(ids) - length
    starts = [round(place * last / max(samples - 1, 1)) for place in range(samples)]
    pieces = torch.tensor([ids[start : start + length] for start in starts])
    return [{"input_ids": part} for part in pieces.split(size)]


def line_batches(
    tokenizer: Any,
    text: str,
    *,
    samples: int | None = None,
    length: int | None = None,
    longest: int = 2048,
    size: int = 8,
) -> list[Tokens]:
    r"""Take lines of a text as examples of their own: for encoders of sentences.

    Lines of the same number of tokens share a batch, so that nothing is padded and no padding counts.

    Args:
        tokenizer: from `boxwood._internal.adapters.resident.open_tokenizer`.
        text: lines; empty ones are passed over.
        samples: lines that are taken, evenly spread over the text, at least 1; by default 128, or
            as many as there are.
        length: tokens after which a line is cut; ``longest`` by default.
        longest: tokens that the model takes.
        size: lines in a batch at the most.

    Raises:
        InvalidInput: there are too few lines.

    Example:
        >>> class Letters:
        ...     def __call__(self, lines, **settings):
        ...         return {"input_ids": [[ord(letter) for letter in line] for line in lines]}
        >>> [batch["input_ids"].shape for batch in line_batches(Letters(), "ab\nc\nde", samples=3)]
        [torch.Size([1, 1]), torch.Size([2, 2])]
    """
    lines = [line for line in text.splitlines() if line.strip()]
    samples = min(_SAMPLES, max(len(lines), 1)) if samples is None else samples
    length = longest if length is None else length
    _check(samples, length, size)
    if len(lines) < samples:
        raise InvalidInput(
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
    folder: Path | str,
    text: str,
    *,
    lines: bool = False,
    samples: int | None = None,
    length: int | None = None,
    size: int = 8,
) -> list[Tokens]:
    """Make batches for a model by the tokenizer in its folder.

    Args:
        folder: config.json and tokenizer.
        text: calibration text.
        lines: by `line_batches` instead of `stream_batches`.
        samples: pieces or lines; by default 128, or as many as the text has.
        length: tokens of each; by default as many as the model takes, at most 2048, and less of a
            short text.
        size: samples in a batch.

    Raises:
        InvalidInput: there is no tokenizer or it does not fit, the text is too short, or the model
            does not take ``length`` tokens.

    Example:
        >>> batches = batches_for(Path("llama"), "Once upon a time ...")  # doctest: +SKIP
    """
    tokenizer = open_tokenizer(folder)
    config = open_config(folder)
    # A tokenizer that does not know says so with a number beyond all reason.
    most = min(getattr(config, "max_position_embeddings", 2048), tokenizer.model_max_length)
    if length is not None and length > most:
        raise InvalidInput(
            f"Expected samples of at most {most} tokens, which is what the model takes, got "
            f"{length}; ask for shorter ones."
        )
    cut = line_batches if lines else stream_batches
    found = cut(tokenizer, text, samples=samples, length=length, longest=min(most, 2048), size=size)
    words = getattr(config.get_text_config(), "vocab_size", None)
    highest = max(int(batch["input_ids"].max()) for batch in found)
    if words is not None and highest >= words:
        raise InvalidInput(
            f"Expected a tokenizer whose tokens are below the {words} that the model in {folder} knows, "
            f"got token {highest}; copy the model's own tokenizer there."
        )
    return found


def continuations(batches: Iterable[Tokens]) -> list[Tokens]:
    """Cut every piece in halves: an encoder reads the first, a decoder continues with the second.

    Args:
        batches: ``input_ids`` of at least two tokens.

    Raises:
        InvalidInput: a piece is a single token.

    Example:
        >>> continuations([{"input_ids": torch.arange(4)[None]}])
        [{'input_ids': tensor([[0, 1]]), 'labels': tensor([[2, 3]])}]

    Source: Raffel et al. (2020), section 3.2.1, the prefix language model.
    """
    halves = []
    for batch in batches:
        ids = batch["input_ids"]
        middle = ids.shape[1] // 2
        if not middle:
            raise InvalidInput(
                "Expected pieces of at least two tokens, for an encoder and a decoder, got one; ask "
                "for longer ones."
            )
        first, second = ids[:, :middle].contiguous(), ids[:, middle:].contiguous()
        halves.append({"input_ids": first, "labels": second})
    return halves


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Turn a text into token ids, without special tokens, in little memory.

    Args:
        tokenizer: of transformers.
        text: of any length.

    Example:
        >>> class Letters:
        ...     def __call__(self, text, **settings):
        ...         return {"input_ids": [ord(letter) for letter in text]}
        >>> token_ids(Letters(), "ab")
        [97, 98]
    """
    ids: list[int] = []
    for part in _parts(text):
        ids += tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def held_out(text: str, fraction: float = 0.1) -> tuple[str, str]:
    r"""Split a text at the end of a line, or else of a word: what decides, and what is measured on.

    Args:
        text: at least two words.
        fraction: of its characters to measure on, at the end, in (0, 1).

    Raises:
        InvalidInput: the text cannot be split.

    Example:
        >>> held_out("one\ntwo\nthree\nfour", 0.25)
        ('one\ntwo\nthree\n', 'four')
    """
    most = round(len(text) * (1 - fraction)) + 1
    cut = max(text.rfind("\n", 0, most), 0) or text.rfind(" ", 0, most)
    if not text[: cut + 1].strip() or not text[cut + 1 :].strip():
        raise InvalidInput(
            "Expected text of which the last part can be measured on, got a single word or none; "
            "give more text."
        )
    return text[: cut + 1], text[cut + 1 :]


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
        raise InvalidInput(
            f"Expected samples, length and batch size of at least 1, got {samples}, {length} and "
            f"{size}; correct them."
        )
