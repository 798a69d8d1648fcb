"""Which optimizers train a parameter, and the state they have for it."""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood._internal.core.arguments import described
from boxwood._internal.core.masks import zero_
from boxwood.errors import InvalidInput

Optimizers = Optimizer | Sequence[Optimizer]
"""One optimizer, or all that train one network. Wrappers that hold optimizers count as these."""


def check_optimizers(optimizers: Any) -> None:
    """Refuse what is certainly no optimizer, such as masks in its place.

    Raises:
        InvalidInput: it is none.

    Example:
        >>> check_optimizers({"weight": None})
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected an optimizer as the second argument, got a value of type dict; call it as (model, optimizer, masks or policy), so that no step of the optimizer changes pruned weights.
    """
    if isinstance(optimizers, Mapping | Tensor | nn.Module | float | str | type):
        raise InvalidInput(
            f"Expected an optimizer as the second argument, got {described(optimizers)}; call it as "
            f"(model, optimizer, masks or policy), so that no step of the optimizer changes "
            f"pruned weights."
        )


def listed(optimizers: Optimizers) -> list[Any]:
    """Make a list of one optimizer or several.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> len(listed([torch.optim.SGD([net.weight]), torch.optim.SGD([net.bias])]))
        2
    """
    return list(optimizers) if isinstance(optimizers, list | tuple) else [optimizers]


def members(optimizer: Any) -> list[Any]:
    """List an optimizer and those that it holds in its attributes, the outermost first.

    So wrappers are followed by what takes the steps: that of accelerate, SAM, Lookahead.

    Raises:
        InvalidInput: none of them reports its steps, as those of ``torch.optim`` do.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
        >>> members(sgd) == [sgd]
        True
    """
    found: list[Any] = []
    _collect(optimizer, found)
    if not any(reports_steps(each) for each in found):
        raise InvalidInput(
            f"Expected an optimizer of torch.optim, one derived from it, or a wrapper that holds "
            f"one in an attribute, got {described(optimizer)}; give the optimizer that takes "
            f"the steps."
        )
    return found


def reports_steps(optimizer: Any) -> bool:
    """Say whether hooks can be registered on an optimizer; some wrappers only look like one.

    Example:
        >>> import torch
        >>> reports_steps(torch.optim.SGD([nn.Parameter(torch.zeros(1))]))
        True
    """
    return hasattr(optimizer, "_optimizer_step_post_hooks")


def owned(optimizer: Any) -> set[int]:
    """The ids of the parameters that an optimizer trains now.

    Example:
        >>> import torch
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> owned(torch.optim.SGD([weight])) == {id(weight)}
        True
    """
    return {id(p) for group in getattr(optimizer, "param_groups", ()) for p in group["params"]}


def not_owned(missing: Sequence[str], masked: Iterable[str], *, none: bool) -> InvalidInput:
    """Make the error for masked parameters that learn and that no optimizer has.

    Args:
        missing: their names.
        masked: names of all masked parameters.
        none: whether no optimizer has any of those.

    Example:
        >>> raise not_owned(["a"], ["a", "b"], none=False)
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected an optimizer over the masked parameters (a, b), got only some of them, without a; give a list of all optimizers that train this network. Make them after the network is moved to its device and sharded, and freeze parameters that do not learn (requires_grad=False).
    """
    have = "none of them" if none else f"only some of them, without {', '.join(missing)}"
    return InvalidInput(
        f"Expected an optimizer over the masked parameters ({', '.join(masked)}), got {have}; give "
        f"a list of all optimizers that train this network. Make them after the network is moved "
        f"to its device and sharded, and freeze parameters that do not learn "
        f"(requires_grad=False)."
    )


def alive(group: Iterable[Any]) -> list[Any]:
    """List the optimizers that are still there, of optimizers and weak references to some.

    Example:
        >>> alive([1, weakref.ref(nn.Linear(1, 1))])
        [1]
    """
    each = [one() if isinstance(one, weakref.ref) else one for one in group]
    return [one for one in each if one is not None]


def forget_(optimizer: Any, stayed: Mapping[nn.Parameter, Tensor], *, flat: bool) -> None:
    """Write zeros into what an optimizer remembers of weights, where no bits are set.

    What it remembers of whole rows (factored moments) or of matrices stays: it moves no pruned
    weight by itself.

    Args:
        optimizer: any.
        stayed: parameters to bits, as `boxwood._internal.core.masks.bits_of` makes them.
        flat: also start an optimizer afresh that remembers all its parameters as one vector, as
            L-BFGS does: of that, nothing can be taken out.

    Example:
        >>> import torch
        >>> from boxwood._internal.core.masks import bits_of
        >>> weight = nn.Parameter(torch.ones(2))
        >>> sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.sum().backward(); sgd.step()
        >>> forget_(sgd, {weight: bits_of(torch.tensor([True, False]), weight)}, flat=True)
        >>> sgd.state[weight]["momentum_buffer"]
        tensor([1., 0.])
    """
    state = getattr(optimizer, "state", {})
    if any(
        _is_flat(each, parameter) for parameter, memory in state.items() for each in _values(memory)
    ):
        if flat:
            state.clear()
        return
    for parameter, bits in stayed.items():
        if parameter not in state:
            continue
        if not parameter.dim():
            # Counters have no dimension either, so what is remembered looks the same.
            if not bool(bits.any()):
                state.pop(parameter)
            continue
        for memory in _values(state[parameter]):
            # Integers are the codes of a quantised memory, in which 0 need not mean zero.
            if (
                isinstance(memory, Tensor)
                and memory.shape == parameter.shape
                and (memory.is_floating_point() or memory.is_complex())
            ):
                zero_(memory, bits)


def _collect(optimizer: Any, found: list[Any]) -> None:
    if any(each is optimizer for each in found):
        return
    found.append(optimizer)
    for value in getattr(optimizer, "__dict__", {}).values():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, Optimizer):
                _collect(each, found)


def _values(memory: Any) -> Iterator[Any]:
    yield from memory.values() if isinstance(memory, dict) else ()


def _is_flat(value: Any, parameter: Any) -> bool:
    if not isinstance(parameter, Tensor):
        return False
    if isinstance(value, list):
        return any(isinstance(each, Tensor) and each.dim() == 1 for each in value)
    return (
        isinstance(value, Tensor)
        and value.dim() == 1
        and value.shape != parameter.shape
        and value.numel() >= max(parameter.numel(), 2)
    )
