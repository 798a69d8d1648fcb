"""Compile a module into a session."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from torch import Tensor, nn

from boxwood._internal.core.arguments import check_network
from boxwood._internal.core.placement import check_whole
from boxwood._internal.engine import aten_ops, choice_cache
from boxwood._internal.engine.accelerate import restore_
from boxwood._internal.engine.assignment import choose_assignment
from boxwood._internal.engine.capture import Captured, Extension, NeedsGradientsError, capture
from boxwood._internal.engine.dynamic_capture import DynamicCapture
from boxwood._internal.engine.dynamic_sizes import read_ranges
from boxwood._internal.engine.interface import (
    arguments_of,
    check_inputs,
    learn_interface,
    named_tensors,
)
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.lower import lower
from boxwood._internal.engine.model_copy import copy_model
from boxwood._internal.engine.passes.fold_batch_norm import fold_batch_norm
from boxwood._internal.engine.passes.fold_constants import fold_constants
from boxwood._internal.engine.passes.fold_padding import fold_padding
from boxwood._internal.engine.passes.fuse_attention import fuse_attention
from boxwood._internal.engine.passes.fuse_epilogues import fuse_epilogues
from boxwood._internal.engine.passes.lines_as_planes import lines_as_planes
from boxwood._internal.engine.passes.narrow_products import narrow_products
from boxwood._internal.engine.passes.simplify import simplify
from boxwood._internal.engine.passes.written_out import recognise_written_out
from boxwood._internal.engine.program import Batch, Program, check_program
from boxwood._internal.engine.quantisation.choose import checked_batches, quantised
from boxwood._internal.engine.random_state import preserved_generators
from boxwood._internal.engine.recording import UncapturableError, as_if_compiling
from boxwood._internal.engine.session import Session, Uncompiled, torch_defaults
from boxwood._internal.engine.targets import Target, host
from boxwood._internal.engine.thread_team import ThreadTeam
from boxwood.errors import InvalidInput

Precision = Literal["float32", "int8"]

PASSES = (
    simplify, fold_constants, recognise_written_out, fold_batch_norm, lines_as_planes, lower,
    fold_padding, narrow_products, fuse_attention, fuse_epilogues,
)  # fmt: skip


def compile(  # noqa: A001
    model: nn.Module,
    example: Any,
    *,
    target: Target | None = None,
    threads: int = 1,
    precision: Precision = "float32",
    calibration: Iterable[Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
) -> Session | Uncompiled:
    """Compile a network for this machine: operations run in sparse kernels where that is faster.

    A copy of the network is recorded in evaluation mode on the example. Each operation is then
    timed in a kernel and in torch, and the fastest program is used. The choice is cached on disk
    for the same weights, shapes and machine. The session computes the same as the network up to
    rounding, because sums are computed in a different order. Zeros of a weight are skipped, so an
    infinity or NaN that would only be multiplied by zeros does not spread as in torch.

    Args:
        model: any module; it is not changed. Later changes to it do not affect the session.
        example: arguments of the model: a tensor, a tuple of arguments, or a mapping of named ones.
            If the first axis of the first tensor is the batch, calls may have other batch sizes, as
            long as the network does the same for them.
        target: the processor family; this machine's when None.
        threads: number of threads, at least 1. The results of kernels are the same bit for bit for
            any number.
        precision: ``"float32"``, or ``"int8"``: weights in 8 bits, symmetric for each output
            channel, and activations in 8 bits, in every layer where that is faster and where it
            keeps 20 dB of signal to noise on the calibration data. Inputs, outputs and all other
            operations stay float32. NaN in the input of such a layer becomes its least value.
        calibration: for int8, typical inputs of the same form as the example, without labels. A few
            hundred examples in total are enough. They determine the ranges of activations. With
            ``dynamic``, batches may differ in size; give the sizes that calls will have.
        dynamic: axes whose size may vary between calls, by the names of arguments, with the least
            and the greatest size, and optionally a step between sizes:
            ``{"input_ids": {1: (1, 512)}}``. Axes of several arguments with the same size in the
            example and the same range vary together. All other axes, including the batch, keep the
            example's sizes. Plans for 16 combinations of sizes are cached, and share their weights.

    Returns:
        A callable with the model's interface. A network whose operations depend on the values of
        its input, or on earlier calls, runs in torch as a whole; ``explain()`` says why.

    Raises:
        InvalidInput: the arguments do not fit the model, its weights are sharded or missing, it
            cannot be copied, or it computes something else at some of the sizes in ``dynamic``; or
            int8 has no calibration data, or data that is not finite or not of the form of the
            example. Calls raise it for a batch or a size at which the network may compute something
            else.
        MissingDependency: llvmlite is missing.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
        >>> fast = compile(net, torch.zeros(1, 8))
        >>> x = torch.randn(5, 8)
        >>> torch.allclose(fast(x), net(x), atol=1e-6)
        True
    """
    if precision not in get_args(Precision):
        raise InvalidInput(
            f"Expected precision 'float32' or 'int8', got {precision!r}; give one of them."
        )
    if (precision == "int8") is not (calibration is not None):
        raise InvalidInput(
            "Expected calibration data with precision='int8', and none with 'float32', got "
            f"precision={precision!r} and calibration{' without' if calibration is None else ''} "
            "data; give both or neither."
        )
    check_network(model)
    check_whole(dict(model.named_parameters()))
    team = ThreadTeam(threads)
    with torch_defaults(threads):
        return _compiled(model, example, target or host(), team, calibration, dynamic or {})


def _compiled(
    model: nn.Module,
    example: Any,
    target: Target,
    team: ThreadTeam,
    calibration: Iterable[Any] | None,
    dynamic: Mapping[str, Mapping[int, Sequence[int]]],
) -> Session | Uncompiled:
    twin = copy_model(model).eval()  # whatever it keeps from call to call is not the user's
    restore_(twin)
    try:
        tensors, function, interface = learn_interface(twin, example)
        ranges = read_ranges(dynamic, named_tensors(twin, example))
        extended = DynamicCapture(ranges) if ranges else None
        captured = _captured(function, tensors, interface, extended)
    except UncapturableError as reason:
        gradients = isinstance(reason, NeedsGradientsError)
        return Uncompiled(copy_model(model).eval(), str(reason), team.threads, gradients=gradients)
    program = captured.program
    named = [*twin.named_parameters(), *twin.named_buffers()]
    by_address = {tensor.data_ptr(): name for name, tensor in named}
    constants = program.constants
    names = {
        n: by_address[t.data_ptr()] for n, t in constants.items() if t.data_ptr() in by_address
    }
    program = _own(optimised(replace(check_program(program), names=names)), twin)
    kernels = KernelCache(program, target, team.threads)
    session = Session(program, captured.metadata, frozenset(), kernels, team)
    name = choice_cache.key(program, target, team.threads)
    choice = choice_cache.recall(name, program) if name else None
    if choice is None:
        with preserved_generators(aten_ops.generators(program)):
            choice = choose_assignment(session, tensors)
        if name:
            choice_cache.remember(name, choice)
    session = session.with_native(*choice)
    if calibration is not None:
        batches = checked_batches(_calls(session, calibration))
        with preserved_generators(aten_ops.generators(program)):
            session = quantised(session, tensors, batches)
    session.compact(program.example)
    if program.ranges:
        session.prepare()
    return session


def _calls(session: Session, examples: Iterable[Any]) -> list[tuple[list[Tensor], Batch]]:
    """Return calibration data as inputs of the program, with their sizes."""
    found = []
    if isinstance(examples, Tensor) or not isinstance(examples, Iterable):
        raise InvalidInput(
            f"Expected calibration data as an iterable of inputs like the example, got "
            f"{type(examples).__name__}; give a list of batches."
        )
    for example in examples:
        args, kwargs = arguments_of(example)
        inputs = session.interface.tensors(args, kwargs)
        found.append((inputs, check_inputs(session.program, inputs)))
    return found


def _captured(
    function: Callable[..., list[Tensor]],
    tensors: list[Tensor],
    interface: Callable[[], Any],
    extended: Extension | None,
) -> Captured:
    """Record a function; if it looks at values, once more as it does while torch compiles it."""
    try:
        return capture(function, tensors, interface, extended)
    except NeedsGradientsError:
        raise
    except UncapturableError as reason:
        try:
            with as_if_compiling():
                return capture(function, tensors, interface, extended)
        except UncapturableError:
            raise reason from None


def optimised(program: Program) -> Program:
    """Return a captured program with everything folded, lowered and fused."""
    for rewrite in PASSES:
        program = check_program(rewrite(program))
    return program


def _own(program: Program, twin: nn.Module) -> Program:
    """Copy the constants that belong neither to the copy of the model nor to the program: other code holds them."""
    ours = {tensor.untyped_storage().data_ptr() for tensor in (*twin.parameters(), *twin.buffers())}
    constants = {
        number: tensor if tensor.untyped_storage().data_ptr() in ours else tensor.clone()
        for number, tensor in program.constants.items()
    }
    return replace(program, constants=constants)
