"""Masks given by dotted name, matched to the parameters they are for."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from boxwood._internal.core.placement import check_data, check_whole
from boxwood.errors import InvalidInput


def by_parameter(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
    """Return the masks by the parameter itself, so that tied weights are one weight.

    Args:
        model: whose parameters the masks are for.
        masks: bool masks by dotted name, True keeps; any of a tied parameter's names will do.

    Raises:
        InvalidInput: a name that is no parameter, a mask that is not bool or has another shape, or
            parameters that this process does not hold whole.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> mask = torch.tensor([[True, False]])
        >>> by_parameter(layer, {"weight": mask})[layer.weight]
        tensor([[ True, False]])
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    check_data(parameters)
    found: dict[Tensor, Tensor] = {}
    for name, mask in masks.items():
        if name not in parameters:
            raise InvalidInput(
                f"Expected masks named after parameters of the model, got one for {name!r}; "
                "use the names of `model.named_parameters()`."
            )
        parameter = parameters[name]
        check_whole({name: parameter})
        if mask.dtype != torch.bool or mask.shape != parameter.shape:
            raise InvalidInput(
                f"Expected a bool mask of shape {tuple(parameter.shape)} for {name!r}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}; make it from this model's weights."
            )
        found[parameter] = mask
    return found
