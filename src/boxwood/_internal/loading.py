"""One way to read whatever Boxwood wrote about a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

from torch import nn

from boxwood._internal.engine import storage
from boxwood._internal.engine.session import Session, load_session
from boxwood._internal.graph.record import load_shrunken
from boxwood.errors import CheckpointError


@overload
def load(path: str | Path) -> Any: ...  # a Session, or a model of transformers
@overload
def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module: ...
def load(path: str | Path, build: Callable[[], nn.Module] | None = None) -> Session | nn.Module:
    """Read a compiled network, a shrunken one, or a Hugging Face folder, packed or not.

    A ``.bxw`` file holds machine code, which runs as you: load files that you trust.

    Args:
        path: a ``.bxw`` file of `Session.save`, which needs nothing else; a safetensors file of
            ``boxwood shrink``, which needs ``build``; or a folder of ``boxwood pack``, of which
            transformers makes the model.
        build: returns the original network, whose layers are then made smaller.

    Raises:
        CheckpointError: no such file, a damaged one, or one that needs ``build``.

    Example:
        >>> load("nowhere.bxw")
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected a file at nowhere.bxw, got none; check the path.
    """
    path = Path(path)
    if path.is_dir():
        from boxwood._internal.adapters.folders import (
            load_folder,  # transformers takes seconds to import
        )

        return load_folder(path)
    if not path.is_file():
        raise CheckpointError(f"Expected a file at {path}, got none; check the path.")
    if build is not None:
        return load_shrunken(path, build)
    with path.open("rb") as opened:
        if opened.read(3) != storage.MAGIC[:3]:
            raise CheckpointError(
                f"Expected a compiled network in {path}, got another file; for a shrunken network "
                f"give build=, the function that makes the original one."
            )
    return load_session(path)
