"""Gather evidence by name."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from boxwood._internal.core.agreement import check_alike
from boxwood._internal.core.placement import check_whole
from boxwood._internal.core.ranks import all_or_none
from boxwood._internal.core.shards import placed_like
from boxwood._internal.model.evidence.activations import (
    feature_rank,
    gate_gradient_square,
    input_norm,
    norm_scale,
)
from boxwood._internal.model.evidence.backpropagation import levenberg_marquardt, second_derivative
from boxwood._internal.model.evidence.block_fisher import elimination_cost, inverse_fisher_diagonal
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.curvature import hessian_diagonal, inverse_hessian_diagonal
from boxwood._internal.model.evidence.gradients import (
    batch_gradient_square,
    flow_gradient,
    gradient,
    gradient_square,
    hessian_gradient,
)
from boxwood._internal.model.evidence.movement import weight_movement
from boxwood.errors import InvalidInput

Evidence = Mapping[str, Mapping[str, Tensor]]
"""Name of the evidence, then dotted name of the weight, to a tensor."""

COLLECTORS: Mapping[str, Callable[[Calibration], dict[str, Tensor]]] = {
    collector.__name__: collector
    for collector in (
        batch_gradient_square,
        elimination_cost,
        feature_rank,
        flow_gradient,
        gate_gradient_square,
        gradient,
        gradient_square,
        hessian_diagonal,
        hessian_gradient,
        input_norm,
        inverse_fisher_diagonal,
        inverse_hessian_diagonal,
        levenberg_marquardt,
        norm_scale,
        second_derivative,
        weight_movement,
    )
}
"""What a criterion's positional parameters may name, as well as weight, mask and name."""


def gather(names: Iterable[str], seen: Calibration, given: Evidence | None = None) -> Evidence:
    """Gather evidence by name, over the batches of all ranks where ``torch.distributed`` is in use.

    Sums over examples, positions or batches add up over the ranks, and are divided by the number of
    all: the result is that of one process that has seen every rank's batches.

    Args:
        names: of `COLLECTORS`; names of anything else are passed over.
        seen: what it is gathered from.
        given: evidence at hand already, which is not gathered again.

    Raises:
        InvalidInput: evidence that is at hand lacks a weight, or has another shape; or a collector
            cannot do its work; or a weight is complex, for which no evidence is defined here; or
            the ranks hold different weights.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1)
        >>> seen = Calibration(net, {"weight": net.weight}, [torch.tensor([[3.0, 4.0]])])
        >>> gather(["weight", "input_norm"], seen)
        {'input_norm': {'weight': tensor([[3., 4.]])}}
    """
    found = dict(given or {})
    names = [name for name in names if name in found or name in COLLECTORS]
    _check_real(names, seen)
    lacking = []
    for need in names:
        if need in found:
            found[need] = _checked_given(need, found[need], seen)
        else:
            lacking.append(need)
    if lacking:
        check_whole(seen.weights)
        with all_or_none(seen.group):
            check_same_network(seen)
            for need in lacking:
                found[need] = COLLECTORS[need](seen)
    return found


def check_same_network(seen: Calibration) -> None:
    """Refuse to add up what ranks have seen of networks that are not the same.

    Raises:
        InvalidInput: a weight differs between ranks.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1)
        >>> check_same_network(Calibration(net, {"weight": net.weight}))
    """
    check_alike(
        seen.weights,
        "weights",
        "wrap the network in DistributedDataParallel or load the same weights on every rank first; "
        "where ranks train networks of their own, give each group= its own process group",
        seen.group,
    )


def _check_real(needs: list[str], seen: Calibration) -> None:
    named = [name for name, weight in seen.weights.items() if weight.is_complex()]
    if needs and named:
        raise InvalidInput(
            f"Expected real weights for the evidence {needs[0]!r}, got {named[0]!r}, which is "
            f"complex; score it by magnitude, or leave it out with layers=."
        )


def _checked_given(
    need: str, tensors: Mapping[str, Tensor], seen: Calibration
) -> Mapping[str, Tensor]:
    for name in seen.weights:
        if name not in tensors:
            raise InvalidInput(
                f"Expected the evidence {need!r} of every weight, got none for {name!r}; gather it "
                f"for the weights of the same layers=."
            )
    return {name: _placed(tensors[name], weight) for name, weight in seen.weights.items()}


def _placed(evidence: Tensor, weight: Tensor) -> Tensor:
    """Bring evidence to the weight, and evidence of its shape into its shards."""
    same = evidence.shape == weight.shape
    return placed_like(evidence, weight) if same else evidence.to(weight.device)
