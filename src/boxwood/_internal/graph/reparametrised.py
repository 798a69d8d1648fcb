"""Weights that a layer computes from other tensors: masks, weight norm, any parametrisation.

Removal acts on the *effective* weight, which is what the layer multiplies with. `baked` gives a
network in which every effective weight is an ordinary parameter: the one that is traced, scored and
compared. `written` finds out how a smaller effective weight is written into the tensors that it is
computed from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from boxwood._internal.graph.rebuild import named_tensors, rebuilt
from boxwood._internal.graph.slicing import Cuts, sliced


@dataclass(frozen=True)
class Reparametrised:
    """A tensor that a module computes from others.

    Args:
        module: dotted name of the module.
        name: of the tensor in the module, such as ``weight``.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


def reparametrised(model: nn.Module) -> tuple[Reparametrised, ...]:
    """List the tensors that modules compute from others, by PyTorch's own mechanisms.

    These are ``torch.nn.utils.parametrize``, the masks of ``torch.nn.utils.prune``, and the hooks
    of ``torch.nn.utils.weight_norm`` and ``spectral_norm``.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> _ = prune.l1_unstructured(net[1], "weight", 0.5)
        >>> [str(each) for each in reparametrised(net)]
        ['1.weight']
    """
    found = []
    for path, module in model.named_modules():
        names = list(module.parametrizations) if parametrize.is_parametrized(module) else []
        names += [name for _, name in _hooks(module)]
        found += [Reparametrised(path, name) for name in dict.fromkeys(names)]
    inner = tuple(f"{each.module}.".lstrip(".") + f"parametrizations.{each.name}" for each in found)
    # What is within a parametrisation goes with it.
    return tuple(e for e in found if not any(f"{e.module}.".startswith(f"{i}.") for i in inner))


def baked(model: nn.Module, only: Sequence[Reparametrised] | None = None) -> nn.Module:
    """Return the network with its effective weights as ordinary parameters, with their values in evaluation mode.

    Args:
        model: any module; it is not changed.
        only: names of the weights; all by default.

    Returns:
        The model itself if nothing is reparametrised; otherwise a copy, whose other parameters and
        buffers share the model's memory.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))
        >>> [name for name, _ in baked(layer).named_parameters()]
        ['bias', 'weight']
    """
    only = reparametrised(model) if only is None else only
    if not only:
        return model
    within = {
        f"{each.module}.".lstrip(".") + local
        for each in only
        for local in _parts(model.get_submodule(each.module), each.name)
    }
    made = rebuilt(model, lambda name, tensor: tensor.clone() if name in within else tensor)
    training = [(module, module.training) for module in made.modules()]
    made.eval()  # in training, a spectral norm changes with every look at it
    for each in only:
        _bake_(made.get_submodule(each.module), each.name)
    for module, flag in training:
        module.training = flag
    return made


@dataclass(frozen=True)
class Written:
    """How a removal is written into the tensors of a network.

    Args:
        cuts: of the tensors of ``baked(model, baked)``.
        assigned: effective weights that are assigned after the cut, by the inverse of what computes
            them: the sliced directions of a weight norm have another length.
        baked: effective weights that nothing can be cut from as they are computed, such as an
            orthogonal matrix, and that become ordinary parameters.
        effective: the smaller effective weights, by name.
    """

    cuts: Cuts
    assigned: tuple[Reparametrised, ...] = ()
    baked: tuple[Reparametrised, ...] = ()
    effective: Mapping[str, Tensor] = field(default_factory=dict)


