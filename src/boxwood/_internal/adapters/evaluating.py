"""Measure the language model in a folder on texts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.adapters.calibration_text import token_ids
from boxwood._internal.adapters.folders import load_folder
from boxwood._internal.adapters.resident import open_config, open_tokenizer
from boxwood._internal.core.extras import extra
from boxwood._internal.core.memory import peak_memory, reset_peak_memory
from boxwood._internal.train.text_scores import TextScore, score_windows
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LONGEST = 2048  # tokens of a piece, where the model takes more


@dataclass(frozen=True)
class EncodedText:
    """A text as token ids.

    Args:
        ids: int64 [tokens].
        bytes: of the text that they cover, in UTF-8.
        first: of it, bytes of the first token.
    """

    ids: Tensor
    bytes: int
    first: int


@dataclass(frozen=True)
class FolderScore:
    """What was measured of one folder.

    Args:
        parameters: of the model, tied ones once.
        nonzero: of them.
        bytes: of the weights in memory.
        texts: by name.
        peak_memory_bytes: the most memory that was held from loading the model on: of the process, or
            of the device where that is no CPU.
        seconds: from loading to the last text.
    """

    parameters: int
    nonzero: int
    bytes: int
    texts: Mapping[str, TextScore]
    peak_memory_bytes: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens read over the time in which they were, of all texts."""
        read = sum(score.tokens_read for score in self.texts.values())
        return read / sum(score.seconds for score in self.texts.values())


def longest_of(folder: Path | str) -> int:
    """Return how many tokens the model in a folder takes, at most `LONGEST`.

    Example:
        >>> longest_of(Path("llama"))  # doctest: +SKIP
        2048
    """
    config, tokenizer = open_config(folder), open_tokenizer(folder)
    most = getattr(config, "max_position_embeddings", None) or LONGEST
    # A tokenizer that does not know says so with a number beyond all reason.
    return int(min(most, tokenizer.model_max_length, LONGEST))


def check_causal(config: Any, folder: Path) -> None:
    """Refuse a model that does not predict the next token.

    Raises:
        InvalidInput: it is an encoder, an encoder-decoder, or has no head.

    Example:
        >>> import transformers
        >>> check_causal(transformers.GPT2Config(architectures=["GPT2LMHeadModel"]), Path("gpt2"))
    """
    name = next(iter(config.architectures or ()), None)
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise InvalidInput(
            f"Expected a model that predicts the next token, such as LlamaForCausalLM, in {folder}, "
            f"got {name}; give the folder of a causal language model."
        )


def encode_text(tokenizer: Any, text: str, tokens: int | None = None) -> EncodedText:
    """Turn a text into token ids, without tokens that are not of the text.

    Args:
        tokenizer: of transformers.
        text: any.
        tokens: of its beginning to take; all by default.

    Raises:
        InvalidInput: the text has fewer tokens than are to be taken, or none.
    """
    ids = token_ids(tokenizer, text)
    if tokens is not None and len(ids) < tokens:
        raise InvalidInput(
            f"Expected a text of at least {tokens} tokens, got {len(ids)}; give more text, or take "
            f"fewer tokens."
        )
    if not ids:
        raise InvalidInput("Expected a text, got one without a token; give more text.")
    taken = ids if tokens is None else ids[:tokens]
    whole = text if len(taken) == len(ids) else _text_of(tokenizer, taken)
    first = _text_of(tokenizer, taken[:1])
    return EncodedText(torch.tensor(taken), len(whole.encode()), len(first.encode()))


