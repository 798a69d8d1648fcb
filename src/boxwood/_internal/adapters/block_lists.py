"""Find the list of blocks of a model, and which of its blocks are of the same kind."""

from collections.abc import Hashable, Iterator
from typing import Any

from torch import nn

from boxwood._internal.core.extras import extra
from boxwood.errors import InvalidInput

with extra("transformers", "transformers and accelerate for pretrained models"):
    from transformers.pytorch_utils import Conv1D

_PLACES = ("layer_idx", "layer_id", "layer_index", "layer_number")
"""How modules name the place of their block in the list."""

_PLAIN = (bool, int, float, str, type(None))


def find_blocks(model: nn.Module, name: str | None = None) -> tuple[str, ...]:
    """Find the outermost list of modules with linear layers in them; there must be one.

    Args:
        model: as transformers builds it.
        name: dotted name of the list, where there are several.

    Returns:
        The dotted names of the blocks, in order.

    Raises:
        InvalidInput: there is none, or there are several.

    Example:
        >>> find_blocks(nn.Sequential(nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])))
        ('0.0', '0.1')
    """
    there = dict(block_lists(model))
    found = {each: blocks for each, blocks in there.items() if name in (None, each)}
    if len(found) != 1:
        got = ", ".join(found) or ("none" if name is None else f"none that is called {name!r}")
        choice = f" out of {', '.join(there)}" if there and name is not None else ""
        raise InvalidInput(
            f"Expected one list of blocks in {type(model).__name__}, got {got}; name the one "
            f"you mean with blocks={choice}."
        )
    ((outer, blocks),) = found.items()
    return tuple(f"{outer}.{place}" for place in range(len(blocks)))


def block_lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield the outermost lists of modules with linear layers in them, with their dotted names.

    Example:
        >>> [name for name, _ in block_lists(nn.Sequential(nn.ModuleList([nn.Linear(1, 1)])))]
        ['0']
    """
    outer: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{each}.") for each in outer)
        if isinstance(module, nn.ModuleList) and not inside and _has_linear(module):
            outer.append(name)
            yield name, module


def kind_of(block: nn.Module) -> Hashable:
    """Describe what a block is: classes, plain attributes and shapes, but not its place or weights.

    Two blocks of one kind compute the same from the same weights.

    Example:
        >>> kind_of(nn.Linear(2, 1)) == kind_of(nn.Linear(2, 1)) != kind_of(nn.Linear(2, 2))
        True
    """
    modules = tuple(
        (name, type(module).__qualname__, _attributes(module))
        for name, module in block.named_modules()
    )
    shapes = tuple((name, tuple(each.shape)) for name, each in block.state_dict().items())
    return modules, shapes


def _attributes(module: nn.Module) -> tuple[tuple[str, Any], ...]:
    held = vars(module)
    # As GPT-2 does, which can divide attention by the number of its block.
    by_place = any(held.get(name) is True for name in held if any(p in name for p in _PLACES))
    return tuple(
        (name, value)
        for name, value in sorted(held.items())
        if isinstance(value, _PLAIN) and (by_place or name not in _PLACES) and name != "training"
    )


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(each, nn.Linear | Conv1D) for each in module.modules())
