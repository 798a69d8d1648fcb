"""Evidence of how the inputs of a layer are distributed: sums, variances and norms."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from boxwood._internal.model.evidence.activations import check_seen, watching_inputs
from boxwood._internal.model.evidence.calibration import Calibration, wide
from boxwood._internal.model.evidence.curvature import unfolded
from boxwood._internal.model.layer_kinds import linear_kinds


class Moments(NamedTuple):
    """What each input of a layer is like, [groups, inputs] each.

    Args:
        sum: mean over the examples of the sum over the positions.
        variance: over all examples and positions.
        norm: root of the summed squares.
    """

    sum: Tensor
    variance: Tensor
    norm: Tensor


def input_moments(seen: Calibration) -> dict[str, Moments]:
    """Sums, variances and norms of each layer's inputs; of a convolution's, under the kernel.

    Summed in float64, since the variance is a difference.

    Raises:
        InvalidInput: a layer is neither linear nor a 1-D or 2-D convolution.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> batches = [torch.tensor([[3.0, 1.0]]), torch.tensor([[4.0, 1.0]])]
        >>> input_moments(Calibration(net, {"weight": net.weight}, batches))["weight"].variance
        tensor([[0.2500, 0.0000]])
    """
    sums: dict[str, Tensor] = {}
    modules = seen.modules(*linear_kinds(), nn.Conv1d, nn.Conv2d)

    def add(layer: nn.Module, inputs: Tensor) -> None:
        columns = unfolded(layer, wide(inputs.detach())).double()
        count = columns.new_full(columns.shape[:2], columns.shape[2])
        found = torch.stack([columns.sum(2), columns.square().sum(2), count])
        sums[modules[layer]] = sums[modules[layer]] + found if modules[layer] in sums else found

    with seen.at_rest(), watching_inputs(modules, add):
        examples = seen.run()
    check_seen(modules, sums)
    sums, examples = seen.over_ranks({name: sums[name] for name in seen.weights}, examples)
    return {name: _moments(sums[name], examples, seen.weights[name]) for name in seen.weights}


def _moments(sums: Tensor, examples: int, weight: Tensor) -> Moments:
    """Turn sums, sums of squares and counts into moments, as precise as evidence is elsewhere."""
    added, squares, count = sums
    variance = (squares / count - (added / count).square()).clamp_min(0)
    exact = (added / examples, variance, squares.sqrt())
    return Moments(*(each.to(wide(weight.detach()[:0]).dtype) for each in exact))
