"""Messages for arguments of the wrong kind: what was expected, what came, what to do."""

import difflib
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from boxwood.errors import InvalidInput


def described(value: Any) -> str:
    """Say in a few words what a value is.

    Example:
        >>> described(0.9), described(nn.Linear), described({"w": 1}), described("magnitude")
        ('0.9', 'the class Linear', 'a value of type dict', "'magnitude'")
    """
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a value of type {type(value).__name__}"


def check_kind(value: Any, kind: type | tuple[type, ...], wanted: str, do: str) -> None:
    """Refuse what is of another kind.

    Args:
        value: what was given.
        kind: classes of which it may be.
        wanted: in words, with an article.
        do: what to do instead.

    Raises:
        InvalidInput: it is none of them.

    Example:
        >>> check_kind(0.9, str, "a name", "quote it")
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a name, got 0.9; quote it.
    """
    if not isinstance(value, kind):
        raise InvalidInput(f"Expected {wanted}, got {described(value)}; {do}.")


def check_network(model: Any) -> None:
    """Refuse what is no network, such as its class.

    Raises:
        InvalidInput: it is none.

    Example:
        >>> check_network(nn.Linear)
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a network, got the class Linear; make one of it first: Linear(…).
    """
    do = f"make one of it first: {model.__name__}(…)" if isinstance(model, type) else (
        "give an nn.Module as the first argument"
    )  # fmt: skip
    if isinstance(getattr(model, "submod", None), nn.Module):  # torch.distributed.pipelining
        do = "give its submod, and as group= the ranks that hold the same stage"
    check_kind(model, nn.Module, "a network", do)


def check_not_accelerated(model: nn.Module) -> None:
    """Refuse a network whose layers run packed copies of their weights.

    Raises:
        InvalidInput: it has such layers.
    """
    if any(hasattr(module, "dense_class") for module in model.modules()):
        raise InvalidInput(
            "Expected a network of torch's own layers, got one with accelerated ones; call "
            "boxwood.restore_(model) first, and boxwood.accelerate_ again afterwards."
        )


def checked_masks(masks: Any) -> Mapping[str, Tensor]:
    """Give masks by name back, and refuse what are none.

    Raises:
        InvalidInput: they are none.

    Example:
        >>> checked_masks({"weight": [True]})
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a bool tensor for each name, got a value of type list for 'weight'; give what boxwood.find_masks returns.
    """
    do = "give what boxwood.find_masks returns"
    check_kind(masks, Mapping, "masks by parameter name", do)
    for name, mask in masks.items():
        if not isinstance(mask, Tensor):
            raise InvalidInput(
                f"Expected a bool tensor for each name, got {described(mask)} for {name!r}; {do}."
            )
    return dict(masks)


def check_function(value: Any, wanted: str, module: str) -> None:
    """Refuse what cannot be called; a name is answered with the function that it may mean.

    Args:
        value: what was given.
        wanted: in words, with an article.
        module: where such functions are; it has been imported.

    Raises:
        InvalidInput: it is none.

    Example:
        >>> import boxwood.criteria
        >>> check_function("magnitud", "a criterion", "boxwood.criteria")
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a criterion, got 'magnitud'; give the function: boxwood.criteria.magnitude.
    """
    if callable(value) and not isinstance(value, type):
        return
    do = f"give a function such as those of {module}"
    if isinstance(value, str):
        there = [n for n, each in vars(sys.modules[module]).items() if callable(each)]
        public = [name for name in there if not name.startswith("_")]
        close = difflib.get_close_matches(value.lower(), public, n=1)
        do = f"give the function: {module}.{close[0]}" if close else do
    raise InvalidInput(f"Expected {wanted}, got {described(value)}; {do}.")
