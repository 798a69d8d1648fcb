"""Parameters that are not pruned by default or that are shared: how they are detected, and the warnings about them."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from boxwood._internal.core.quantised import looks_quantised
from boxwood._internal.model.layer_kinds import EMBEDDINGS, NORMS, matrices_in
from boxwood.errors import UnsupportedModel

Modules = Mapping[str, nn.Module]
Parameters = Mapping[str, nn.Parameter]

_MODULE = "boxwood.layers"
_SHOWN = 4
_TABLE = re.compile(r"(^|_)(pos|positions?|embed|embeddings?|tokens?|table|bias)$")
"""How the names of parameters end that are added, as embeddings are, and do not multiply."""


@dataclass(frozen=True)
class Computed:
    """A matrix of a known layer that is no parameter.

    Args:
        name: its dotted name.
        sources: parameters that it is computed from, as far as they are known.
        way_out: the call that makes it a parameter, empty where nobody knows.
    """

    name: str
    sources: tuple[nn.Parameter, ...]
    way_out: str


def computed_in(modules: Modules) -> list[Computed]:
    """Find the matrices that are computed at every call, as by weight norm.

    Example:
        >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
        >>> computed_in({"": net})[0].way_out
        "torch.nn.utils.parametrize.remove_parametrizations(model, 'weight')"
    """
    found = []
    for name, module in modules.items():
        layer = f"model.get_submodule({name!r})" if name else "model"
        for attribute in matrices_in(module):
            if attribute not in module._parameters:
                remove = _remover(module, attribute)
                way_out = f"{remove}({layer}, {attribute!r})" if remove else ""
                full = f"{name}.{attribute}".removeprefix(".")
                found.append(Computed(full, tuple(_sources(module, attribute)), way_out))
    return found


def refuse_quantised(buffers: Mapping[str, Tensor]) -> None:
    """Refuse the buffers of quantised layers, next to which only some of the matrices are left.

    Raises:
        UnsupportedModel: the name and type of a buffer say that it is one.

    Example:
        >>> refuse_quantised(dict(nn.BatchNorm2d(3).named_buffers()))
    """
    for name, buffer in buffers.items():
        integer = not (buffer.dtype.is_floating_point or buffer.dtype.is_complex)
        if looks_quantised(name, integer=integer, dims=buffer.dim()):
            raise UnsupportedModel(
                f"Expected weights that are floats, got the buffer {name!r} of {buffer.dtype}, "
                f"which by its name and type is part of a quantised layer; prune the network before "
                f"it is quantised, or name what is meant with layers=Named((...,))."
            )


def nothing_found(kind: str, computed: list[Computed]) -> str:
    """Say that a network has no matrices.

    Example:
        >>> nothing_found("ReLU", [])[:60]
        'Expected ReLU to have matrices of linear, convolution, recur'
    """
    if computed:
        return (
            f"Expected {kind} to have matrices that are parameters, got none: {computed[0].name!r} "
            f"is computed from other parameters at every call; {_become_parameters(computed)}."
        )
    return (
        f"Expected {kind} to have matrices of linear, convolution, recurrent or attention layers, "
        f'got none; say which parameters to prune with layers=Named(("pattern",)).'
    )


def matrices_left_out(
    modules: Modules, names: Parameters, settled: Collection[str], computed: list[Computed]
) -> dict[str, nn.Parameter]:
    """Find what looks like a matrix, and is neither settled nor part of a norm or an embedding.

    Embeddings are also parameters whose own name ends as that of a table of positions or tokens, or
    of a bias: ``pos_embedding``, ``cls_token``, ``relative_position_bias_table``.

    Args:
        modules: a network's modules by dotted name.
        names: its parameters by dotted name.
        settled: names that are pruned, or that the user has mentioned.
        computed: from `computed_in`; what these are computed from does not count.

    Example:
        >>> list(matrices_left_out({}, {"experts": nn.Bilinear(3, 3, 2).weight}, (), []))
        ['experts']
    """
    explained = {id(parameter) for each in computed for parameter in each.sources}
    for module in modules.values():
        if isinstance(module, (*NORMS, *EMBEDDINGS, nn.PReLU)):
            explained |= {id(parameter) for parameter in module.parameters(recurse=False)}
    return {
        name: parameter
        for name, parameter in names.items()
        if name not in settled
        and id(parameter) not in explained
        and not _TABLE.search(name.rpartition(".")[2])
        and not is_lazy(parameter)
        and sum(size > 1 for size in parameter.shape) >= 2
    }


def say_left_out(kind: str, left: Parameters, names: Parameters) -> str:
    """Name the matrices of layers that are not known.

    Args:
        kind: the network's class.
        left: from `matrices_left_out`.
        names: all parameters of the network by dotted name.

    Returns:
        The message, empty where there is nothing to say.

    Example:
        >>> say_left_out("Linear", {}, {})
        ''
    """
    if not left:
        return ""
    patterns = patterns_for(left, names)
    return (
        f"Expected to know the layers of all matrices of {kind}, got {len(left)} that are left out: "
        f"{with_shapes(left)}; prune them too with layers=Matrices(also={patterns}) of {_MODULE}, or "
        f"leave them alone with layers=Matrices(without={patterns})."
    )


def say_computed(names: Parameters, mentioned: Collection[str], computed: list[Computed]) -> str:
    """Name the matrices that are left out because they are no parameters.

    Args:
        names: the network's parameters by dotted name.
        mentioned: those that the user has mentioned.
        computed: from `computed_in`.

    Example:
        >>> say_computed({}, (), [])
        ''
    """
    of = {id(parameter): name for name, parameter in names.items()}
    sources = {each.name: [of[id(p)] for p in each.sources if id(p) in of] for each in computed}
    rest = [e for e in computed if not e.sources or not set(sources[e.name]) <= set(mentioned)]
    if not rest:
        return ""
    patterns = patterns_for([name for each in rest for name in sources[each.name]], names)
    alone = f", or leave them alone with layers=Matrices(without={patterns}) of {_MODULE}"
    return (
        f"Expected matrices that are parameters, got {len(rest)} that are computed from others at "
        f"every call and are left out: {_listed([repr(each.name) for each in rest])}; "
        f"{_become_parameters(rest)}{alone * bool(patterns)}."
    )


def say_tied(modules: Modules, names: Parameters, tied: Collection[str]) -> str:
    """Name the matrices that an embedding shares.

    Args:
        modules: the network's modules by dotted name.
        names: its parameters by dotted name.
        tied: names that are pruned and that the user has not mentioned.

    Example:
        >>> say_tied({}, {}, ())
        ''
    """
    tables = {
        id(parameter)
        for module in modules.values()
        if isinstance(module, EMBEDDINGS)
        for parameter in module.parameters(recurse=False)
    }
    shared = [name for name in tied if id(names[name]) in tables]
    if not shared:
        return ""
    patterns = patterns_for(shared, names)
    return (
        f"Expected matrices of their own, got {shared[0]!r}, which an embedding shares with a layer "
        f"that multiplies by it: what is pruned there is zero in the embedding too; leave it alone "
        f"with layers=Matrices(without={patterns}) of {_MODULE}, or say that it is meant with "
        f"layers=Matrices(also={patterns})."
    )


def leaving_out(names: Collection[str], among: Iterable[str]) -> str:
    """Say how to leave parameters out.

    Args:
        names: those to leave out.
        among: all that were chosen.

    Example:
        >>> chosen = ["layers.0.gate", "layers.1.gate", "layers.0.up"]
        >>> leaving_out(chosen[:2], chosen)
        "leave it out with layers=, as in layers=Matrices(without=('layers.*.gate',)) of boxwood.layers"
    """
    patterns = patterns_for(names, among)
    return f"leave it out with layers=, as in layers=Matrices(without={patterns}) of {_MODULE}"


def patterns_for(names: Collection[str], among: Iterable[str]) -> tuple[str, ...]:
    """Write names as patterns, with stars for numbers between dots where nothing else matches.

    Args:
        names: what the patterns match.
        among: names, of which they match no others.

    Example:
        >>> patterns_for(["0.up", "1.up", "2.gate"], ["0.up", "1.up", "2.gate", "3.gate"])
        ('*.up', '2.gate')
    """
    others = set(among).difference(names)
    found: dict[str, None] = {}
    for name in names:
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        if pattern not in found:
            found[name if any(fnmatchcase(other, pattern) for other in others) else pattern] = None
    return tuple(found)


def with_shapes(parameters: Parameters) -> str:
    """List the first parameters with their shapes.

    Example:
        >>> with_shapes(dict(nn.Linear(2, 3).named_parameters()))
        "'weight' (3 × 2), 'bias' (3)"
    """
    return _listed([f"{n!r} ({' × '.join(map(str, p.shape))})" for n, p in parameters.items()])


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _become_parameters(computed: list[Computed]) -> str:
    way_out = computed[0].way_out
    if not way_out:
        return "prune the network before it is wrapped"
    return f"prune after {way_out}{', likewise for the others' * (len(computed) > 1)}"


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
