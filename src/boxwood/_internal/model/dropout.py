"""Dropout rates that follow the connections that pruning left."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from boxwood._internal.model.feedforward import chain
from boxwood._internal.model.named_masks import by_parameter
from boxwood._internal.model.steps import DROPOUT_MODULES, Dropout
from boxwood.errors import InvalidInput


def corrected_dropout(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the dropout rates for retraining a pruned network.

    ``D_r = D_o · sqrt(C_ir / C_io)``, where ``D_o`` is the rate that a module has now, ``C_io``
    the connections of the layer that it feeds, and ``C_ir`` those that the mask keeps.

    Args:
        model: a plain feed-forward network with the original rates.
        masks: bool masks by parameter name, True keeps; a layer without one keeps its rate.

    Raises:
        InvalidInput: the network is no plain chain, a dropout in it is a function call or serves
            two layers, or a mask does not fit.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))
        >>> corrected_dropout(net, {"1.weight": torch.tensor([[True, False, False, False]])})
        {'0': 0.25}

    Reference: Han et al. 2015, arXiv:1506.02626, section 3.2, equations 1 and 2.

    Interpretation: the paper counts the connections of "layer i" and leaves open whether dropout
    belongs to the layer before or after it; here it is the one that the dropout feeds.
    """
    mask_of = by_parameter(model, masks)
    rates: dict[str, float] = {}
    for link in chain(model):
        mask = mask_of.get(link.layer.weight)
        left = 1.0 if mask is None else int(mask.sum()) / mask.numel()
        for step in link.before:
            if not isinstance(step, Dropout):
                continue
            if step.rate is None:
                raise InvalidInput(
                    f"Expected dropout modules, got the function call {step.name!r} before "
                    f"{link.name!r}, whose rate cannot be set; use nn.Dropout there."
                )
            if step.name in rates:
                raise InvalidInput(
                    f"Expected a dropout module for each layer, got {step.name!r} for two of them, "
                    f"{link.name!r} the second; give each layer its own module."
                )
            rates[step.name] = step.rate * math.sqrt(left)
    return rates


def set_dropout_(model: nn.Module, rates: Mapping[str, float]) -> None:
    """Set the rates of dropout modules.

    Args:
        model: whose modules are set.
        rates: probabilities of zeroing by module name, in [0, 1).

    Raises:
        InvalidInput: a name that is no dropout module, or a rate out of range; nothing is set then.

    Example:
        >>> net = nn.Sequential(nn.Dropout(0.5))
        >>> set_dropout_(net, {"0": 0.25})
        >>> net[0].p
        0.25
    """
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, DROPOUT_MODULES)
    }
    for name, rate in rates.items():
        if name not in modules:
            raise InvalidInput(
                f"Expected names of dropout modules ({', '.join(modules) or 'there are none'}), "
                f"got {name!r}; use the names that `corrected_dropout` returns."
            )
        if not 0 <= rate < 1:
            raise InvalidInput(
                f"Expected a dropout rate in [0, 1) for {name!r}, got {rate}; "
                "give the probability of zeroing."
            )
    for name, rate in rates.items():
        modules[name].p = rate
