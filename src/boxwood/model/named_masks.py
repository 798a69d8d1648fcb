"""Masks given by dotted name, matched to the parameters they are for."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from boxwood.core.errors import BoxwoodError


def by_parameter(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
    """Return the masks by the parameter itself, so that tied weights are one weight.

    Args:
        model: whose parameters the masks are for.
        masks: bool masks by dotted name, True keeps; any of a tied parameter's names will do.

    Raises:
        BoxwoodError: a name that is no parameter, a mask that is not bool or has another shape.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> mask = torch.tensor([[True, False]])
        >>> by_parameter(layer, {"weight": mask})[layer.weight]
        tensor([[ True, False]])
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[Tensor, Tensor] = {}
    for name, mask in masks.items():
        if name not in parameters:
            raise BoxwoodError(
                f"Expected masks named after parameters of the model, got one for {name!r}; "
                "use the names of `model.named_parameters()`."
            )
        parameter = parameters[name]
        if mask.dtype != torch.bool or mask.shape != parameter.shape:
            raise BoxwoodError(
                f"Expected a bool mask of shape {tuple(parameter.shape)} for {name!r}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}; make it from this model's weights."
            )
        found[parameter] = mask
    return found
