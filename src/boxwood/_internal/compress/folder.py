"""The output folder: files that run without the training code, and the evidence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boxwood._internal.compress.candidates import Made
from boxwood._internal.compress.race import positional
from boxwood._internal.core.replacing import disk_errors, write_whole
from boxwood._internal.engine.backends import to_onnx
from boxwood._internal.engine.session import Session, load_session
from boxwood._internal.graph.examples import as_arguments, tensors_of
from boxwood._internal.graph.record import record_of, save_shrunken
from boxwood.errors import BoxwoodError

LOAD = '''"""Run the compressed network; this needs neither its code nor what trained it.

    python load.py
"""

from pathlib import Path

import torch

import boxwood

model = boxwood.load(Path(__file__).parent / "model.bxw")

if __name__ == "__main__":
    example = {example}
    print(model({call}))
'''


def write_files(folder: Path, made: Made, session: Any, example: Any) -> dict[str, str]:
    """Write the network in every form that it has.

    Args:
        folder: made if it is not there.
        made: the network.
        session: compiled; or why it is not.
        example: of the inputs.

    Returns:
        Why a file is not there, by its name.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    absent: dict[str, str] = {}
    record = record_of(made.selection.units.model, made.selection)
    save_shrunken(made.network, record, folder / "model.safetensors")
    if isinstance(session, Session):
        session.save(folder / "model.bxw")
        write_whole(folder / "load.py", _loader(example).encode())
    else:
        absent["model.bxw"] = str(session)
    given = positional(example)
    if given is None:
        absent["model.onnx"] = "the example gives inputs by name"
    else:
        try:
            write_whole(folder / "model.onnx", to_onnx(made.network, given))
        except BoxwoodError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the exporter says is the reason
            absent["model.onnx"] = str(error).strip().splitlines()[0]
    return absent


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``compress.json``, last of all files: a folder that has it is complete."""
    write_whole(folder / "compress.json", (json.dumps(record, indent=1) + "\n").encode())


def check_files(folder: Path, network: nn.Module, example: Any) -> str:
    """Load the compiled file again, and say how far its outputs are from the network's."""
    args, kwargs = as_arguments(example)
    with torch.no_grad():
        pairs = zip(
            tensors_of(network(*args, **kwargs)),
            tensors_of(load_session(folder / "model.bxw")(*args, **kwargs)),
            strict=True,
        )
        found = [
            float((a - b).abs().max()) / max(float(a.abs().max()), 1e-12)
            for a, b in pairs
            if a.is_floating_point() and a.numel()
        ]
    return f"The compiled file gives the network's outputs up to {max(found, default=0.0):.1g} of the largest."


def _loader(example: Any) -> str:
    """Write the program that loads the compiled file, with an example of the right shape."""
    if isinstance(example, Mapping):
        entries = ", ".join(f"{name!r}: {_zeros(each)}" for name, each in example.items())
        return LOAD.format(example=f"{{{entries}}}", call="**example")
    given = example if isinstance(example, tuple) else (example,)
    entries = ", ".join(_zeros(each) for each in given)
    return LOAD.format(example=f"({entries},)", call="*example")


def _zeros(each: Any) -> str:
    if isinstance(each, torch.Tensor):
        return f"torch.zeros({tuple(each.shape)}, dtype={each.dtype})"
    return repr(each)
