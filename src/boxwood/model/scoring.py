"""Gather the evidence that a criterion names, and call it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from boxwood.core.errors import BoxwoodError
from boxwood.core.masks import Masks
from boxwood.core.selection import check_finite
from boxwood.core.spec import Call

Criterion = Callable[..., Tensor]
"""A function as described in `boxwood.core.criteria`, or a `Call` of one with settings."""


def score(
    weights: Mapping[str, Tensor], criterion: Criterion, *, masks: Masks | None = None
) -> dict[str, Tensor]:
    """Score every weight with a criterion.

    Args:
        weights: tensors by dotted name.
        criterion: its positional parameters, out of ``weight``, ``mask`` and ``name``, say what it
            is given.
        masks: the masks so far; a tensor without one counts as whole.

    Returns:
        Scores of the same names and shapes.

    Raises:
        BoxwoodError: the criterion names other evidence, a weight is NaN or infinite, or the
            scores have another shape.

    Example:
        >>> from boxwood.core.criteria import magnitude
        >>> score({"w": torch.tensor([-3.0, 2.0])}, magnitude)
        {'w': tensor([3., 2.])}
    """
    check_finite(weights, "weights")
    needs = evidence_of(criterion)
    scores = {}
    for name, weight in weights.items():
        gather: dict[str, Callable[[], Any]] = {
            "weight": lambda weight=weight: weight.detach(),  # type: ignore[misc]
            "mask": lambda weight=weight, name=name: _mask_of(weight, name, masks),  # type: ignore[misc]
            "name": lambda name=name: name,  # type: ignore[misc]
        }
        for need in needs:
            if need not in gather:
                raise BoxwoodError(
                    f"Expected a criterion whose positional parameters are among "
                    f"{', '.join(gather)}, got {need!r}; settings go behind a `*`."
                )
        scores[name] = criterion(*(gather[need]() for need in needs))
        if scores[name].shape != weight.shape:
            raise BoxwoodError(
                f"Expected scores of shape {tuple(weight.shape)} for {name!r}, got "
                f"{tuple(scores[name].shape)}; return one score per weight."
            )
    return scores


def evidence_of(criterion: Criterion) -> tuple[str, ...]:
    """Read off what a criterion needs: the names of its positional parameters.

    Example:
        >>> from boxwood.core.criteria import random
        >>> evidence_of(Call.of(random, seed=3))
        ('weight', 'name')
    """
    function = criterion.function if isinstance(criterion, Call) else criterion
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(each.name for each in parameters if each.kind in positional)


def _mask_of(weight: Tensor, name: str, masks: Masks | None) -> Tensor:
    if masks is not None and name in masks:
        return masks[name]
    return torch.ones_like(weight, dtype=torch.bool)
