"""Cache the choices for a program on disk, so that they are measured once per machine."""

import hashlib
import json
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from boxwood._internal.engine import codec
from boxwood._internal.engine.explain import OperationTimes
from boxwood._internal.engine.llvm.cache import ObjectCache, default_cache
from boxwood._internal.engine.program import Program
from boxwood._internal.engine.targets import Target
from boxwood.errors import BoxwoodError

_REVISION = "boxwood choices 4"

Choice = tuple[frozenset[int], dict[int, OperationTimes]]


def key(program: Program, target: Target, threads: int) -> str | None:
    """Return a digest of all that a choice depends on; None for a program that cannot be written to a file.

    Args:
        program: lowered.
        target: that runs it.
        threads: that run it.
    """
    try:
        parts = codec.encode(
            (program.ops, program.inputs, program.outputs, program.batch, program.example)
        )
        values = [[number, codec.encode(value)] for number, value in program.values.items()]
    except BoxwoodError:
        return None
    head = [_REVISION, torch.__version__, asdict(target), threads, parts, values]
    digest = hashlib.sha256(json.dumps(head).encode())
    for number, constant in program.constants.items():
        digest.update(f"{number} {constant.dtype} {tuple(constant.shape)}".encode())
        digest.update(f"{_checksum(constant)}".encode())
    return digest.hexdigest()


def _checksum(constant: Tensor) -> int:
    """Return the sum of all bits, eight bytes at a time.

    A digest would take longer than all else that looks at the weights. Two weights of the same sum
    share a choice, which can only be slower for one of them.
    """
    flat = constant.contiguous().reshape(-1).view(torch.uint8).numpy()
    whole = flat.size // 8 * 8
    return int(flat[:whole].view(np.uint64).sum()) + int(flat[whole:].sum())


def recall(name: str, program: Program, cache: ObjectCache | None = None) -> Choice | None:
    """Return what was chosen under a key; None if nothing was, or the entry is damaged."""
    content = (cache or default_cache("choices")).get(name)
    if content is None:
        return None
    try:
        native, times = json.loads(content)
        found = {int(position): OperationTimes(**each) for position, each in times}
        choice = frozenset(native)
    except (ValueError, TypeError):
        return None
    return (choice, found) if choice <= set(range(len(program.ops))) else None


def remember(name: str, choice: Choice, cache: ObjectCache | None = None) -> None:
    """Keep a choice under a key, whole or not at all."""
    native, times = choice
    entries = [[position, asdict(each)] for position, each in times.items()]
    (cache or default_cache("choices")).put(name, json.dumps([sorted(native), entries]).encode())
