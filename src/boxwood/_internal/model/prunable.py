"""Which parameters of a network may be pruned, by dotted name."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from boxwood._internal.core.arguments import described
from boxwood._internal.core.placement import check_shaped, check_unflattened
from boxwood._internal.model.layer_kinds import CONVOLUTIONS, linear_kinds, matrices_in
from boxwood._internal.model.unpruned import (
    computed_in,
    matrices_left_out,
    nothing_found,
    refuse_quantised,
    say_computed,
    say_left_out,
    say_tied,
)
from boxwood.errors import InvalidInput, SelectionWarning

Layers = Callable[[nn.Module], dict[str, nn.Parameter]]
"""A module to the parameters that may be pruned, in the module's own order."""


def linear_and_conv(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find all matrices and kernels of known layers, but not biases, norms and embeddings.

    Known layers are linear layers (also transformers' ``Conv1D`` and those of PyTorch Geometric),
    bilinear layers, convolutions and transposed convolutions, recurrent layers and their cells, and
    the projections of attention. Parameters named like tables, such as ``pos_embedding``, count as
    embeddings. Queries, keys and values that torch stores in one matrix are one tensor here, and so
    are the gates of a recurrent layer. An allocation gives such a tensor one sparsity.

    A parameter that several layers share (tied weights) appears once, under its first name. If one
    of the layers is an embedding, there is a warning.

    Raises:
        InvalidInput: there are none, or some are quantised or have no shape yet.

    Warns:
        SelectionWarning: a matrix is left out because its layer is of an unknown type, or because
            it is computed from other parameters (weight norm and other parametrisations); or an
            embedding shares a matrix that is pruned. Use `Matrices` to say which you mean.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(linear_and_conv(net))
        ['0.weight', '2.weight']
        >>> list(linear_and_conv(nn.Sequential(nn.Embedding(9, 4), nn.GRU(4, 2))))
        ['1.weight_ih_l0', '1.weight_hh_l0']
    """
    return Matrices()(model)


@dataclass(frozen=True)
class Matrices:
    """Find what `linear_and_conv` finds, plus other parameters, minus some.

    Args:
        also: patterns of names to prune as well, as in a shell: matrices of other layers.
        without: patterns of names to leave alone.

    Raises:
        InvalidInput: a pattern matches no parameter, or as `linear_and_conv`.

    Example:
        >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> list(Matrices(also=("0.*",), without=("2.*",))(net))
        ['0.weight', '1.weight']
    """

    also: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __call__(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Collect the parameters, and warn about what nobody has mentioned."""
        model = unwrapped(model)
        names = parameter_names(model)
        _check_patterns((*self.also, *self.without), names)
        known = {id(parameter) for parameter in _known(model)}
        found = {
            name: parameter
            for name, parameter in names.items()
            if (id(parameter) in known or _matches(name, self.also))
            and not _matches(name, self.without)
        }
        mentioned = {n for n in names if _matches(n, (*self.also, *self.without))}
        modules = {plain_name(name): module for name, module in model.named_modules()}
        computed, kind = computed_in(modules), type(model).__name__
        if not found:
            raise InvalidInput(nothing_found(kind, computed))
        refuse_quantised({plain_name(name): buffer for name, buffer in model.named_buffers()})
        _check_floats(found)
        left = matrices_left_out(modules, names, mentioned | found.keys(), computed)
        for text in (
            say_left_out(kind, left, names),
            say_computed(names, mentioned, computed),
            say_tied(modules, names, [n for n in found if n not in mentioned]),
        ):
            if text:
                warnings.warn(text, SelectionWarning, stacklevel=3)
        return found


def linear(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the weights of linear layers.

    Example:
        >>> list(linear(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))))
        ['1.weight']
    """
    return _weights_of(model, linear_kinds())


def conv(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the weights of convolution layers.

    Example:
        >>> list(conv(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))))
        ['0.weight']
    """
    return _weights_of(model, CONVOLUTIONS)


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
        _check_patterns(self.patterns, names)
        found = {n: parameter for n, parameter in names.items() if _matches(n, self.patterns)}
        _check_floats(found)
        return found


def parameter_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name every parameter once, as the network inside of wrappers names it.

    Raises:
        InvalidInput: ``FullyShardedDataParallel`` has flattened them.

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


def _known(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that are matrices of known layers."""
    found = (
        module._parameters.get(attribute)
        for module in model.modules()
        for attribute in matrices_in(module)
    )
    return [parameter for parameter in found if parameter is not None]


def _weights_of(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Parameter]:
    names = {id(p): name for name, p in parameter_names(model).items()}
    found: dict[str, nn.Parameter] = {}
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, kinds) else None
        if weight is not None:
            found[names[id(weight)]] = weight
    if not found:
        own = [kind.__name__ for kind in kinds if kind.__module__.startswith("torch.nn.")]
        raise InvalidInput(
            f"Expected {type(model).__name__} to have weights of {' or '.join(own[:2])} layers, got none; "
            f'say which parameters to prune with layers=Named(("pattern",)).'
        )
    _check_floats(found)
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(patterns: Iterable[str], names: Mapping[str, Tensor]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidInput(
                f"Expected patterns that match a parameter, got {pattern!r}, which matches "
                f"none of {', '.join(list(names)[:8])}; correct the pattern."
            )


def _check_floats(parameters: Mapping[str, nn.Parameter]) -> None:
    check_shaped(parameters)
    for name, parameter in parameters.items():
        numbers = parameter.dtype.is_floating_point or parameter.dtype.is_complex
        if not numbers or parameter.dtype.itemsize < 2:
            raise InvalidInput(
                f"Expected weights of at least 16 bits, got {name!r} of {parameter.dtype}, which is "
                f"a type of quantised weights; prune the network before it is quantised."
            )


def check_layers(layers: Any) -> None:
    """Refuse what finds no parameters, such as their names.

    Raises:
        InvalidInput: it is no function.

    Example:
        >>> check_layers(["fc1.weight"])
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a function that finds parameters as layers=, got a value of type list; give layers=Named(('fc1.weight',)) of boxwood.layers.
    """
    if callable(layers):
        return
    names = (layers,) if isinstance(layers, str) else layers
    named = isinstance(names, list | tuple) and all(isinstance(each, str) for each in names)
    do = f"Named({tuple(names)!r})" if named else "Named((pattern, …))"
    raise InvalidInput(
        f"Expected a function that finds parameters as layers=, got {described(layers)}; give "
        f"layers={do} of boxwood.layers."
    )
