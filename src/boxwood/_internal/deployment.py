"""`save` and `load`: one way to write and read compiled, shrunken and masked networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

from torch import nn

from boxwood._internal.core.masks import Masks, apply
from boxwood._internal.engine.bxw_sections import MAGIC
from boxwood._internal.engine.session import Session, load_session
from boxwood._internal.files.mask_files import write_with_masks
from boxwood._internal.graph.record import load_shrunken, record_of, save_shrunken
from boxwood._internal.graph.selection import UnitSelection
from boxwood.errors import CheckpointError, InvalidInput


def save(
    network: nn.Module | Session,
    path: str | Path,
    *,
    selection: UnitSelection | None = None,
    masks: Masks | None = None,
) -> None:
    """Write a compiled, a smaller or a masked network to a file. The file appears complete, or not at all.

    Args:
        network: what `compile` or `shrink` returned, or a network under masks.
        path: ``*.bxw`` for a compiled network, ``*.safetensors`` for the others.
        selection: for a smaller network: the units that were kept. `load` needs it to build the
            network from the code of the original.
        masks: for a masked network: bool tensors by parameter name. Weights are written as zero
            where a mask is False. The masks are written to a folder ``masks`` next to the file,
            from which `boxwood.files.load_masks` reads them.

    Raises:
        InvalidInput: the selection or the masks are missing, or both are given.
        CheckpointError: the file cannot be written, or its name is that of another format.

    Example:
        >>> import tempfile, torch
        >>> from boxwood import find_units, select_units, shrink
        >>> def build():
        ...     return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = build()
        >>> selection = select_units(find_units(net, torch.ones(1, 4)), keep=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(shrink(net, selection), f"{folder}/small.safetensors", selection=selection)
        ...     load(f"{folder}/small.safetensors", build)[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    if isinstance(network, nn.Module):
        if (selection is None) == (masks is None):
            raise InvalidInput(
                f"Expected either the selection or the masks of the {type(network).__name__}, got "
                f"{'neither' if masks is None else 'both'}; give selection= for what shrink "
                f"returned, masks= for a network under masks, and torch.save for others."
            )
        if selection is not None:
            save_shrunken(network, record_of(selection.units.model, selection), path)
        elif masks is not None:
            weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
            write_with_masks(path, apply(weights, masks), masks)
        return
    if selection is not None or masks is not None:
        raise InvalidInput(
            "Expected a compiled network alone, got a selection or masks too; leave them out."
        )
    network.save(path)


@overload
def load(path: str | Path) -> Any: ...  # a Session, or a model of transformers
@overload
def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module: ...
def load(path: str | Path, build: Callable[[], nn.Module] | None = None) -> Session | nn.Module:
    """Read a compiled network, a shrunken one, or a Hugging Face folder, packed or not.

    A ``.bxw`` file contains machine code, which runs with your rights: load only files that you
    trust.

    Args:
        path: a ``.bxw`` file, which needs nothing else; a safetensors file of a smaller network,
            which needs ``build``; or a folder of ``boxwood pack``, whose model transformers builds.
        build: a function that returns the original network, whose layers are then made smaller.

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
        # transformers takes seconds to import
        from boxwood._internal.adapters.folders import load_folder

        return load_folder(path)
    if not path.is_file():
        raise CheckpointError(f"Expected a file at {path}, got none; check the path.")
    if build is not None:
        return load_shrunken(path, build)
    with path.open("rb") as opened:
        if opened.read(3) != MAGIC[:3]:
            raise CheckpointError(
                f"Expected a compiled network in {path}, got another file; for a shrunken network "
                f"give build=, the function that makes the original one."
            )
    return load_session(path)