def written(model: nn.Module, cuts: Cuts) -> Written:
    """Find out how a removal from effective weights is written, without changing anything.

    A tensor that an effective weight is computed from is cut along every axis that is as long as
    the weight's. Where this does not give the slice of the effective weight, to rounding, the slice
    is assigned (``right_inverse``); where that does not give it either, it is baked in.

    Args:
        model: the original.
        cuts: of the tensors of ``baked(model)``.

    Example:
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
        >>> [str(each) for each in written(layer, {"weight": [(0, torch.tensor([0]))]}).baked]
        ['weight']
    """
    affected = [each for each in reparametrised(model) if cuts.get(str(each))]
    if not affected:
        return Written(cuts)
    plain = baked(model, affected)
    first = {name: names[0] for names, _ in named_tensors(model) for name in names}
    holders = _holders(model)
    made = {name: cut for name, cut in cuts.items() if name not in map(str, affected)}
    smaller: dict[str, Tensor] = {}
    assigned: list[Reparametrised] = []
    unable: list[Reparametrised] = []
    for each in affected:
        weight = getattr(plain.get_submodule(each.module), each.name).detach()
        target = smaller[str(each)] = sliced(weight, cuts[str(each)])
        module = model.get_submodule(each.module)
        parts = _parts(module, each.name)
        local = {part: _alike(tensor, weight, cuts[str(each)]) for part, tensor in parts.items()}
        trial = rebuilt(module, lambda name, t, at=local: sliced(t, at.get(name, ()))).eval()  # type: ignore[misc]
        if any(holders[id(tensor)] > 1 for tensor in parts.values()):
            unable.append(each)  # another layer reads it too, and may lose something else
        elif not _gives(trial, each.name, target):
            (assigned if _assigned(trial, each.name, target) else unable).append(each)
        if each in unable:
            made[str(each)] = cuts[str(each)]
        else:
            prefix = f"{each.module}." if each.module else ""
            made |= {first[prefix + part]: cut for part, cut in local.items() if cut}
    return Written(made, tuple(assigned), tuple(unable), smaller)


def assignable(model: nn.Module, weight: str) -> bool:
    """Say whether a weight can be given any values: not where zeros of a mask or norms bind it.

    Example:
        >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
        >>> assignable(net, "0.weight"), assignable(net, "0.bias")
        (True, True)
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))
        >>> assignable(layer, "weight")
        False
    """
    each = next((each for each in reparametrised(model) if str(each) == weight), None)
    if each is None:
        return True
    module = rebuilt(model.get_submodule(each.module), lambda _, tensor: tensor.clone()).eval()
    value = _effective(module, each.name)
    other = value + 0.1 * value.abs().mean() * torch.linspace(1, 2, value.numel()).to(value).view(
        value.shape
    )
    return _assigned(module, each.name, other)


def filled(model: nn.Module, plain: nn.Module) -> nn.Module:
    """Copy a network, with the weights of another, in which all of them are ordinary parameters.

    Args:
        model: any module.
        plain: what ``baked(model)`` became; weights that were changed in it must be `assignable`.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(1, 1))
        >>> plain = baked(layer)
        >>> with torch.no_grad():
        ...     _ = plain.weight.fill_(3)
        >>> filled(layer, plain).weight.item()
        3.0
    """
    tensors = {name: t.detach() for names, t in named_tensors(plain) for name in names}
    before = {name: t.detach() for names, t in named_tensors(baked(model)) for name in names}
    made = rebuilt(model, lambda name, tensor: tensors.get(name, tensor).clone())
    changed = [e for e in reparametrised(made) if not torch.equal(tensors[str(e)], before[str(e)])]
    finish_(made, Written({}, tuple(changed), (), tensors))
    return made


def finish_(small: nn.Module, how: Written) -> None:
    """Assign what a cut alone does not give, and compute again what hooks have left in attributes.

    Example:
        >>> layer = prune.identity(nn.Linear(1, 1), "weight")
        >>> with torch.no_grad():
        ...     _ = layer.weight_orig.fill_(2)
        >>> finish_(layer, Written({}))
        >>> layer.weight
        tensor([[2.]])
    """
    for each in reparametrised(small):
        module = small.get_submodule(each.module)
        training, module.training = module.training, False
        if each in how.assigned:
            _assign_(module, each.name, how.effective[str(each)])
        if not parametrize.is_parametrized(module, each.name):
            setattr(module, each.name, _effective(module, each.name))
        module.training = training


def _hooks(module: nn.Module) -> list[tuple[Any, str]]:
    """List the hooks that compute a tensor before each call, with its name."""
    found: list[tuple[Any, str]] = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            found.append((hook, hook._tensor_name))
        elif isinstance(hook, WeightNorm | SpectralNorm):
            found.append((hook, hook.name))
    return found


