"""The answer to each example, which a measurement stores so that networks can be compared later."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwood._internal.core.examples import Examples
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.metrics import Accuracy, Evaluation, outputs_of
from boxwood.errors import CheckpointError, InvalidInput


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to the examples of one part, in their order.

    Args:
        right: right answers of each example, int64 [examples]; 0 or 1 where it has one target.
        targets: targets of each, int64 [examples]: 1 for a class, more for words or pixels.
        loss: loss of each, summed over its targets, float32 or float16 [examples]; None if not
            measured.

    Example:
        >>> one_each = Answers(np.array([1, 0, 1]), np.array([1, 1, 1]))
        >>> one_each.facts()
        {'examples': 3, 'right': 'oA=='}
        >>> Answers.read(one_each.facts()).right
        array([1, 0, 1])
    """

    right: np.ndarray
    targets: np.ndarray
    loss: np.ndarray | None = None

    def facts(self) -> dict[str, Any]:
        """Write them as plain JSON: a bit for each example, 1.25 kB for 10,000, in base64.

        Where examples have several targets, right answers and targets are counts, in a byte each
        where they fit. Losses in half precision stay in it.
        """
        found: dict[str, Any] = {"examples": len(self.right)}
        if (self.targets == 1).all() and np.isin(self.right, (0, 1)).all():
            found["right"] = _text(np.packbits(self.right.astype(bool)))
        else:
            found["right"] = _text(_small(self.right))
            found["targets"] = _text(_small(self.targets))
        if self.loss is not None:
            found["loss"] = _text(
                self.loss.astype("<f2" if self.loss.dtype == np.float16 else "<f4")
            )
        return found

    @classmethod
    def of_classes(cls, right: Tensor) -> "Answers":
        """Answers to examples of one target each.

        Args:
            right: which are right, bool [examples].
        """
        return cls(right.cpu().long().numpy(), np.ones(len(right), np.int64))

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "Answers":
        """Read what `facts` wrote.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            count = int(facts["examples"])
            if "targets" in facts:
                right, targets = (
                    _numbers(facts[name], count, {1: "<u1", 4: "<i4"}).astype(np.int64)
                    for name in ("right", "targets")
                )
            else:
                bits = np.frombuffer(_bytes(facts["right"]), np.uint8)
                whole = len(bits) == -(-count // 8)
                right = np.unpackbits(bits, count=count if whole else None).astype(np.int64)
                targets = np.ones(count, np.int64)
            loss = _numbers(facts["loss"], count, {2: "<f2", 4: "<f4"}) if "loss" in facts else None
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"Expected the answers to the examples of a part, got something else ({error!r}); "
                f"measure the network again."
            ) from error
        if any(len(each) != count for each in (right, targets, loss) if each is not None):
            raise CheckpointError(
                f"Expected the answers to {count} examples, got those to {len(right)}; measure the "
                f"network again."
            )
        return cls(right, targets, loss)

    def of(self, what: str = "right") -> np.ndarray:
        """Right answers (``"right"``) or summed losses (``"loss"``) of each example, as floats."""
        found = self.right if what == "right" else self.loss
        if found is None:
            raise InvalidInput(
                "Expected a loss of each example, got only the right answers; measure with "
                "Measure(loss=…)."
            )
        return found.astype(np.float64)


@torch.no_grad()
def examine(
    model: nn.Module, examples: Examples, loss: Loss | None = None
) -> tuple[Accuracy, Answers]:
    """Count right answers, and say which examples they belong to, in one pass.

    Args:
        model: outputs as for `accuracy`.
        examples: likewise.
        loss: a mean over the targets of a batch; with it an `Evaluation` is returned, the same as
            `evaluate`'s, and the loss of each example.

    Raises:
        InvalidInput: there are no examples.

    Example:
        >>> from boxwood.data import InMemory
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> found, answers = examine(nn.Identity(), data)
        >>> found, answers.right
        (Accuracy(correct=2, total=3), array([1, 1, 0]))
    """
    right, targets, losses, summed = [], [], [], 0.0
    for outputs, wanted in outputs_of(model, examples):
        counted = (wanted >= 0).flatten(1).sum(1) if wanted.dim() > 1 else (wanted >= 0).long()
        hits = (outputs.argmax(1) == wanted).long()
        right.append(hits.flatten(1).sum(1) if hits.dim() > 1 else hits)
        targets.append(counted)
        if loss is not None and (whole := int(counted.sum())):
            summed += float(loss(outputs, wanted)) * whole
        if loss is not None:
            losses.append(_summed(loss, outputs, wanted, counted))
    rights, totals = (torch.cat(each).cpu() for each in (right, targets))
    correct, total = int(rights.sum()), int(totals.sum())
    if loss is None:
        return Accuracy(correct, total), Answers(rights.numpy(), totals.numpy())
    answers = Answers(rights.numpy(), totals.numpy(), torch.cat(losses).cpu().numpy())
    return Evaluation(correct, total, summed / total), answers


def _summed(loss: Loss, outputs: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """The loss of each example times its targets: a loss is a mean, so one call for each example."""
    none = torch.zeros((), device=outputs.device)
    return torch.stack([
        loss(outputs[i : i + 1], wanted[i : i + 1]).float() * number if number else none
        for i, number in enumerate(counted.tolist())
    ])  # fmt: skip


def _small(counts: np.ndarray) -> np.ndarray:
    fits = ((counts >= 0) & (counts < 256)).all()
    return counts.astype("<u1" if fits else "<i4")


def _numbers(text: str, count: int, types: Mapping[int, str]) -> np.ndarray:
    """Read as many numbers as there are examples, in the type of that many bytes each."""
    read = _bytes(text)
    # In the widest type, bytes of another length are not as many numbers as there are examples.
    return np.frombuffer(read, types.get(len(read) // max(count, 1), types[max(types)]))


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
