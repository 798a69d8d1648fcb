"""A shrunken network as a file: its weights, and what was kept of the original.

One safetensors file. The tensors are the parameters and buffers under their first names; the
header carries, as JSON under ``boxwood.structure``, which indices of which axes stayed and which
attributes changed. ``boxwood.sha256`` is the checksum of that text and of the tensors. The class of
the network is not in it: whoever loads it builds the original.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from boxwood._internal.core.reading import shown, strict_json
from boxwood._internal.core.replacing import check_suffix, disk_errors
from boxwood._internal.core.tensor_files import TensorFile, read_checked, write_tensors
from boxwood._internal.graph.rebuild import named_tensors, rebuilt
from boxwood._internal.graph.reparametrised import (
    Reparametrised,
    Written,
    baked,
    finish_,
    reparametrised,
    written,
)
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.surgery import attributes_of, corrected_, cuts_of
from boxwood.errors import BoxwoodError, CheckpointError

_KEY = "boxwood.structure"
_FORMAT = 2  # 1 had no checksum
Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class Record:
    """What a removal did, enough to repeat it.

    Args:
        shapes: of all parameters and buffers of the original, by first name.
        kept: first name to (axis, kept indices as half-open ranges) pairs.
        attributes: (path, value) of the ints of modules that changed, or that must not be taken
            for the size of a layer.
        baked: effective weights that have become ordinary parameters, as (module, name).
    """

    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Sequence[tuple[int, Ranges]]]
    attributes: Sequence[tuple[tuple[str | int, ...], int]]
    baked: Sequence[tuple[str, str]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "format": _FORMAT,
            "shapes": self.shapes,
            "kept": self.kept,
            "attributes": self.attributes,
            **({"baked": self.baked} if self.baked else {}),
        }


def record_of(model: nn.Module, selection: UnitSelection) -> Record:
    """Write down what a removal keeps of a network.

    Example:
        >>> from boxwood import find_units, select_units
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> selection = select_units(find_units(net, torch.ones(1, 4)), 0.9)
        >>> list(record_of(net, selection).kept)
        ['0.weight', '0.bias', '2.weight']
    """
    how = written(model, cuts_of(selection))
    return Record(
        shapes={names[0]: tuple(t.shape) for names, t in named_tensors(baked(model, how.baked))},
        kept={
            name: [(dim, _ranges(indices.tolist())) for dim, indices in cuts]
            for name, cuts in how.cuts.items()
        },
        attributes=attributes_of(selection),
        baked=[(each.module, each.name) for each in how.baked],
    )


def save_shrunken(small: nn.Module, record: Record, path: Path | str) -> None:
    """Write a shrunken network to one safetensors file, whole or not at all.

    Raises:
        CheckpointError: the name is that of another format, or the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from boxwood import find_units, select_units
        >>> from boxwood import shrink
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> selection = select_units(find_units(net, torch.ones(1, 4)), 0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_shrunken(shrink(net, selection), record_of(net, selection), f"{folder}/small.safetensors")
        ...     again = load_shrunken(
        ...         f"{folder}/small.safetensors",
        ...         build=lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        ...     )
        >>> again[0]
        Linear(in_features=4, out_features=4, bias=True)

    """
    path = Path(path)
    check_suffix(path, ".safetensors")
    tensors = {names[0]: t.detach().clone() for names, t in named_tensors(small)}
    with disk_errors(path, "give a path in a folder that exists and can be written."):
        write_tensors(path, tensors, {_KEY: json.dumps(record.to_json())})


def load_shrunken(path: Path | str, build: Callable[[], nn.Module]) -> nn.Module:
    """Read a shrunken network from its file.

    Args:
        path: what `save_shrunken` wrote.
        build: returns a new network as the original was; its weights do not matter.

    Raises:
        CheckpointError: there is no such file, it is damaged or of another kind, or ``build`` makes
            another network.

    Warns:
        UserWarning: the file is older than checksums.

    Example:
        >>> small = load_shrunken("small.safetensors", build=lambda: resnet50())  # doctest: +SKIP
    """
    record, tensors = read_record(Path(path))
    original = build()
    computed = reparametrised(original)
    to_bake = [Reparametrised(*each) for each in record.baked]
    if not set(to_bake) <= set(computed):
        missing = next(each for each in to_bake if each not in computed)
        raise CheckpointError(
            f"Expected build to return the network that was shrunk, got one in which {missing} is "
            "not computed from other tensors as it was; give its own factory."
        )
    original = baked(original, to_bake)
    shapes = {names[0]: tuple(t.shape) for names, t in named_tensors(original)}
    for name, shape in record.shapes.items():
        if shapes.get(name) != tuple(shape):
            raise CheckpointError(
                f"Expected build to return the network that was shrunk, got one in which {name!r} "
                f"has shape {shapes.get(name)} and not {tuple(shape)}; give its own factory."
            )
    extra = sorted(set(shapes) - set(record.shapes)) + sorted(set(shapes) - set(tensors))
    if extra:
        raise CheckpointError(
            f"Expected build to return the network that was shrunk, got one that also has "
            f"{extra[0]!r}; give its own factory."
        )
    for where, value in record.attributes:
        _check_attribute(original, where, value, Path(path))
    small = rebuilt(original, lambda name, tensor: tensors[name].to(tensor.device))
    finish_(small, Written({}))
    corrected_(small, record.kept, record.attributes)
    return small


def read_record(path: Path) -> tuple[Record, dict[str, Tensor]]:
    """Read the record and the tensors of a shrunken network.

    Raises:
        CheckpointError: there is no such file, or it is damaged or of another kind.
    """
    if not path.is_file():
        raise CheckpointError(
            f"Expected a shrunken network at {path}, got no file; check the path."
        )
    try:
        found = read_checked(path, older=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected an undamaged file at {path}, got one that cannot be used ({error}); copy it "
            f"again, or write it again with boxwood.save."
        ) from error
    if _KEY not in found.texts:
        raise CheckpointError(
            f"Expected a file that boxwood.save wrote, got {path} without a record of what was "
            "removed; load it as ordinary weights."
        )
    try:
        read = strict_json(found.texts[_KEY].encode())
        _check_format(read["format"], found, path)
        record = Record(
            {name: tuple(shape) for name, shape in read["shapes"].items()},
            {
                n: [(d, [tuple(r) for r in rs]) for d, rs in axes]
                for n, axes in read["kept"].items()
            },
            [(tuple(where), value) for where, value in read["attributes"]],
            [(str(module), str(name)) for module, name in read.get("baked", ())],
        )
        _check_shapes(record, found.tensors)
    except BoxwoodError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"Expected a whole record in {path}, got one that lacks a part ({error}); write it "
            "again with save_shrunken."
        ) from error
    if found.checksum is None:
        warnings.warn(
            f"{path} was written by an older Boxwood without a checksum, so damage would not be "
            f"noticed. Compare what it computes with the original, and write it again.",
            UserWarning,
            stacklevel=3,
        )
    return record, found.tensors


def _check_format(version: object, found: TensorFile, path: Path) -> None:
    if version not in (1, _FORMAT) or type(version) is not int:
        raise CheckpointError(
            f"Expected a record of format {_FORMAT} at most, got {version!r} in {path}; update Boxwood."
        )
    if found.checksum is None and version != 1:
        raise CheckpointError(
            f"Expected a checksum in {path}, as all records of format {version} have, got none; the "
            f"file was damaged: copy it again, or write it again with boxwood.save."
        )


def _check_attribute(
    model: nn.Module, where: Sequence[str | int], value: object, path: Path
) -> None:
    """Refuse a file that would set anything but an int that the network has.

    Only what is in the tables of modules and settings is looked up: no method, no property and
    nothing that Python itself keeps there.
    """
    holder: Any = model
    for part in where:
        if isinstance(holder, tuple | list):
            known = type(part) is int and 0 <= part < len(holder)
            holder = holder[part] if known else None  # type: ignore[index]
        else:
            name = str(part)
            held = getattr(holder, "__dict__", {})
            modules = held.get("_modules", {}) if isinstance(holder, nn.Module) else {}
            holder = None if name.startswith("__") else held.get(name, modules.get(name))
    if type(holder) is not int or type(value) is not int or abs(value) >= 2**63:
        raise CheckpointError(
            f"Expected {path} to change ints of the network that build makes, got "
            f"{'.'.join(map(str, where))!r} = {shown(value)}, which is not an int; give its own "
            f"factory, or "
            f"write it again with boxwood.save."
        )


def _check_shapes(record: Record, tensors: Mapping[str, Tensor]) -> None:
    for name, shape in record.shapes.items():
        wanted = list(shape)
        for dim, ranges in record.kept.get(name, ()):
            ends = [end for part in ranges for end in part]
            inside = type(dim) is int and 0 <= dim < len(shape)
            if not (inside and ends == sorted(ends) and all(0 <= e <= shape[dim] for e in ends)):
                raise ValueError(f"kept indices that {name!r} does not have")
            wanted[dim] = sum(stop - start for start, stop in ranges)
        got = list(tensors[name].shape) if name in tensors else None
        if got != wanted:
            raise CheckpointError(
                f"Expected {name!r} of shape {wanted} by the record, got {got}; the file was "
                "changed: write it again with boxwood.save."
            )


def _ranges(indices: Sequence[int]) -> Ranges:
    """Write ascending indices as half-open ranges.

    >>> _ranges([0, 1, 2, 5])
    [(0, 3), (5, 6)]
    """
    found: Ranges = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found
