"""Which parameters of a network may be pruned, by dotted name."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from boxwood.core.errors import BoxwoodError
from boxwood.core.placement import check_unflattened

Where = Callable[[nn.Module], dict[str, nn.Parameter]]
"""A module to the parameters that may be pruned, in the module's own order."""

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def linear_and_conv(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the weights of linear and convolution layers; biases and norms are left alone.

    A parameter that several layers share (tied weights) appears once, under its first name.

    Raises:
        BoxwoodError: there is none.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(linear_and_conv(net))
        ['0.weight', '2.weight']
    """
    return _weights_of(model, (nn.Linear, *_CONVOLUTIONS))


def linear(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the weights of linear layers.

    Example:
        >>> list(linear(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))))
        ['1.weight']
    """
    return _weights_of(model, (nn.Linear,))


def conv(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the weights of convolution layers.

    Example:
        >>> list(conv(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))))
        ['0.weight']
    """
    return _weights_of(model, _CONVOLUTIONS)


def norm_scales(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the scales γ of batch norms: what network slimming penalises.

    Example:
        >>> list(norm_scales(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))
        ['1.weight']
    """
    return _weights_of(model, (nn.modules.batchnorm._BatchNorm,))


@dataclass(frozen=True)
class Named:
    """Find parameters whose dotted name matches one of some patterns, whatever their layer.

    Args:
        patterns: as in a shell: ``("fc1.weight", "encoder.*.weight")``.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> list(Named(("1.*",))(net))
        ['1.weight', '1.bias']
    """

    patterns: tuple[str, ...]

    def __call__(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Collect the parameters."""
        names = parameter_names(model)
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise BoxwoodError(
                    f"Expected patterns that match a parameter, got {pattern!r}, which matches "
                    f"none of {', '.join(list(names)[:8])}; correct the pattern."
                )
        return {
            name: parameter
            for name, parameter in names.items()
            if any(fnmatchcase(name, pattern) for pattern in self.patterns)
        }


def parameter_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name every parameter once, as the network inside of wrappers names it.

    Raises:
        BoxwoodError: ``FullyShardedDataParallel`` has flattened them.

    Example:
        >>> list(parameter_names(nn.Linear(2, 1)))
        ['weight', 'bias']
    """
    named = unwrapped(model).named_parameters()
    names = {plain_name(name): parameter for name, parameter in named}
    check_unflattened(names)
    return names


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> unwrapped(nn.DataParallel(net)) is net
        True
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_name(name: str) -> str:
    """Take the part that ``torch.compile`` puts into dotted names out again.

    Example:
        >>> plain_name("_orig_mod.fc1.weight")
        'fc1.weight'
    """
    return name.replace("_orig_mod.", "")


def is_conv_weight(weight: Tensor) -> bool:
    """Tell convolution weights from linear ones by their number of dimensions.

    Example:
        >>> import torch
        >>> is_conv_weight(torch.ones(2, 1, 3, 3))
        True
    """
    return weight.dim() > 2


def _weights_of(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Parameter]:
    names = {id(p): name for name, p in parameter_names(model).items()}
    found: dict[str, nn.Parameter] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, kinds) and isinstance(weight, nn.Parameter):
            found[names[id(weight)]] = weight
    if not found:
        raise BoxwoodError(
            f"Expected {type(model).__name__} to have weights of "
            f"{' or '.join(kind.__name__ for kind in kinds[:2])} layers, got none; "
            f'say which parameters to prune with where=Named(("pattern",)).'
        )
    return found
