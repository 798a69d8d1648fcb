"""A function with settings, as data."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Call:
    """A function with some of its arguments, as data.

    Example:
        >>> from boxwood.criteria import magnitude
        >>> import torch
        >>> Call.of(magnitude, p=2)(torch.tensor([-3.0, 2.0]))
        tensor([9., 4.])
    """

    function: Callable[..., Any]
    settings: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any], *args: Any, **settings: Any) -> "Call":
        """Bind ``settings`` to a function or class; positional ones get their names.

        Raises:
            InvalidInput: the function takes no such arguments.

        Example:
            >>> Call.of(round, 2.5, ndigits=0).settings
            (('ndigits', 0), ('number', 2.5))
        """
        if args:
            try:
                settings = inspect.signature(function).bind_partial(*args, **settings).arguments
            except (TypeError, ValueError) as error:
                raise InvalidInput(
                    f"Expected arguments that {function.__name__} takes, got others ({error}); "
                    f"give them by name."
                ) from error
        return cls(function, tuple(sorted(settings.items())))

    def __call__(self, *args: Any, **more: Any) -> Any:
        """Call the function with its settings."""
        return self.function(*args, **dict(self.settings), **more)
