"""Checks of option values, made while the command line is parsed, before anything runs."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from boxwood._internal.core.replacing import check_suffix
from boxwood.errors import InvalidInput

_MOST = 1_000_000
_FILES = (".safetensors", ".pt", ".pth", ".bin", ".bxw", ".html", ".json")

Param = typer.CallbackParam


def whole(least: int, most: int = _MOST) -> Callable[[Param, int | None], int | None]:
    """Make a check that a whole number is in [least, most].

    Example:
        >>> _ = whole(1)
    """

    def check(param: Param, value: int | None) -> int | None:
        if value is not None and not least <= value <= most:
            raise InvalidInput(
                f"Expected {_name(param)} to be a whole number in [{least}, {most}], got {value}; "
                f"give such a number."
            )
        return value

    return check


def fraction(*, of_what: str, one: bool) -> Callable[[Param, float | None], float | None]:
    """Make a check that a number is in [0, 1), or in (0, 1] where one means that all stays.

    Args:
        of_what: what it is a fraction of.
        one: whether 1 is in, and 0 is out.

    Example:
        >>> _ = fraction(of_what="zeros", one=False)
    """

    def check(param: Param, value: float | None) -> float | None:
        inside = value is None or (0 < value <= 1 if one else 0 <= value < 1)
        if not inside:
            raise InvalidInput(
                f"Expected {_name(param)} to be the fraction of {of_what}, in "
                f"{'(0, 1]' if one else '[0, 1)'}, got {value}; give such a number."
            )
        return value

    return check


def rate(param: Param, value: float | None) -> float | None:
    """Check that a learning rate is in (0, 1)."""
    if value is not None and not 0 < value < 1:
        raise InvalidInput(
            f"Expected {_name(param)} to be a learning rate in (0, 1), got {value}; give such a number."
        )
    return value


def positive(param: Param, value: float) -> float:
    """Check that a number is above 0, and not endless."""
    if not 0 < value < math.inf:
        raise InvalidInput(
            f"Expected {_name(param)} to be a number above 0, got {value}; give such a number."
        )
    return value


def seconds(param: Param, value: float) -> float:
    """Check that a number of seconds is not negative and not endless."""
    if not 0 <= value < math.inf:
        raise InvalidInput(
            f"Expected {_name(param)} to be a number of seconds, at least 0, got {value}; give such "
            f"a number."
        )
    return value


def gpus(param: Param, value: float | None) -> float | None:
    """Check that a number of GPUs is whole, or a fraction of one."""
    if value is None or 0 <= value <= 1 or (value > 1 and value.is_integer()):
        return value
    raise InvalidInput(
        f"Expected {_name(param)} to be a whole number of GPUs or a fraction of one, got {value}; give "
        f"such a number."
    )


def device(value: str, *, here: bool = True) -> str:
    """Check that torch can compute on a device.

    Args:
        value: its name.
        here: whether on this machine; otherwise only the name is looked at.

    Raises:
        InvalidInput: it is no device, this machine has none of the kind, or it holds no numbers.

    Example:
        >>> device("cpu")
        'cpu'
    """
    try:
        named = torch.device(value)
        if here:
            torch.zeros(1, device=named).item()
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
        raise InvalidInput(
            f"Expected --device to be one that torch can compute on here, such as cpu or cuda, got "
            f"{value!r}, of which torch says: {said}; give another one."
        ) from error
    return value


def new_file(
    *, makes_folders: bool = True, suffix: str | None = None
) -> Callable[[Param, Path | None], Path | None]:
    """Make a check that a file can be written at a path.

    Args:
        makes_folders: whether the command makes the folders above it.
        suffix: of the kind of file that is written; names of other kinds are refused.

    Example:
        >>> _ = new_file()
    """

    def check(param: Param, value: Path | None) -> Path | None:
        if value is not None:
            _check_writable(param, value, makes_folders=makes_folders)
            if value.is_dir():
                raise _unwritable(param, value, "a folder", "name a file in it")
            if suffix is not None:
                check_suffix(value, suffix)
        return value

    return check


def new_folder(param: Param, value: Path | None) -> Path | None:
    """Check that a folder is there or can be made."""
    if value is not None:
        _check_writable(param, value, makes_folders=True)
        if value.exists() and not value.is_dir():
            raise _unwritable(param, value, "a file", "give another place")
        if value.suffix in _FILES and not value.exists():
            raise InvalidInput(
                f"Expected {_name(param)} to be a folder, got {value}, the name of a file; name a "
                f"folder, such as {value.with_suffix('')}."
            )
    return value


def store(param: Param, value: Path) -> Path:
    """Check that a store is no file; it need not be there, and reading it needs no leave to write."""
    if value.exists() and not value.is_dir():
        raise InvalidInput(
            f"Expected {_name(param)} to be a folder of finished phases, got {value}, a file; give "
            f"the folder."
        )
    return value


def new_place(param: Param, value: Path | None) -> Path | None:
    """Check that something can be written at a path, in a folder that is there."""
    if value is not None:
        _check_writable(param, value, makes_folders=False)
        check_suffix(value, ".safetensors")
    return value


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]


def free(path: Path, *, overwrite: bool) -> None:
    """Check that nothing is lost where a file is written, or that this was asked for.

    Example:
        >>> free(Path("nothing"), overwrite=False)
    """
    if not overwrite and (path.exists() or path.is_symlink()):
        raise InvalidInput(
            f"Expected a new name to write, got {path}, which is there already; give another, or "
            f"--overwrite."
        )


def empty(folder: Path, *, overwrite: bool) -> None:
    """Check that files are written into a folder that holds none, or that this was asked for.

    Example:
        >>> empty(Path("nothing"), overwrite=False)
    """
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise InvalidInput(
            f"Expected a new or an empty folder, got {folder}, which is not empty; give "
            f"another, or --overwrite to write over files of the same names."
        )


def _check_writable(param: Param, path: Path, *, makes_folders: bool) -> None:
    try:
        path.exists()  # the system refuses some names
        above = path.absolute().parent
        if not makes_folders and not above.exists():
            raise _unwritable(param, path, "a path in a folder that is missing", f"make {above}")
        while not above.exists():
            above = above.parent
    except OSError as error:
        said = f"of which the system says: {error.strerror}"
        raise _unwritable(param, path, said, "give another place") from error
    if not above.is_dir():
        raise _unwritable(
            param, path, f"a path below {above}, which is a file", "give another place"
        )
    if not os.access(path if path.is_dir() else above, os.W_OK | os.X_OK):
        raise _unwritable(
            param, path, f"one in {above}, where nothing may be written", "give another place"
        )


def _unwritable(param: Param, path: Path, what: str, way_out: str) -> InvalidInput:
    return InvalidInput(
        f"Expected {_name(param)} to be a place that can be written, got {path}, {what}; {way_out}."
    )


def _name(param: Param) -> str:
    """Return what the user typed: the long option, or the argument in capitals."""
    options = [option for option in param.opts if option.startswith("--")]
    return options[0] if options else str(param.name).upper()
