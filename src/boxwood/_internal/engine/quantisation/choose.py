"""Which layers of a program run on bytes: those that lose little on calibration data, and are faster so."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from boxwood._internal.engine import assignment, choice_cache
from boxwood._internal.engine.explain import OperationTimes
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.ops import is_int8
from boxwood._internal.engine.program import Batch
from boxwood._internal.engine.quantisation.calibrate import Batches, Calibrated, calibrated
from boxwood._internal.engine.quantisation.rewrite import Rewritten
from boxwood._internal.engine.session import Session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.targets import Dots
from boxwood.errors import InvalidInput


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
    found = calibrated(program, batches, pairs=target.dots is Dots.PAIRS)
    whole = found.rewritten(found.positions)
    name = choice_cache.key(whole.program, target, session.threads)
    choice = choice_cache.recall(name, program) if name else None
    if choice is None:
        choice = _chosen(session, inputs, found, whole)
        if name:
            choice_cache.remember(name, choice)
    chosen, times = choice
    return _with_layers(session, found, chosen & found.positions, times)


def _chosen(
    session: Session, inputs: Sequence[Tensor], found: Calibrated, whole: Rewritten
) -> assignment.Choice:
    """Measure, and return the positions of the layers to run on bytes, and all times.

    Operation by operation first; then the cheapest choice, all layers and none are run in turn.
    """
    program, every = session.program, found.positions
    batch = program.example
    if not every:
        return frozenset(), session.times
    kernels = KernelCache(whole.program, session.kernels.target, session.threads)
    full = Session(whole.program, session.interface, frozenset(), kernels, session.team)
    native = frozenset(supported_problems(whole.program, batch))
    measured = assignment.measured(full.with_native(native), inputs)
    times = dict(session.times)
    for position, origin in enumerate(whole.origins):
        if origin is not None and position in native and is_int8(whole.program.ops[position]):
            before = times.get(origin, OperationTimes(None, 0.0))
            times[origin] = replace(before, int8=measured.get(position, 0.0))
    _, chosen = assignment.cheapest_forms(program, batch, times)
    tried = {
        each: _with_layers(session, found, each, times)
        for each in dict.fromkeys((chosen & every, every, frozenset[int]()))
    }
    with torch.no_grad():
        seconds = assignment.least_seconds(list(tried.values()), inputs)
    return min(tried, key=lambda each: seconds[tried[each]]), times


def _with_layers(
    session: Session,
    found: Calibrated,
    chosen: frozenset[int],
    times: Mapping[int, OperationTimes],
) -> Session:
    """Return the session whose chosen layers run on bytes; the rest is where it was cheapest."""
    program, batch = session.program, session.program.example
    noted = {p: replace(time, note=found.note(p, chosen)) for p, time in times.items()}
    if not chosen:
        return session.with_native(session.native, noted)
    made = found.rewritten(chosen)
    native, _ = assignment.cheapest_forms(program, batch, times)
    own = supported_problems(made.program, batch)
    placed = frozenset(
        position
        for position, origin in enumerate(made.origins)
        if position in own
        and (origin is None or origin in native or is_int8(made.program.ops[position]))
    )
    kernels = KernelCache(made.program, session.kernels.target, session.threads)
    moved = {
        position: noted[origin]
        for position, origin in enumerate(made.origins)
        if origin is not None and origin in noted
    }
    return Session(made.program, session.interface, placed, kernels, session.team, moved)


def checked_batches(
    batches: Sequence[tuple[Sequence[Tensor], Batch]],
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
