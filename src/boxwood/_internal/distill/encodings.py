"""Encodings in which a teacher's logits are stored.

Shape suffixes: N examples, C classes, k kept.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from boxwood.errors import InvalidInput

EncodedLogits = dict[str, Tensor]
"""Tensors whose first dimension is the examples."""


class LogitEncoding(Protocol):
    """An encoding of logits. The student learns from the encoded logits, whether on disk or in memory."""

    def encode(self, logits: Tensor) -> EncodedLogits:
        """Logits [N, C] to what is kept of them."""
        ...

    def decode(self, kept: EncodedLogits) -> Tensor:
        """What was kept, to float32 logits [N, C]."""
        ...


@dataclass(frozen=True)
class Float32:
    """All logits in float32: 4 bytes each.

    Example:
        >>> form, logits = Float32(), torch.tensor([[1.0, 2.0]])
        >>> torch.equal(form.decode(form.encode(logits)), logits)
        True
    """

    def encode(self, logits: Tensor) -> EncodedLogits:
        """Keep all."""
        return {"logits": logits.float()}

    def decode(self, kept: EncodedLogits) -> Tensor:
        """Return all."""
        return kept["logits"]


@dataclass(frozen=True)
class Float16:
    """All logits in float16, centred to mean zero: 2 bytes each, 11 bits of precision.

    Centring does not change probabilities, and keeps logits with a large common offset in range.

    Example:
        >>> form = Float16()
        >>> form.decode(form.encode(torch.tensor([[1e6, 1e6 + 2]])))
        tensor([[-1.,  1.]])
    """

    def encode(self, logits: Tensor) -> EncodedLogits:
        """Centre and round."""
        centred = logits.float() - logits.float().mean(1, keepdim=True)
        limit = torch.finfo(torch.float16).max
        return {"logits": centred.clamp(-limit, limit).half()}

    def decode(self, kept: EncodedLogits) -> Tensor:
        """Widen."""
        return kept["logits"].float()


@dataclass(frozen=True)
class TopK:
    """The k largest logits in float16 and the mass of the others: about 4 k bytes an example.

    At temperature 1 the kept classes have their exact probabilities, up to rounding. The other
    classes share the rest equally, each with the logit ``logsumexp(rest) - log(C - k)``. At other
    temperatures this is an approximation, which is better if the rest has less mass.

    Args:
        k: classes kept, at least 1.
        classes: C > k.

    Example:
        >>> form = TopK(1, classes=3)
        >>> p = torch.tensor([[0.5, 0.4, 0.1]])
        >>> form.decode(form.encode(p.log())).softmax(1).round(decimals=2)
        tensor([[0.5000, 0.2500, 0.2500]])
    """

    k: int
    classes: int

    def __post_init__(self) -> None:
        if not 1 <= self.k < self.classes <= torch.iinfo(torch.int32).max:
            raise InvalidInput(
                f"Expected 1 <= k < classes, got k={self.k}, classes={self.classes}; use Float16() "
                f"to keep all logits."
            )

    def encode(self, logits: Tensor) -> EncodedLogits:
        """Keep log-probabilities: the largest, where they are, and of one class of the rest."""
        if logits.shape[1] != self.classes:
            raise InvalidInput(
                f"Expected logits of {self.classes} classes, got {logits.shape[1]}; correct "
                f"TopK(classes=...)."
            )
        logs = logits.float().log_softmax(1)
        values, indices = logs.topk(self.k, dim=1)
        rest = logs.scatter(1, indices, -math.inf).logsumexp(1, keepdim=True)
        limit = torch.finfo(torch.float16).max
        share = (rest - math.log(self.classes - self.k)).clamp(min=-limit)
        kind = torch.int16 if self.classes <= torch.iinfo(torch.int16).max else torch.int32
        return {
            "values": values.clamp(min=-limit).half(),
            "indices": indices.to(kind),
            "rest": share.half(),
        }

    def decode(self, kept: EncodedLogits) -> Tensor:
        """Put the largest where they were, and the share everywhere else."""
        logits = kept["rest"].float().repeat(1, self.classes)
        return logits.scatter_(1, kept["indices"].long(), kept["values"].float())
