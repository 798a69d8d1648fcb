"""Gather the evidence that a criterion names, and call it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.placement import check_data
from boxwood._internal.core.selection import check_finite
from boxwood._internal.core.shards import is_distributed, placed_like
from boxwood._internal.model.layer_kinds import Layouts
from boxwood.errors import InvalidInput

Criterion = Callable[..., Tensor]
"""A function as described in `boxwood.criteria`, or a `Call` of one with settings."""


def score(
    weights: Mapping[str, Tensor],
    criterion: Criterion,
    *,
    masks: Masks | None = None,
    evidence: Mapping[str, Mapping[str, Tensor]] | None = None,
    layouts: Layouts | None = None,
) -> dict[str, Tensor]:
    """Score every weight with a criterion.

    Args:
        weights: tensors by dotted name.
        criterion: its positional parameters, out of ``weight``, ``mask``, ``name`` and the names of
            the evidence, say what it is given.
        masks: the masks so far; a tensor without one counts as whole.
        evidence: tensors by the name of the evidence, then by the name of the weight;
            `boxwood._internal.model.evidence.gathering.gather` makes it.
        layouts: of the weights whose first dimension does not count outputs, from
            `boxwood._internal.model.layer_kinds.layouts_of`; a criterion is shown these the other way round.

    Returns:
        Scores of the same names and shapes.

    Raises:
        InvalidInput: the criterion names other evidence, a weight is NaN or infinite, or the
            scores do not fit the weight.

    Example:
        >>> from boxwood.criteria import magnitude, wanda
        >>> score({"w": torch.tensor([-3.0, 2.0])}, magnitude)
        {'w': tensor([3., 2.])}
        >>> norms = {"input_norm": {"w": torch.tensor([1.0, 2.0])}}
        >>> score({"w": torch.tensor([-3.0, 2.0])}, wanda, evidence=norms)
        {'w': tensor([3., 4.])}
    """
    check_data(weights)
    check_finite(weights, "weights")
    needs = evidence_of(criterion)
    scores = {}
    for name, stored in weights.items():
        layout = (layouts or {}).get(name)
        turned = layout.outputs_first if layout is not None else _as_it_is
        weight = turned(stored.detach())
        at_hand: dict[str, Callable[[], Any]] = {
            "weight": lambda weight=weight: weight,  # type: ignore[misc]
            "mask": lambda stored=stored, name=name, turned=turned: turned(  # type: ignore[misc]
                _mask_of(stored, name, masks)
            ),
            "name": lambda name=name: name,  # type: ignore[misc]
        }
        for kind, tensors in (evidence or {}).items():
            at_hand[kind] = lambda tensors=tensors, name=name, turned=turned: (  # type: ignore[misc]
                _shown(tensors[name], weights[name], turned)
            )
        for need in needs:
            if need not in at_hand:
                raise InvalidInput(
                    f"Expected a criterion whose positional parameters are among "
                    f"{', '.join(at_hand)}, or evidence that can be gathered from batches, got "
                    f"{need!r}; put settings after a `*`, and pass your own evidence as evidence=."
                )
        shown = [at_hand[need]() for need in needs]
        given = _on_shards(criterion, shown, name) if is_distributed(weight) else criterion(*shown)
        found = _fitted(given, weight, name)
        scores[name] = found if layout is None else layout.as_stored(found)
    return scores


def _on_shards(criterion: Criterion, shown: list[Any], name: str) -> Tensor:
    """Score a ``DTensor``; torch computes the same as of the whole, or says that it cannot."""
    try:
        found = criterion(*shown)
        if not is_distributed(found):
            raise InvalidInput(f"a {type(found).__name__}, no DTensor")
    except (RuntimeError, NotImplementedError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"Expected a criterion that works on the shards of {name!r}, weight by weight, got one "
            f"that fails on them ({said}); decide masks before the network is sharded: MaskBinding "
            f"and SparseTraining(state=masks) take them to its shards."
        ) from error
    return found


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _shown(evidence: Tensor, weight: Tensor, turned: Callable[[Tensor], Tensor]) -> Tensor:
    """Turn evidence of the weight's shape, or broadcast to it; what is per output needs no turn."""
    if turned is _as_it_is or evidence.dim() != weight.dim():
        return evidence
    return turned(evidence.expand(weight.shape))


def _mask_of(weight: Tensor, name: str, masks: Masks | None) -> Tensor:
    if masks is not None and name in masks:
        return placed_like(masks[name], weight)
    return torch.ones_like(weight, dtype=torch.bool)


def _fitted(scores: Tensor, weight: Tensor, name: str) -> Tensor:
    fits = scores.dim() == weight.dim() and all(
        have in (1, want) for have, want in zip(scores.shape, weight.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"Expected scores of shape {tuple(weight.shape)} for {name!r}, or with ones in it, got "
            f"{tuple(scores.shape)}; return one score per weight, or per slice of them."
        )
    if scores.shape != weight.shape:
        scores = scores.expand(weight.shape)
    return placed_like(scores, weight)