def _parts(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Name the parameters and buffers that a tensor is computed from, as the module does."""
    if parametrize.is_parametrized(module, name):
        within = f"parametrizations.{name}."
        held = [*module.named_parameters(), *module.named_buffers()]
        return {part: tensor for part, tensor in held if part.startswith(within)}
    own = {**module._parameters, **module._buffers}
    ends = ("_orig", "_mask", "_g", "_v", "_u")
    return {name + end: tensor for end in ends if (tensor := own.get(name + end)) is not None}


def _holders(model: nn.Module) -> dict[int, int]:
    """Count the modules that hold each tensor."""
    return Counter(
        id(tensor)
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
    )


def _alike(tensor: Tensor, weight: Tensor, cuts: Sequence[tuple[int, Tensor]]) -> list[Any]:
    """Choose the cuts along axes that are as long as the weight's."""
    return [
        (dim, stays)
        for dim, stays in cuts
        if dim < tensor.dim() and tensor.shape[dim] == weight.shape[dim]
    ]


@torch.no_grad()
def _effective(module: nn.Module, name: str) -> Tensor:
    """Compute a tensor as the module does before it is called."""
    for hook, named in _hooks(module):
        if named == name:
            hook(module, ())
    tensor: Tensor = getattr(module, name)
    return tensor.detach()


def _gives(module: nn.Module, name: str, target: Tensor) -> bool:
    """Say whether a module computes a tensor, to rounding."""
    try:
        found = _effective(module, name)
    except Exception:  # noqa: BLE001 - code of any kind meets shapes that it was not made for
        return False
    if found.shape != target.shape or found.dtype != target.dtype:
        return False
    rounding = 16 * torch.finfo(target.dtype).eps
    largest = float(target.abs().max()) if target.numel() else 0.0
    return bool(torch.allclose(found, target, rtol=rounding, atol=rounding * largest))


def _assigned(module: nn.Module, name: str, target: Tensor) -> bool:
    """Assign a tensor, and say whether the module computes it then, from tensors of equal shapes."""
    before = {part: tensor.shape for part, tensor in _parts(module, name).items()}
    try:
        _assign_(module, name, target)
    except Exception:  # noqa: BLE001 - parametrisations have no inverse, or one that refuses
        return False
    after = {part: tensor.shape for part, tensor in _parts(module, name).items()}
    return before == after and _gives(module, name, target)


@torch.no_grad()
def _assign_(module: nn.Module, name: str, target: Tensor) -> None:
    """Write into the parts of a tensor what makes the module compute it."""
    if parametrize.is_parametrized(module, name):
        setattr(module, name, target)
        return
    for hook, named in _hooks(module):
        if named == name and isinstance(hook, WeightNorm):
            length, direction = getattr(module, f"{name}_g"), getattr(module, f"{name}_v")
            length.copy_(torch.norm_except_dim(target, 2, hook.dim))
            direction.copy_(target)
        elif named == name and isinstance(hook, prune.BasePruningMethod):
            getattr(module, f"{name}_orig").copy_(target)


def _bake_(module: nn.Module, name: str) -> None:
    """Turn an effective weight into an ordinary parameter, or buffer where nothing is learned."""
    learned = [t for t in _parts(module, name).values() if isinstance(t, nn.Parameter)]
    value = _effective(module, name).clone()
    if parametrize.is_parametrized(module, name):
        parametrize.remove_parametrizations(module, name)
    elif any(
        isinstance(hook, prune.BasePruningMethod) for hook, at in _hooks(module) if at == name
    ):
        prune.remove(module, name)
    elif any(isinstance(hook, WeightNorm) for hook, at in _hooks(module) if at == name):
        remove_weight_norm(module, name)
    else:
        remove_spectral_norm(module, name)
    if hasattr(module, name):
        delattr(module, name)
    if learned:
        grad = any(each.requires_grad for each in learned)
        module.register_parameter(name, nn.Parameter(value, requires_grad=grad))
    else:
        module.register_buffer(name, value)
