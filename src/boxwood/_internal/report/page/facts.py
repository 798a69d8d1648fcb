"""What a page reads off the facts of a phase, whoever wrote them.

    {part}: {correct, total}            right answers of the part's targets; part is test or validation
    {part}: {loss}, or {part}_loss      mean loss over them
    {part}_perplexity                   exp of a cross-entropy; of networks that read words the loss gives it
    {part}_top5: {correct, total}       targets among the five largest outputs
    mean_iou, mean_iou_validation       overlap of segments
    layers: [LayerCount, …]             what each layer kept

A fact of another shape counts as none.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeGuard

from boxwood._internal.model.counting import LayerCount

Facts = Mapping[str, Any]


def counted(value: Any) -> TypeGuard[Mapping[str, int]]:
    """Say whether a fact counts right answers out of all.

    Example:
        >>> counted({"correct": 9, "total": 10}), counted({"correct": 9}), counted(0.9)
        (True, False, False)
    """
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("correct"), int)
        and isinstance(value.get("total"), int)
        and 0 <= value["correct"] <= value["total"] > 0
        and value["total"] <= _MOST
    )


def number(value: Any) -> float | None:
    """Read a fact that should be a number; None where a phase wrote something else.

    Example:
        >>> number(3), number("three")
        (3.0, None)
    """
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if whole and abs(value) <= _MOST else None


def accuracy_of(facts: Facts, name: str) -> float | None:
    """Read right answers as a fraction of all.

    Example:
        >>> accuracy_of({"test": {"correct": 9, "total": 10}}, "test")
        0.9
    """
    found = facts.get(name)
    return found["correct"] / found["total"] if counted(found) else None


def loss_of(facts: Facts, part: str) -> float | None:
    """Read the mean loss over a part, with its accuracy or alone.

    Example:
        >>> loss_of({"test": {"correct": 1, "total": 2, "loss": 0.7}}, "test")
        0.7
    """
    found = facts.get(part)
    inside = found.get("loss") if isinstance(found, Mapping) else None
    return number(facts.get(f"{part}_loss") if inside is None else inside)


def perplexity_of(facts: Facts, part: str) -> float | None:
    """Read the perplexity of a part: ``exp`` of the mean loss, for a network that reads words.

    Example:
        >>> words = [{"kind": "Embedding"}]
        >>> perplexity_of({"test_loss": 0.0, "layers": words}, "test")
        1.0
        >>> perplexity_of({"test_loss": 0.0}, "test")
    """
    given, loss = number(facts.get(f"{part}_perplexity")), loss_of(facts, part)
    if given is not None or loss is None or loss > _LARGEST or not _reads_words(facts):
        return given
    return math.exp(loss)


def overlap_of(facts: Facts, part: str) -> float | None:
    """Read the mean intersection over union.

    Example:
        >>> overlap_of({"mean_iou": 0.5, "mean_iou_validation": 0.6}, "validation")
        0.6
    """
    return number(facts.get("mean_iou" if part == "test" else f"mean_iou_{part}"))


def describes_a_network(facts: Facts) -> bool:
    """Say whether facts include how good a network is on test examples, as those of `Measure` do.

    Example:
        >>> describes_a_network({"test_loss": 0.3}), describes_a_network({"epochs": 3})
        (True, False)
    """
    readers = (accuracy_of, loss_of, perplexity_of, overlap_of)
    return any(read(facts, "test") is not None for read in readers)


def lowest_loss(history: Any) -> Mapping[str, Any] | None:
    """Find the row of a history where the validation loss was lowest, the first of equal ones.

    Example:
        >>> rows = [{"step": step, "validation_loss": loss} for step, loss in ((1, 0.5), (2, 0.3))]
        >>> lowest_loss(rows)["step"], lowest_loss([{"step": 1}])
        (2, None)
    """
    names = ("validation_loss", "step")
    whole = isinstance(history, list | tuple) and all(
        isinstance(row, Mapping) and None not in [number(row.get(name)) for name in names]
        for row in history
    )
    return min(history, key=lambda row: row["validation_loss"]) if whole and history else None


def layers_of(facts: Facts) -> list[LayerCount]:
    """Read the layers of a measured network; none where that name holds something else."""
    layers, names = facts.get("layers"), {each.name for each in fields(LayerCount)}
    if not isinstance(layers, list) or not all(
        isinstance(layer, dict) and set(layer) == names and _counts(layer) for layer in layers
    ):
        return []
    return [LayerCount(**layer) for layer in layers]


def _counts(layer: Mapping[str, Any]) -> bool:
    """Say whether the figures of a layer are numbers, of at least one weight."""
    texts = (layer["name"], layer["kind"])
    numbers = [number(value) for name, value in layer.items() if name not in ("name", "kind")]
    return (
        all(isinstance(text, str) for text in texts)
        and None not in numbers
        and bool(layer["weights"] > 0)
    )


_MOST = 2**63
"""More than this nobody counts, and numpy cannot."""

_LARGEST = 700.0
"""The exponential of more is no float."""


def _reads_words(facts: Facts) -> bool:
    layers = facts.get("layers")
    return isinstance(layers, list) and any(
        isinstance(layer, Mapping) and layer.get("kind") == "Embedding" for layer in layers
    )
