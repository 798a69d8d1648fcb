"""Where a network reads its masked weights, and the hooks that check them first."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from boxwood._internal.core.copies import REBUILT, no_hook
from boxwood._internal.core.masks import and_
from boxwood._internal.model.copied import Copied, CopiedHook, nothing
from boxwood._internal.model.held_weights import HeldWeight
from boxwood._internal.model.prunable import plain_name, unwrapped
from boxwood.errors import InvalidInput


class Holder(Protocol):
    """What hooks on modules notify when weights are about to be read."""

    def look(self, hook: "ReadingHook", module: nn.Module) -> None:
        """Project what was changed, before a module reads it."""

    def masks(self) -> dict[str, Tensor]:
        """The masks as they are now."""


class ReadingHook:
    """What a module calls before it reads its weights, or those of modules inside.

    Args:
        holder: what holds the masks.
        below: the masked parameters of the module and of all modules inside.
        own: those that its own forward pass reads: module, attribute, parameter.
        edges: the modules inside through which it finds them.
        saving: called before `state_dict` rather than before a forward pass.
    """

    def __init__(
        self,
        holder: Holder,
        below: list[HeldWeight],
        own: list[tuple[nn.Module, str, HeldWeight]],
        edges: list[tuple[dict[str, Any], str, nn.Module]],
        *,
        saving: bool = False,
    ) -> None:
        self.holder, self.below, self.own, self.edges = holder, below, own, edges
        self.saving = saving

    def __call__(self, module: nn.Module, *_: object) -> None:
        """Look at the weights; in compiled code, project them."""
        if self.saving or not torch.compiler.is_compiling():
            self.holder.look(self, module)
            return
        # A graph cannot ask whether weights were changed. Writing the zeros again is part of it.
        for owner, attribute, held in self.own:
            weight: Any = owner._parameters[attribute]
            if isinstance(weight, nn.Parameter):
                with torch.no_grad():
                    and_(weight, held.bits)
            else:
                owner._parameters[attribute] = weight.masked_fill(~held.mask, 0)

    def moved(self) -> bool:
        """Say whether a module inside was replaced."""
        for modules, key, child in self.edges:  # noqa: SIM110 - a generator costs as much again
            if modules.get(key) is not child:
                return True
        return False

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        if id(REBUILT) in memo:
            return no_hook
        key = ("boxwood", id(self.holder))
        if key not in memo:
            memo[key] = Copied(_MasksOf(weakref.ref(self.holder)))
        own = tuple((attribute, held.name) for _, attribute, held in self.own)
        for _, _, held in self.own:
            memo[key].note(held.name, held.parameter)
        return CopiedHook(memo[key], own, saving=self.saving)

    def __reduce__(self) -> Any:
        return nothing(saving=self.saving)


class _MasksOf:
    """The masks of a holder, as long as there is one."""

    def __init__(self, holder: "weakref.ref[Holder]") -> None:
        self._holder = holder

    def __call__(self) -> dict[str, Tensor] | None:
        holder = self._holder()
        return None if holder is None else holder.masks()


def check_names(model: nn.Module, weights: Iterable[HeldWeight]) -> None:
    """Refuse a network in which a name means another parameter than the masked one.

    Raises:
        InvalidInput: a parameter was replaced, or goes by another name.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> held = HeldWeight(("weight",), net.weight, torch.ones(1, 1, dtype=torch.bool))
        >>> check_names(net, [held])
    """
    named = named_parameters(model)
    for held in weights:
        for name in held.names:
            if named.get(name) is not held.parameter:
                got = "another one in its place" if name in named else "none of this name"
                raise InvalidInput(
                    f"Expected {name!r} to be the parameter that its mask was bound to, got "
                    f"{got}; detach this binding and make a new one, with an optimizer over "
                    f"the parameters as they are now."
                )


def hook_modules(
    model: nn.Module, weights: Iterable[HeldWeight], holder: Holder, *, forward: bool = True
) -> tuple[list[Any], ReadingHook]:
    """Register hooks on every module that holds masked parameters, by itself or inside.

    Args:
        model: the network.
        weights: its masked parameters, which note where modules keep them.
        holder: what the hooks notify.
        forward: False leaves out the hooks before forward passes, and keeps those before
            `state_dict`.

    Returns:
        Their handles, and one hook for the whole network, which is registered nowhere.

    Example:
        >>> from types import SimpleNamespace
        >>> net = nn.Sequential(nn.Linear(1, 1))
        >>> held = HeldWeight(("0.weight",), net[0].weight, torch.ones(1, 1, dtype=torch.bool))
        >>> looks = []
        >>> holder = SimpleNamespace(look=lambda hook, module: looks.append(module))
        >>> handles, whole = hook_modules(net, [held], holder)
        >>> _ = net(torch.ones(1, 1))
        >>> len(looks)  # before the network and before its layer
        2
        >>> [held.name for held in whole.below]
        ['0.weight']
    """
    by_id = {}
    for held in weights:
        held.places = []
        by_id[id(held.parameter)] = held
    handles: list[Any] = []
    whole = ReadingHook(holder, list(by_id.values()), [], [])
    _hook_module(model, by_id, {}, whole, handles, forward=forward)
    return handles, whole


def restore_after_call(
    module: nn.Module, parameters: dict[str, Any], attribute: str, tensor: Tensor
) -> None:
    """Put a tensor back where a module has it, when its forward pass is over.

    `torch.func.functional_call` would hand what it finds there back to its caller.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> before, net._parameters["weight"] = net.weight, torch.zeros(1, 1)
        >>> restore_after_call(net, net._parameters, "weight", before)
        >>> net(torch.ones(1, 1)).item(), net.weight is before
        (0.0, True)
    """

    def restore(*_: object) -> None:
        handle.remove()
        parameters[attribute] = tensor

    handle = module.register_forward_hook(restore, always_call=True)


def _hook_module(
    module: nn.Module,
    by_id: Mapping[int, HeldWeight],
    below: dict[int, list[HeldWeight]],
    whole: ReadingHook,
    handles: list[Any],
    *,
    forward: bool,
) -> list[HeldWeight]:
    if id(module) in below:
        return below[id(module)]
    own = _masked(module, by_id)
    found = below[id(module)] = [held for _, _, held in own]
    # What fully_shard has sharded gives way to the whole parameter during a forward pass.
    own = [each for each in own if not each[2].sharded]
    for _, attribute, held in own:
        held.places.append((module._parameters, attribute))
    edges = []
    for key, child in module._modules.items():
        if child is None:
            continue
        inside = _hook_module(child, by_id, below, whole, handles, forward=forward)
        if not inside:
            continue
        edges.append((module._modules, key, child))
        found += [held for held in inside if held not in found]
        if isinstance(child, NonDynamicallyQuantizableLinear):
            # Attention reads it without calling it.
            own += [each for each in _masked(child, by_id) if not each[2].sharded]
    if not found:
        return found
    whole.own += own
    whole.edges += edges
    if forward:
        read = ReadingHook(whole.holder, found, own, edges)
        # Before fully_shard gathers the shards, and after hooks that write to weights.
        first = any(held.sharded for held in found)
        handles.append(module.register_forward_pre_hook(read, prepend=first))
    save = ReadingHook(whole.holder, found, own, edges, saving=True)
    handles.append(module.register_state_dict_pre_hook(save))
    return found


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name every parameter by all of its names, as an unwrapped model does.

    Example:
        >>> list(named_parameters(nn.DataParallel(nn.Linear(2, 1))))
        ['weight', 'bias']
    """
    named = unwrapped(model).named_parameters(remove_duplicate=False)
    return {plain_name(name): parameter for name, parameter in named}


def _masked(
    module: nn.Module, by_id: Mapping[int, HeldWeight]
) -> list[tuple[nn.Module, str, HeldWeight]]:
    return [
        (module, attribute, by_id[id(parameter)])
        for attribute, parameter in module._parameters.items()
        if id(parameter) in by_id
    ]


def names_of(named: Mapping[str, nn.Parameter], parameter: nn.Parameter) -> tuple[str, ...]:
    """List all names of one parameter.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> names_of({"a": net.weight, "b": net.bias, "c": net.weight}, net.weight)
        ('a', 'c')
    """
    return tuple(name for name, other in named.items() if other is parameter)
