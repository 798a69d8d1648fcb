"""How well a language model of transformers predicts a text."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.extras import extra
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers


def perplexity(
    model: transformers.PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> float:
    """Measure exp of the mean cross-entropy of the next token.

    Args:
        model: a language model, in evaluation.
        batches: ``input_ids`` [pieces, tokens], as `batches_for` makes them;
            the first token of each piece is not predicted. Of an encoder and a decoder, ``labels``
            too, all of which are.

    Raises:
        InvalidInput: no token is predicted, or the model returns no loss.

    Example:
        >>> config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2)
        >>> model = transformers.GPT2LMHeadModel(config).eval()
        >>> _ = model.lm_head.weight.data.zero_()
        >>> round(perplexity(model, [{"input_ids": torch.arange(6)[None]}]), 4)
        8.0
    """
    total = predicted = 0.0
    for batch in batches:
        # Parameters that are read when they are called have no device before.
        device = "cpu" if model.device.type == "meta" else model.device
        ids = batch["input_ids"].to(device)
        labels = batch["labels"].to(device) if "labels" in batch else ids
        with torch.no_grad():
            loss: Any = model(input_ids=ids, labels=labels, use_cache=False).loss
        if loss is None:
            raise InvalidInput(
                f"Expected a language model that returns a loss for labels, got "
                f"{type(model).__name__}; give a causal language model."
            )
        count = labels.numel() if "labels" in batch else ids.shape[0] * (ids.shape[1] - 1)
        total, predicted = total + float(loss) * count, predicted + count
    if not predicted:
        raise InvalidInput(
            "Expected pieces of at least two tokens to measure on, got none; give more text."
        )
    return math.exp(total / predicted)
