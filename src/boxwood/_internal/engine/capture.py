"""Capture a function as a program, and find the batch sizes for which the program is valid.

The function is run six times, on inputs that nobody else needs:

1. plainly, with other values than the example's; what it makes at a first call is then made;
2. recorded, on the example;
3. recorded, with the other values again. The recordings have to be equal, constants included. If
   not, the function carries something from call to call, or takes values out of torch;
4. the recorded operations, with the other values and the same random numbers: they have to give
   what the first run gave;
5. recorded, with one example more: a size that differs is a linear function of the batch;
6. recorded, with three more, where sizes have to lie on these lines. In this pass the sizes that
   Python code reads are followed (`tracked_sizes`), which gives the conditions for other batches.

Where 5 or 6 fail, the program is for the example's batch alone. Only 1 and 4 compute everything:
the other passes need no values, so most operators give zeros there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.merge_recordings import (
    OtherProgramError,
    check_merged,
    differ,
    merge_recordings,
)
from boxwood._internal.engine.program import Program, TorchOp, ValidBatches
from boxwood._internal.engine.random_state import same_random_numbers
from boxwood._internal.engine.recording import (
    UncapturableError,
    check_tensor,
    recorded_operations,
    whole_operators,
)
from boxwood._internal.engine.tracked_sizes import SizeTracker

PROBED = tuple(range(1, 9))
"""Batches that are tried where code does with sizes what cannot be followed."""

TensorFunction = Callable[..., Sequence[Tensor]]
Extension = Callable[[TensorFunction, Sequence[Tensor], Program, Callable[[], object]], Program]


@dataclass(frozen=True)
class Captured:
    """A program and what its example gave.

    Args:
        program: the operations.
        metadata: what the example gave other than tensors.
    """

    program: Program
    metadata: Any


class NeedsGradientsError(UncapturableError):
    """A forward pass that runs only where torch builds graphs for gradients."""


def capture(
    function: TensorFunction,
    inputs: Sequence[Tensor],
    metadata: Callable[[], Any] = lambda: None,
    extended: Extension | None = None,
) -> Captured:
    """Write down what a function of tensors does.

    Args:
        function: takes the inputs, returns tensors.
        inputs: example tensors, left as they are; those whose first axis has the length of the
            first one's form the batch.
        metadata: returns what the last call gave other than tensors.
        extended: makes a program for other sizes out of that of the example; for other batches when
            None.

    Raises:
        UncapturableError: the pass depends on the inputs' values, carries something from call to
            call, or changes tensors that outlive it.

    Example:
        >>> captured = capture(lambda x: (torch.relu(x),), (torch.zeros(2, 3),))
        >>> captured.program.ops[0].target, captured.program.values[0].shape
        ('aten.relu.default', (LinearSize(per=1, plus=0), 3))
    """
    for tensor in inputs:
        check_tensor(tensor)
    with same_random_numbers() as start:
        other, wanted = _run_plainly(function, inputs, start)
        try:
            start()
            program = recorded_operations(function, lambda: _own(inputs))
            said = metadata()
            start()
            again = recorded_operations(function, lambda: _own(other))
        except UncapturableError:
            raise
        except Exception as error:
            raise UncapturableError(f"it cannot be recorded ({_first_line(error)})") from error
        if differ(program, again) or not _equal(said, metadata()):
            raise UncapturableError(
                "a second call does something else than the first: it carries something from "
                "call to call, or reads values where torch does not see it"
            )
        start()
        replayed = _replayed(program, other)
        if not _close(replayed, wanted):
            raise UncapturableError(
                "its operations, done again, give something else than it gave: it carries "
                "something from call to call, or draws random numbers of its own"
            )
        extended = extended or _for_batches
        return Captured(extended(function, inputs, program, metadata), said)


def _run_plainly(
    function: TensorFunction, inputs: Sequence[Tensor], start: Callable[[], None]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs with other values, where the function accepts them, and its results."""
    error: Exception | None = None
    with torch.no_grad(), whole_operators():
        for varied in (_varied(inputs, integers=True), _varied(inputs, integers=False), inputs):
            start()
            try:
                return list(varied), [each.clone() for each in function(*_own(varied))]
            except Exception as raised:  # noqa: BLE001 - outside of its domain, if the example is not
                error = raised
    try:
        with torch.enable_grad(), whole_operators():
            function(*_own(inputs))
    except Exception:  # noqa: BLE001 - it runs in no way
        raise error from None  # type: ignore[misc]
    raise NeedsGradientsError(
        f"it runs only where torch builds graphs for gradients ({_first_line(error)})"
    ) from error


