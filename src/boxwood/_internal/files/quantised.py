"""Checkpoints whose numbers are not the weights: packed or quantised ones, and adapters.

A zero in a scale deletes a whole group of weights, a zero in packed integers is some other weight,
and a zero in a factor of an adapter is no zero of their product. So none of them can be pruned,
shrunk or packed; the float checkpoint that they belong to can.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from boxwood._internal.core.quantised import looks_quantised
from boxwood._internal.core.reading import read_whole
from boxwood._internal.files.header import FLOATS, Header, read_header
from boxwood._internal.files.layout import refuse_packed
from boxwood.errors import CheckpointError

_SETTINGS = ("quantization_config", "compression_config")
_FILES_OF_SETTINGS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_ADAPTER = "adapter_config.json"
_LOW_RANK = re.compile(
    r"(^|[._])(lora_(A|B|up|down|embedding_A|embedding_B)|hada_w[12]_[ab]|lokr_w[12])([._]|$)"
)


def refuse_unprunable(source: Path, files: Iterable[Path]) -> None:
    """Refuse a checkpoint that is packed, quantised or an adapter, before anything is written.

    Args:
        source: a safetensors file, an index, or a folder. What the folder's JSON files say counts.
        files: the safetensors files of the checkpoint; only their headers are read.

    Raises:
        CheckpointError: a file is packed, or the configuration, the name of a tensor or its type says
            that the checkpoint is of another of these kinds.

    Example:
        >>> refuse_unprunable(Path("gone"), [])
    """
    folder = source if source.is_dir() else source.parent
    if source.is_dir() and (folder / _ADAPTER).is_file():
        _refuse_adapter(f"{folder / _ADAPTER}")
    for name in _FILES_OF_SETTINGS:
        if (folder / name).is_file():
            _refuse_quantised(f"{folder / name} is there")
    config = folder / "config.json"
    if config.is_file() and (key := _setting(_read(config))):
        _refuse_quantised(f"{config} has a {key}")
    for file in files:
        refuse_unprunable_tensors(read_header(file), file)


def refuse_unprunable_tensors(header: Header, path: Path) -> None:
    """Refuse a file that is packed, or whose tensors are those of a quantised checkpoint or adapter.

    Args:
        header: what the file holds.
        path: the file, for the message.

    Raises:
        CheckpointError: the name of a tensor, or its name and type, say so.

    Example:
        >>> refuse_unprunable_tensors(Header({}, {}, b"{}"), Path("a"))
    """
    refuse_packed(header, path)
    for name, entry in header.entries.items():
        integer = entry.dtype[0] in "IU"
        below_a_byte = entry.dtype[0] == "F" and entry.dtype not in FLOATS
        if below_a_byte or looks_quantised(name, integer=integer, dims=len(entry.shape)):
            _refuse_quantised(
                f"{path} holds {name!r} of type {entry.dtype}, a name and type of quantised weights "
                f"or their scales"
            )
        if _LOW_RANK.search(name):
            _refuse_adapter(f"{name!r} in {path}")


def _setting(config: Any) -> str | None:
    """Find a setting of quantisation that is not empty, also in the configuration of a part."""
    if not isinstance(config, dict):
        return None
    for key, value in config.items():
        if key in _SETTINGS and value:
            return str(key)
        if isinstance(value, dict) and (found := _setting(value)):
            return found
    return None


def _read(config: Path) -> Any:
    try:
        return json.loads(read_whole(config))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"Expected JSON in {config}, got {error or type(error).__name__}; it shows whether "
            f"the weights are quantised: copy it again, or name a safetensors file in a folder "
            f"without it."
        ) from error


def _refuse_quantised(why: str) -> NoReturn:
    raise CheckpointError(
        f"Expected weights that are floats, got a quantised model: {why}; prune the float model "
        f"that it was made from, then quantise the result, or dequantise it first."
    )


def _refuse_adapter(what: str) -> NoReturn:
    raise CheckpointError(
        f"Expected the weights of a whole model, got an adapter: {what}; merge it into its base "
        f"model first, as `merge_and_unload()` of peft does, and give the merged model."
    )
