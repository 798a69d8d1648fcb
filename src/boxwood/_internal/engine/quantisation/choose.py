"""Which layers of a program run on bytes: those that lose little on calibration data, and are faster so."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from boxwood._internal.engine import assignment, choice_cache
from boxwood._internal.engine.explain import OperationTimes
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.kernels.int8_conv import MOST_PRODUCTS
from boxwood._internal.engine.kernels.quads import QUAD, Quantisation
from boxwood._internal.engine.ops import Convolve, NativeOp, OnBytes, PoolWindows, Project
from boxwood._internal.engine.program import Program
from boxwood._internal.engine.quantisation.layers import (
    Int8Layer,
    measured_layers,
    observed_ranges,
)
from boxwood._internal.engine.quantisation.rewrite import Rewritten, is_depthwise, rewritten
from boxwood._internal.engine.session import Session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.targets import Dots
from boxwood.errors import InvalidInput

LEAST_DECIBELS = 20.0
"""Signal to noise, below which a layer stays float32: noise of a tenth of the signal."""

Batches = Sequence[tuple[Sequence[Tensor], int]]
Notes = dict[int, str]


def quantised(session: Session, inputs: Sequence[Tensor], batches: Batches) -> Session:
    """Return a session of the same network whose layers run on bytes where that is faster.

    Args:
        session: of float32, with its choice between kernels and torch.
        inputs: the example.
        batches: calibration inputs with their leading sizes.

    Raises:
        InvalidInput: an activation of the calibration data is not finite.
    """
    program, target = session.program, session.kernels.target
    layers, ranges, notes = calibrated(program, batches, pairs=target.dots is Dots.PAIRS)
    whole = rewritten(program, layers, ranges)
    name = choice_cache.key(whole.program, target, session.threads)
    choice = choice_cache.recall(name, program) if name else None
    if choice is None:
        choice = _chosen(session, inputs, whole, layers, ranges)
        if name:
            choice_cache.remember(name, choice)
    chosen, times = choice
    return _with_layers(session, chosen & layers.keys(), layers, ranges, times, notes)


def calibrated(
    program: Program, batches: Batches, *, pairs: bool
) -> tuple[dict[int, Int8Layer], dict[int, Quantisation], Notes]:
    """Return the layers that lose little in int8, the ranges of values, and why others stay float32.

    Args:
        program: of float32.
        batches: calibration inputs with their leading sizes.
        pairs: as in `bytes_weight`.
    """
    notes: Notes = {}
    positions = []
    for position, op in enumerate(program.ops):
        if isinstance(op, NativeOp) and isinstance(op.kind, Convolve | Project):
            why = unfit(op, program)
            if why:
                notes[position] = f"float32: {why}"
            else:
                positions.append(position)
    values = {
        value
        for position in positions
        if isinstance(op := program.ops[position], NativeOp)
        for value in (*op.sources, op.out)
    }
    values |= {
        value
        for op in program.ops
        if isinstance(op, NativeOp) and isinstance(op.kind, PoolWindows)
        for value in (op.sources[0], op.out)
    }
    values -= program.constants.keys()
    choices: Mapping[int, tuple[Quantisation, ...]]
    with torch.no_grad():
        choices = observed_ranges(program, batches, values)
        layers, ranges = measured_layers(program, batches, positions, choices, pairs=pairs)
    for position, layer in list(layers.items()):
        if not layer.decibels >= LEAST_DECIBELS:
            notes[position] = (
                f"float32: {layer.decibels:.1f} dB signal to noise in int8, less than "
                f"{LEAST_DECIBELS:.0f}"
            )
            del layers[position]
    return layers, ranges, notes


def unfit(op: NativeOp, program: Program) -> str:
    """Return why a layer cannot be int8; empty if it can."""
    if op.weight is None or set(op.sources) & program.constants.keys():
        return "an operand is constant"
    weight = program.constants[op.weight]
    groups = op.kind.groups if isinstance(op.kind, Convolve) else 1
    outer, inner = weight.shape[:2]
    if isinstance(op.kind, Convolve) and is_depthwise(op, program):
        stride = op.kind.stride[1]
        return "" if stride <= 2 else f"a filter for each channel with a stride of {stride}"
    if groups > 1 and (inner % QUAD or outer // groups % QUAD):
        return f"groups of {inner} channels are not whole quads"
    if weight[0].numel() * QUAD > MOST_PRODUCTS:
        return "its sums may exceed 32 bits"
    if not bool(torch.isfinite(weight).all()):
        return "a weight is not finite"
    return ""


def _chosen(
    session: Session,
    inputs: Sequence[Tensor],
    whole: Rewritten,
    layers: Mapping[int, Int8Layer],
    ranges: Mapping[int, Quantisation],
) -> assignment.Choice:
    """Measure, and return the positions of the layers that shall run on bytes, and all times.

    Operation by operation first; then the cheapest choice, all layers and none are run by turns.
    """
    program, batch = session.program, session.program.batch or 0
    if not layers:
        return frozenset(), session.times
    kernels = KernelCache(whole.program, session.kernels.target, session.threads)
    full = Session(whole.program, session.interface, frozenset(), kernels, session.team)
    native = frozenset(supported_problems(whole.program, batch))
    measured = assignment.measured(full.with_native(native), inputs)
    times = dict(session.times)
    for position, origin in enumerate(whole.origins):
        op = whole.program.ops[position]
        if origin is not None and isinstance(op, NativeOp) and isinstance(op.kind, OnBytes):
            before = times.get(origin, OperationTimes(None, 0.0))
            times[origin] = replace(before, int8=measured.get(position, 0.0))
    _, chosen = assignment.cheapest_forms(program, batch, times)
    every = frozenset(layers)
    chosen &= every  # pooling follows
    tried = {
        each: _with_layers(session, each, layers, ranges, times, {})
        for each in dict.fromkeys((chosen, every, frozenset[int]()))
    }
    with torch.no_grad():
        seconds = assignment.least_seconds(list(tried.values()), inputs)
    return min(tried, key=lambda each: seconds[tried[each]]), times


def _with_layers(
    session: Session,
    chosen: frozenset[int],
    layers: Mapping[int, Int8Layer],
    ranges: Mapping[int, Quantisation],
    times: Mapping[int, OperationTimes],
    notes: Notes,
) -> Session:
    """Return the session whose chosen layers run on bytes; the rest is where it was cheapest."""
    program, batch = session.program, session.program.batch or 0
    if not chosen:
        noted = {
            position: replace(time, note=_note(position, chosen, layers, notes))
            for position, time in times.items()
        }
        return session.with_native(session.native, noted)
    found = rewritten(program, {position: layers[position] for position in chosen}, ranges)
    native, _ = assignment.cheapest_forms(program, batch, times)
    own = supported_problems(found.program, batch)
    placed = frozenset(
        position
        for position, origin in enumerate(found.origins)
        if position in own and (origin is None or origin in native or _on_bytes(found, position))
    )
    noted = {}
    for position, origin in enumerate(found.origins):
        if origin is not None:
            note = _note(origin, chosen, layers, notes)
            noted[position] = replace(times[origin], note=note)
    kernels = KernelCache(found.program, session.kernels.target, session.threads)
    return Session(found.program, session.interface, placed, kernels, session.team, noted)


def _note(
    position: int, chosen: frozenset[int], layers: Mapping[int, Int8Layer], notes: Notes
) -> str:
    if position not in layers:
        return notes.get(position, "")
    kept = f"{layers[position].decibels:.1f} dB"
    return kept if position in chosen else f"float32 is faster than int8, which has {kept}"


def _on_bytes(found: Rewritten, position: int) -> bool:
    return isinstance(getattr(found.program.ops[position], "kind", None), OnBytes)


def checked_batches(
    batches: Sequence[tuple[Sequence[Tensor], int]],
) -> Batches:
    """Return calibration inputs.

    Raises:
        InvalidInput: there are none, or values are not finite.
    """
    if not batches:
        raise InvalidInput(
            "Expected at least one batch of calibration data for int8, got none; give some inputs "
            "like the example, as a list or any iterable."
        )
    for number, (inputs, _) in enumerate(batches):
        for tensor in inputs:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InvalidInput(
                    f"Expected calibration data of finite numbers, got NaN or infinity in batch "
                    f"{number}; leave such inputs out."
                )
    return batches