def evaluate_pretrained(
    folder: Path | str,
    texts: Mapping[str, str],
    *,
    length: int | None = None,
    stride: int | None = None,
    tokens: int | None = None,
    begin: bool | None = None,
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> FolderScore:
    """Measure perplexity, bits per byte, speed and memory of the language model in a folder.

    Every token of a text but the first is predicted exactly once, by windows of ``length`` tokens
    that begin ``stride`` tokens apart. Sums are kept by pieces of ``length`` predicted tokens, which
    is what intervals are made of.

    Args:
        folder: of ``save_pretrained``, ``boxwood prune``, ``boxwood shrink``, ``boxwood heal`` or
            ``boxwood pack``, with its tokenizer.
        texts: by name; without any, only the model's size is measured.
        length: tokens that the model reads at a time; by default what it takes, at most 2048.
        stride: tokens between the starts of windows, in [1, length]; by default ``length``.
        tokens: of the beginning of each text; all by default.
        begin: whether each window begins with the token of the beginning of a text, which counts as
            one of its ``length``; by default if the tokenizer puts it there itself (Gemma, Llama).
        batch: windows in a call.
        device: where the model is.
        dtype: of the weights; by default as they are stored.
        watch: called with tokens that are done, and of all tokens, for each text.

    Raises:
        InvalidInput: the folder holds no causal language model or no tokenizer, a text is shorter than
            one window, the model does not take ``length`` tokens, or the stride is not in the range.

    Example:
        >>> found = evaluate_pretrained("pruned", {"wiki": text}, length=2048)  # doctest: +SKIP
        >>> found.texts["wiki"].perplexity  # doctest: +SKIP
        17.9
    """
    begun, folder = time.perf_counter(), Path(folder)
    check_causal(open_config(folder), folder)
    tokenizer = open_tokenizer(folder)
    most = longest_of(folder)
    length = most if length is None else length
    stride = length if stride is None else stride
    _check(folder, length, stride, batch)
    prefix = _prefix(tokenizer, begin, folder)
    encoded = {name: encode_text(tokenizer, text, tokens) for name, text in texts.items()}
    device = torch.device(device)
    reset_peak_memory(device)
    model: Any = load_folder(folder)
    _check_vocabulary(model, encoded, folder)
    model = model.to(device=device, dtype=dtype) if dtype else model.to(device)

    def logits_of(ids: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=ids.to(device), use_cache=False).logits
        return logits

    scores = {
        name: score_windows(
            logits_of,
            text.ids,
            length=length,
            stride=stride,
            size=text.bytes - (text.first if prefix is None else 0),
            prefix=prefix,
            batch=batch,
            watch=watch,
        )
        for name, text in encoded.items()
    }
    parameters = list(model.parameters())
    return FolderScore(
        parameters=sum(each.numel() for each in parameters),
        nonzero=sum(int(each.count_nonzero()) for each in parameters),
        bytes=sum(each.numel() * each.element_size() for each in parameters),
        texts=scores,
        peak_memory_bytes=peak_memory(device),
        seconds=time.perf_counter() - begun,
    )


def begins(tokenizer: Any) -> bool:
    """Tell whether a tokenizer puts the token of the beginning before a text.

    Example:
        >>> begins(open_tokenizer("gemma"))  # doctest: +SKIP
        True
    """
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _text_of(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _prefix(tokenizer: Any, begin: bool | None, folder: Path) -> int | None:
    if begin is None:
        begin = begins(tokenizer)
    if not begin:
        return None
    if tokenizer.bos_token_id is None:
        raise InvalidInput(
            f"Expected a tokenizer with a token for the beginning of a text in {folder}, got one "
            f"without; leave begin out."
        )
    return int(tokenizer.bos_token_id)


def _check(folder: Path, length: int, stride: int, batch: int) -> None:
    config = open_config(folder)
    most = getattr(config, "max_position_embeddings", None) or length
    if not 1 <= length <= most:
        raise InvalidInput(
            f"Expected a length in [1, {most}], which is what the model in {folder} takes, got "
            f"{length}; give such a length."
        )
    if not 1 <= stride <= length:
        raise InvalidInput(
            f"Expected a stride in [1, {length}], so that no token is left out, got {stride}; give "
            f"such a stride."
        )
    if batch < 1:
        raise InvalidInput(f"Expected a batch of at least 1, got {batch}; correct it.")


def _check_vocabulary(model: Any, encoded: Mapping[str, EncodedText], folder: Path) -> None:
    rows = model.get_input_embeddings().num_embeddings
    for text in encoded.values():
        if int(text.ids.max()) >= rows:
            raise InvalidInput(
                f"Expected a tokenizer of at most {rows} tokens, which is what the model in {folder} "
                f"has embeddings for, got token {int(text.ids.max())}; copy the tokenizer of this "
                f"model there."
            )
