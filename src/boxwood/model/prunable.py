"""Which parameters of a network may be pruned, by dotted name."""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from boxwood.core.errors import BoxwoodError, SelectionWarning
from boxwood.core.placement import check_unflattened
from boxwood.core.quantised import looks_quantised
from boxwood.model.layer_kinds import (
    CONVOLUTIONS,
    EMBEDDINGS,
    NORMS,
    linear_kinds,
    matrices_in,
)

Where = Callable[[nn.Module], dict[str, nn.Parameter]]
"""A module to the parameters that may be pruned, in the module's own order."""


def linear_and_conv(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find all matrices and kernels of known layers; biases, norms and embeddings are left alone.

    Known are linear layers (also those of transformers, ``Conv1D``, and of PyTorch Geometric),
    bilinear ones, convolutions, also transposed, recurrent layers and their cells, and the
    projections of attention. Queries, keys and values that torch keeps in one matrix are one tensor
    here, and so are the gates of a recurrent layer: allocations that share a sparsity out over
    layers give it to such a tensor as a whole.

    A parameter that several layers share (tied weights) appears once, under its first name. Where
    one of them is an embedding, a warning says so.

    Raises:
        BoxwoodError: there is none, or some are quantised, or have no shape yet.

    Warns:
        SelectionWarning: a matrix is left out, since its layer is of no known kind, or since it is
            computed from other parameters (weight norm and other parametrisations); or an embedding
            shares a matrix that is pruned. `Matrices` says which of them are meant.

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
    """Find what `linear_and_conv` finds, with other parameters and without some of these.

    Args:
        also: patterns of names to prune as well, as in a shell: matrices of other layers.
        without: patterns of names to leave alone.

    Raises:
        BoxwoodError: a pattern matches no parameter, or as `linear_and_conv`.

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
        computed = _computed(model)
        if not found:
            raise BoxwoodError(_nothing(model, computed))
        _refuse_quantised(model)
        _check_floats(found)
        for text in (
            _left_out(model, names, found, mentioned),
            _parametrised(model, computed, mentioned),
            _tied(model, found, mentioned),
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


def leaving_out(names: Collection[str], among: Iterable[str]) -> str:
    """Say how to leave parameters out, for messages.

    Args:
        names: those to leave out.
        among: all that were chosen.

    Example:
        >>> chosen = ["layers.0.gate", "layers.1.gate", "layers.0.up"]
        >>> leaving_out(chosen[:2], chosen)
        "leave it out with where=, as in where=Matrices(without=('layers.*.gate',)) of boxwood.model.prunable"
    """
    return (
        f"leave it out with where=, as in where=Matrices(without={_patterns(names, among)}) of "
        f"boxwood.model.prunable"
    )


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
        raise BoxwoodError(
            f"Expected {type(model).__name__} to have weights of "
            f"{' or '.join(kind.__name__ for kind in kinds[:2])} layers, got none; "
            f'say which parameters to prune with where=Named(("pattern",)).'
        )
    _check_floats(found)
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(patterns: Iterable[str], names: Mapping[str, Tensor]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BoxwoodError(
                f"Expected patterns that match a parameter, got {pattern!r}, which matches "
                f"none of {', '.join(list(names)[:8])}; correct the pattern."
            )


def _check_floats(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise BoxwoodError(
                f"Expected parameters that have a shape, got {name!r}, which gets its own when the "
                f"network runs for the first time; run one batch through it first."
            )
        numbers = parameter.dtype.is_floating_point or parameter.dtype.is_complex
        if not numbers or parameter.dtype.itemsize < 2:
            raise BoxwoodError(
                f"Expected weights of at least 16 bits, got {name!r} of {parameter.dtype}, which is "
                f"a type of quantised weights; prune the network before it is quantised."
            )


def _refuse_quantised(model: nn.Module) -> None:
    """Refuse buffers of quantised layers, beside which only a rest of the matrices is left."""
    for name, buffer in model.named_buffers():
        integer = not (buffer.dtype.is_floating_point or buffer.dtype.is_complex)
        if looks_quantised(name, integer=integer, dims=buffer.dim()):
            raise BoxwoodError(
                f"Expected weights that are floats, got the buffer {plain_name(name)!r} of "
                f"{buffer.dtype}, which by its name and type is part of a quantised layer; prune the "
                f"network before it is quantised, or name what is meant with where=Named((...,))."
            )


@dataclass(frozen=True)
class _Computed:
    """A matrix of a known layer that is no parameter, and what it is computed from."""

    module: str
    attribute: str
    sources: tuple[nn.Parameter, ...]
    way_out: str  # empty where nobody knows

    @property
    def name(self) -> str:
        return f"{self.module}.{self.attribute}".removeprefix(".")


def _computed(model: nn.Module) -> list[_Computed]:
    found = []
    for name, module in model.named_modules():
        for attribute in matrices_in(module):
            if attribute not in module._parameters:
                plain = plain_name(name)
                layer = f"model.get_submodule({plain!r})" if plain else "model"
                remove = _remover(module, attribute)
                way_out = f"{remove}({layer}, {attribute!r})" if remove else ""
                sources = tuple(_sources(module, attribute))
                found.append(_Computed(plain, attribute, sources, way_out))
    return found


def _remover(module: nn.Module, attribute: str) -> str:
    if is_parametrized(module, attribute):
        return "torch.nn.utils.parametrize.remove_parametrizations"
    if f"{attribute}_g" in module._parameters:
        return "torch.nn.utils.remove_weight_norm"
    if f"{attribute}_mask" in module._buffers:
        return "torch.nn.utils.prune.remove"
    return (
        "torch.nn.utils.remove_spectral_norm" if f"{attribute}_orig" in module._parameters else ""
    )


def _sources(module: nn.Module, attribute: str) -> Iterable[nn.Parameter]:
    if is_parametrized(module, attribute):
        yield from module.parametrizations[attribute].parameters()  # type: ignore[union-attr,index]
    for name, parameter in module._parameters.items():
        if name.startswith(f"{attribute}_") and parameter is not None:
            yield parameter


def _first(computed: list[_Computed]) -> str:
    way_out = computed[0].way_out
    return f"prune after {way_out}" if way_out else "prune the network before it is wrapped"


def _nothing(model: nn.Module, computed: list[_Computed]) -> str:
    who = type(model).__name__
    if computed:
        return (
            f"Expected {who} to have matrices that are parameters, got none: {computed[0].name!r} "
            f"is computed from other parameters at every call; {_first(computed)}"
            f"{', likewise for the others' * (len(computed) > 1)}."
        )
    return (
        f"Expected {who} to have matrices of linear, convolution, recurrent or attention layers, "
        f'got none; say which parameters to prune with where=Named(("pattern",)).'
    )


def _left_out(
    model: nn.Module,
    names: Mapping[str, nn.Parameter],
    found: Mapping[str, nn.Parameter],
    mentioned: set[str],
) -> str:
    """Name what looks like a matrix and is no parameter of a known layer, a norm or an embedding."""
    explained = {id(parameter) for each in _computed(model) for parameter in each.sources}
    for module in model.modules():
        if isinstance(module, (*NORMS, *EMBEDDINGS, nn.PReLU)):
            explained |= {id(parameter) for parameter in module.parameters(recurse=False)}
    rest = {
        name: parameter
        for name, parameter in names.items()
        if name not in found
        and name not in mentioned
        and id(parameter) not in explained
        and not is_lazy(parameter)
        and sum(size > 1 for size in parameter.shape) >= 2
    }
    if not rest:
        return ""
    listed = ", ".join(
        f"{name!r} ({' × '.join(map(str, rest[name].shape))})" for name in list(rest)[:4]
    )
    listed += f" and {len(rest) - 4} more" * (len(rest) > 4)
    patterns = _patterns(rest, names)
    return (
        f"Expected to know the layers of all matrices of {type(model).__name__}, got {len(rest)} "
        f"that are left out: {listed}; prune them too with where=Matrices(also={patterns}) of "
        f"boxwood.model.prunable, or leave them alone with where=Matrices(without={patterns})."
    )


def _parametrised(model: nn.Module, computed: list[_Computed], mentioned: set[str]) -> str:
    names = {id(parameter): name for name, parameter in parameter_names(model).items()}
    rest = [
        each
        for each in computed
        if not each.sources or not {names.get(id(p)) for p in each.sources} <= mentioned
    ]
    if not rest:
        return ""
    listed = ", ".join(repr(each.name) for each in rest[:4])
    listed += f" and {len(rest) - 4} more" * (len(rest) > 4)
    sources = _patterns(
        [names[id(p)] for each in rest for p in each.sources if id(p) in names], names.values()
    )
    return (
        f"Expected matrices that are parameters, got {len(rest)} that are computed from others at "
        f"every call and are left out: {listed}; {_first(rest)}"
        f"{', likewise for the others' * (len(rest) > 1)}, or leave them alone with "
        f"where=Matrices(without={sources}) of boxwood.model.prunable."
    )


def _tied(model: nn.Module, found: Mapping[str, nn.Parameter], mentioned: set[str]) -> str:
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, EMBEDDINGS)
        for parameter in module.parameters(recurse=False)
    }
    tied = [n for n, p in found.items() if id(p) in tables and n not in mentioned]
    if not tied:
        return ""
    patterns = _patterns(tied, parameter_names(model))
    return (
        f"Expected matrices of their own, got {tied[0]!r}, which an embedding shares with a layer "
        f"that multiplies by it: what is pruned there is zero in the embedding too; leave it alone "
        f"with where=Matrices(without={patterns}) of boxwood.model.prunable, or say that it is meant "
        f"with where=Matrices(also={patterns})."
    )


def _patterns(names: Collection[str], among: Iterable[str]) -> tuple[str, ...]:
    """Write names as patterns, with stars for numbers between dots where nothing else matches."""
    others = set(among).difference(names)
    found: dict[str, None] = {}
    for name in names:
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        found[name if any(fnmatchcase(other, pattern) for other in others) else pattern] = None
    return tuple(found)
