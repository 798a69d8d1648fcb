"""Examples: the arguments of one call of a network, or of several in sequence."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node, tree_map

from boxwood._internal.core.placement import on_device_of
from boxwood.errors import BoxwoodError, InvalidInput


def as_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read an example: one input, a tuple of inputs, or a dict of inputs by name.

    Example:
        >>> as_arguments({"x": 1})
        ((), {'x': 1})
    """
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,), {}


def plainly(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a network."""
    return network(*args, **kwargs)


@dataclass(frozen=True)
class Calls:
    """Several ways to call a network, which are traced, compared and measured together.

    Args:
        examples: a list; each is an input, a tuple of inputs, or a dict of inputs by name.
        how: a function of the network and the inputs of one example that runs it and returns its
            outputs.

    Example:
        >>> both = Calls(({"x": 1.0}, {"x": 2.0}), lambda net, x: (net(x), net(-x)))
        >>> called(abs, both)
        [(1.0, 1.0), (2.0, 2.0)]
    """

    examples: tuple[Any, ...]
    how: Callable[..., Any] = plainly


register_pytree_node(
    Calls, lambda each: (list(each.examples), each.how), lambda held, how: Calls(tuple(held), how)
)


def called(network: Any, example: Any) -> list[Any]:
    """Run a network on an example, and list what each call returns.

    Example:
        >>> called(max, (2, 3))
        [3]
    """
    calls = example if isinstance(example, Calls) else Calls((example,))
    returned = []
    for each in calls.examples:
        args, kwargs = as_arguments(each)
        returned.append(calls.how(network, *args, **kwargs))
    return returned


def called_on_batch(network: nn.Module, batch: Any) -> list[Any]:
    """Run a network on a batch that a user gave.

    Raises:
        InvalidInput: it fails.

    Example:
        >>> import torch
        >>> called_on_batch(nn.Linear(2, 1), torch.ones(1, 3))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected batches that the network takes, got one of (1, 3), on which it fails (RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x3 and 2x1)); leave it out, or give inputs as find_units() took them.
    """
    try:
        return called(network, batch)
    except BoxwoodError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in tensors_of(batch)) or "no tensor"
        raise InvalidInput(
            f"Expected batches that the network takes, got one of {shapes}, on which it fails "
            f"({type(error).__name__}: {error}); leave it out, or give inputs as find_units() took them."
        ) from error


def formed_like(traced: Any, example: Any) -> Any:
    """Let other inputs run a network in all the ways in which it was traced.

    Raises:
        InvalidInput: it was traced on several examples, and this is one.

    Example:
        >>> formed_like(Calls((1,), max), 2).examples
        (2,)
    """
    if not isinstance(traced, Calls) or isinstance(example, Calls):
        return example
    if len(traced.examples) == 1:
        return Calls((example,), traced.how)
    raise InvalidInput(
        f"Expected inputs for each of the {len(traced.examples)} calls that were traced, got those "
        "of one; give boxwood.structure.Calls((first, second, …))."
    )


def inputs_like(traced: Any, batch: Any) -> Any:
    """Take from what a DataLoader gives the inputs that a network was traced with.

    What comes after the inputs, such as targets, is left out. What is no tensor in the example and
    not in the batch, such as a flag, is the example's.

    Args:
        traced: the example; it gives the number of inputs, or their names.
        batch: inputs as in the example, or a list, tuple or dict that begins with them.

    Raises:
        InvalidInput: an input is missing, or a dict does not say which entry is the input.

    Example:
        >>> import torch
        >>> x, y = torch.ones(1), torch.zeros(1)
        >>> inputs_like(torch.ones(2), [x, y])
        tensor([1.])
        >>> inputs_like({"x": torch.ones(2), "flag": True}, {"x": x, "y": y})
        {'x': tensor([1.]), 'flag': True}
    """
    if isinstance(batch, Calls):
        return batch
    if isinstance(traced, Calls):
        return Calls(tuple(inputs_like(each, batch) for each in traced.examples), traced.how)
    if isinstance(traced, Mapping):
        return _named_like(traced, batch)
    if isinstance(traced, tuple):
        given = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        kinds = [_holds_tensors(each) for each in traced]
        if kinds == [_holds_tensors(each) for each in given[: len(traced)]]:
            return given[: len(traced)]
        entries = iter(_enough(sum(kinds), given))
        return tuple(next(entries) if k else each for k, each in zip(kinds, traced, strict=True))
    kind = Tensor if isinstance(traced, Tensor) else type(traced)
    first = batch[0] if isinstance(batch, list | tuple) and batch else None
    for each in (first, batch):
        if isinstance(each, kind):
            return each
    named = f", with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
    raise InvalidInput(
        f"Expected batches that begin with a {kind.__name__}, as the example is, got a "
        f"{type(batch).__name__}{named}; give the inputs alone: [… for batch in batches]."
    )


def _named_like(traced: Mapping[str, Any], batch: Any) -> dict[str, Any]:
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Mapping):
        batch = batch[0]
    wanted = [name for name, each in traced.items() if _holds_tensors(each)]
    if isinstance(batch, Mapping):
        missing = [name for name in wanted if name not in batch]
        if missing:
            raise InvalidInput(
                f"Expected batches with {missing[0]!r}, as the example has it, got one with "
                f"{', '.join(map(str, batch))}; rename its entries."
            )
        return {name: batch.get(name, each) for name, each in traced.items()}
    given = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
    return {**traced, **dict(zip(wanted, _enough(len(wanted), given), strict=False))}


def _enough(count: int, given: Sequence[Any]) -> Sequence[Any]:
    if len(given) < count:
        raise InvalidInput(
            f"Expected batches of {count} inputs, as the example has, got one of {len(given)}; "
            "give all of them."
        )
    return given[:count]


def _holds_tensors(each: Any) -> bool:
    return next(tensors_of(each), None) is not None


def mapped(change: Callable[[Tensor], Any], nested: Any) -> Any:
    """Change all tensors in containers and dataclasses.

    Example:
        >>> import torch
        >>> mapped(lambda x: x + 1, {"a": [torch.ones(1)], "b": "name"})
        {'a': [tensor([2.])], 'b': 'name'}
    """

    def each(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return change(leaf)
        if not is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        made = copy.copy(leaf)
        for field in fields(leaf):
            object.__setattr__(made, field.name, mapped(change, getattr(leaf, field.name)))
        return made

    return tree_map(each, nested)


def moved_to(network: nn.Module, example: Any) -> Any:
    """Bring the tensors of an example to the network's device.

    Example:
        >>> import torch
        >>> moved_to(nn.Linear(2, 1), {"input": torch.ones(1, 2)})
        {'input': tensor([[1., 1.]])}
    """
    weights = list(network.parameters())
    return mapped(lambda each: on_device_of(each, weights), example)


def tensors_of(nested: Any) -> Iterator[Tensor]:
    """Find the tensors in what a model returned: containers, mappings, dataclasses.

    Example:
        >>> import torch
        >>> list(tensors_of({"a": [torch.ones(1)], "b": None}))
        [tensor([1.])]
    """
    seen: dict[int, Any] = {}  # holds what was seen, or its id might be given to another

    def inside(each: Any) -> Iterator[Tensor]:
        if isinstance(each, Tensor):
            yield each
            return
        # A remembering size is an int that leads to all that was recorded.
        if isinstance(each, type | nn.Module | int) or id(each) in seen:
            return
        if isinstance(each, Mapping):
            parts = iter(each.values())
        elif isinstance(each, tuple | list | set):
            parts = iter(each)
        elif hasattr(each, "__dict__"):
            parts = iter(vars(each).values())
        else:
            return
        seen[id(each)] = each
        for part in parts:
            yield from inside(part)

    return inside(nested)
