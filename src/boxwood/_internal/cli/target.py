"""Turn arguments of the command line into an experiment."""

import ast
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boxwood._internal.core.reading import read_whole, strict_json
from boxwood._internal.core.spec import decode, load
from boxwood._internal.core.trust import Trust
from boxwood._internal.data.catalogue import named
from boxwood._internal.data.splits import Splits
from boxwood._internal.recipes.phase import Experiment
from boxwood.errors import InvalidInput


def trusted(code: Sequence[str] | None, trust: bool) -> Trust:
    """Whose code a file may name, by what was typed."""
    return Trust.of(*(code or ()), everything=trust)


def resolve(
    target: str,
    data: str | None = None,
    settings: Sequence[str] = (),
    trust: Trust = Trust(),  # noqa: B008 - frozen
) -> Experiment:
    """Find or build the experiment that ``file.py:function`` or ``recipe.json`` names.

    Args:
        target: a function that returns an `Experiment`, or a file that ``boxwood plan --json`` wrote.
        data: a data set's name or ``file.py:function``, for functions with a parameter ``data``.
        settings: ``name=value`` texts for the function's other parameters.
        trust: whose code ``recipe.json`` may name; a function that was typed is trusted.

    Raises:
        InvalidInput: the target, a setting or a field does not exist, or is not trusted.
    """
    if target.endswith(".json"):
        if data or settings:
            raise InvalidInput(
                f"Expected only a recipe file, got --data or --set as well; edit {target} instead."
            )
        found = _read(Path(target), trust)
    else:
        function = load(target)
        if not callable(function):
            raise InvalidInput(
                f"Expected {target} to name a function, got {type(function).__name__}; "
                f"name a function that returns an Experiment."
            )
        found = function(**arguments(function, target, data, settings))
    if not isinstance(found, Experiment):
        raise InvalidInput(
            f"Expected {target} to return an Experiment, got {type(found).__name__}; "
            f"return Experiment(model=…, data=…, branches=((name, recipe), …))."
        )
    return found


def _read(path: Path, trust: Trust) -> Any:
    try:
        found = strict_json(read_whole(path))
    except FileNotFoundError as error:
        raise InvalidInput(f"Expected a recipe file at {path}, got none; check it.") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"Expected JSON in {path}, got other text ({error}); "
            f"write it with `boxwood plan --json`."
        ) from error
    return decode(found, trust)


def arguments(
    function: Callable[..., Any], target: str, data: str | None, settings: Sequence[str]
) -> dict[str, Any]:
    """Read ``name=value`` texts as arguments of a function.

    Raises:
        InvalidInput: a text has no value, or the function no such parameter.
    """
    parameters = inspect.signature(function).parameters
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InvalidInput(f"Expected --set name=value, got {setting!r}; add the value.")
        given[name] = _value(text)
    if data is not None:
        given["data"] = loader_of(data)
    for name in given:
        if name not in parameters:
            raise InvalidInput(
                f"Expected a parameter of {target} ({', '.join(parameters) or 'it has none'}), "
                f"got {name!r}; correct it or leave it out."
            )
    return given


def loader_of(data: str) -> Callable[[], Splits]:
    """Find what loads the data that ``--data`` names: a data set, or ``file.py:function``.

    Example:
        >>> loader_of("digits")().classes
        10
    """
    loader: Callable[[], Splits] = load(data) if ":" in data else named(data)
    return loader


def _value(text: str) -> Any:
    """Read numbers, tuples and quoted text as Python does; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