def _first_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def _varied(inputs: Sequence[Tensor], *, integers: bool) -> list[Tensor]:
    """Return tensors of the same types with other values, in the same range where possible."""
    found: dict[int, Tensor] = {}
    for tensor in inputs:
        if id(tensor) not in found:
            varied = tensor.detach().flip(tuple(range(tensor.ndim)))
            if tensor.is_floating_point():
                # Constant inputs stay so when they are turned around.
                ramp = torch.linspace(0.25, 1.0, tensor.numel(), dtype=tensor.dtype)
                same = torch.equal(varied, tensor)
                varied = varied + ramp.reshape(tensor.shape) if same else varied
            elif not integers:
                varied = tensor
            elif tensor.dtype != torch.bool and torch.equal(varied, tensor):
                varied = varied + 1
            found[id(tensor)] = varied
    return [found[id(tensor)] for tensor in inputs]


def _own(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors; the same tensor twice stays the same."""
    copies = {id(each): each.detach().clone().requires_grad_(each.requires_grad) for each in inputs}
    return [copies[id(tensor)] for tensor in inputs]


def _replayed(program: Program, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run a program for the example's batch in torch, operation by operation."""
    last = {value: position for position, op in enumerate(program.ops) for value in op.reads}
    tensors = dict(program.constants) | dict(zip(program.inputs, _own(inputs), strict=True))
    with torch.no_grad():
        for position, op in enumerate(program.ops):
            if isinstance(op, TorchOp):
                tensors.update(zip(op.writes, aten_ops.run_operator(op, tensors), strict=True))
            for value in op.reads:
                if last[value] == position and value not in program.outputs:
                    tensors.pop(value, None)
    return [tensors[value] for value in program.outputs]


def _close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(_alike, ours, theirs))


def _alike(one: Tensor, two: Tensor) -> bool:
    """Say whether two results are equal up to the rounding of a few sums."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if not one.numel() or torch.equal(one, two):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    known = torch.isfinite(two)
    largest = float(two[known].abs().max()) if known.any() else 0.0
    return torch.allclose(one, two, rtol=1e-5, atol=1e-5 * largest, equal_nan=True)


def _equal(one: object, two: object) -> bool:
    try:
        return bool(one == two)
    except Exception:  # noqa: BLE001 - arrays, which have no one answer
        return False


def _for_batches(
    function: TensorFunction,
    inputs: Sequence[Tensor],
    program: Program,
    metadata: Callable[[], object],
) -> Program:
    """Return the program for every batch that it holds for."""
    batch = inputs[0].shape[0] if inputs and inputs[0].ndim else 0
    said = metadata()
    if not batch:
        return program

    def recorded(size: int, tracker: SizeTracker | None = None) -> Program:
        try:
            found = recorded_operations(function, lambda: _of_batch(inputs, batch, size), tracker)
        except Exception as error:
            raise OtherProgramError(_first_line(error)) from error
        if not _equal(said, metadata()):
            raise OtherProgramError("what it returns other than tensors changes")
        return found

    try:
        merged = merge_recordings(program, recorded(batch + 1), batch)
        tracker = SizeTracker(merged.values, batch, batch + 3)
        try:
            check_merged(merged, recorded(batch + 3, tracker), batch + 3)
        finally:
            tracker.tracking = False
    except OtherProgramError as error:
        limit = f"its operations depend on the batch in another way than in sizes ({error})"
        return replace(program, batches=ValidBatches((batch,), limit=limit))
    seen = [batch, batch + 1, batch + 3]
    if tracker.lost:
        for size in sorted({*PROBED} - {*seen}):
            try:
                check_merged(merged, recorded(size), size)
            except OtherProgramError:
                continue
            seen.append(size)
    limit = (
        f"its code uses sizes of the batch in a way that cannot be followed "
        f"({', '.join(tracker.lost)})"
    )
    found = ValidBatches(tuple(sorted(seen)), tracker.conditions, limit if tracker.lost else "")
    return replace(merged, batches=found)


def _of_batch(inputs: Sequence[Tensor], batch: int, size: int) -> list[Tensor]:
    """Repeat or drop examples until their number is right."""

    def sized(tensor: Tensor) -> Tensor:
        if tensor.ndim and tensor.shape[0] == batch:
            return tensor.detach()[torch.arange(size) % batch]
        return tensor.detach().clone()

    found = {id(tensor): sized(tensor) for tensor in inputs}
    return [found[id(tensor)] for tensor in inputs]
