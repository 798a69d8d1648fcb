"""A compiled network: called as the network is, run by kernels and torch."""

import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.timing import by_turns
from boxwood._internal.engine import storage, torch_functions
from boxwood._internal.engine.constants import Constants
from boxwood._internal.engine.dynamic_sizes import usual_sizes
from boxwood._internal.engine.explain import (
    ExplainedOperation,
    Explanation,
    OperationTimes,
    explain,
)
from boxwood._internal.engine.interface import Interface, check_inputs
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.ops import NativeOp, Recurrent
from boxwood._internal.engine.plan import KernelStep, Plan, TorchStep
from boxwood._internal.engine.planner import plan_batch
from boxwood._internal.engine.program import Batch, Op, Program
from boxwood._internal.engine.runner import Runner
from boxwood._internal.engine.runner_pool import RunnerPool
from boxwood._internal.engine.shapes import at_sizes, check_shapes
from boxwood._internal.engine.thread_team import ThreadTeam
from boxwood.errors import InvalidInput

PLANS = 4
"""Batch sizes whose plans are kept ready."""

DYNAMIC_PLANS = 16
"""Choices of dynamic sizes whose plans are kept ready."""


class Session:
    """A compiled network; make one with `compile`, call it like the network.

    Args:
        program: lowered.
        interface: how it is called.
        native: positions of the operations that kernels do.
        kernels: where its kernels come from.
        team: its threads.
        times: what `assignment` measured, for `explain`.
    """

    def __init__(
        self,
        program: Program,
        interface: Interface,
        native: frozenset[int],
        kernels: KernelCache,
        team: ThreadTeam,
        times: Mapping[int, OperationTimes] | None = None,
    ) -> None:
        self.times = dict(times or {})
        self.program, self.interface, self.native = program, interface, native
        self.kernels, self.team = kernels, team
        self._runners: dict[Batch, RunnerPool] = {}
        self._dense: dict[int, Callable[..., Tensor]] = {}

    @property
    def threads(self) -> int:
        """How many threads it runs on."""
        return self.team.threads

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Raises:
            InvalidInput: the arguments are not like the example's.
        """
        inputs = self.interface.tensors(args, kwargs)
        batch = check_inputs(self.program, inputs)
        # A sign that torch keeps apart from a tensor's memory is not seen by kernels.
        inputs = [tensor.resolve_neg() for tensor in inputs]
        with (
            self.team.calls, torch.no_grad(), torch_defaults(self.threads),
            self._pool(batch).taken() as runner,
        ):  # fmt: skip
            outputs = runner(inputs)
        return self.interface.output(outputs)

    def __repr__(self) -> str:
        """Say how much of it kernels do."""
        count, threads = len(self.program.ops), self.threads
        return (
            f"<compiled network: kernels do {len(self.native)} of {count} operations, "
            f"{threads} thread{'s' * (threads > 1)}; explain() lists them>"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled or copied: kernels are machine code at addresses of this process."""
        raise InvalidInput(
            "Expected a compiled network to be saved by its save(), got an attempt to pickle or "
            "copy it; use save(path) and boxwood.load(path), also to hand it to another process."
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this session, with the kernels that it has built so far, to a file for `boxwood.load`.

        Args:
            path: the file, by custom ``*.bxw``.

        Raises:
            InvalidInput: its interface or an operator has no form in a file, or the disk is full
                or not writable.
        """
        storage.write_compiled(
            storage.CompiledProgram(
                self.program, self.interface, self.native, self.times, self.kernels
            ),
            path,
        )

    def explain(self, *args: Any, repeats: int = 5, **kwargs: Any) -> Explanation:
        """Measure each operation of a call, and say where it runs and why.

        Args:
            args: of the call.
            repeats: how often to run it.
            kwargs: of the call.
        """
        inputs = self.interface.tensors(args, kwargs)
        batch = check_inputs(self.program, inputs)
        with (
            self.team.calls, torch.no_grad(), torch_defaults(self.threads),
            self._pool(batch).taken() as runner,
        ):  # fmt: skip
            return explain(runner, self.times, inputs, repeats)

    def with_native(
        self, native: frozenset[int], times: Mapping[int, OperationTimes] | None = None
    ) -> "Session":
        """Return a session of the same program whose kernels do these operations."""
        return Session(
            self.program, self.interface, native, self.kernels, self.team, times or self.times
        )

    def compact(self, batch: Batch) -> None:
        """Keep the kernels of one batch's plan, and no others; keep their weights only there."""
        self.kernels.permanent = frozenset()
        self.kernels.forget_all_but(self.runner(batch).kernels.values())
        self.kernels.compact()
        ops = self.program.ops
        packed = {n for position in self.native for n in _weights(ops[position])}
        packed -= {n for p, op in enumerate(ops) if p not in self.native for n in op.reads}
        held = self.kernels.packed_weights()
        constants = Constants(self.program.constants).without_zeros(packed - held.keys())
        constants = constants.replaced({n: held[n] for n in packed & held.keys()})
        self.program = self.kernels.program = replace(self.program, constants=constants)
        self._runners = {}

    def runner(self, batch: Batch) -> Runner:
        """Return the bound plan for a batch, made when it is first asked for."""
        return self._pool(batch).first

    def _pool(self, batch: Batch) -> RunnerPool:
        found = self._runners.get(batch)
        if found is not None:
            return found
        with self.team.planning:
            if batch not in self._runners:
                program, planned = self._planned(batch)
                if len(self._runners) >= (DYNAMIC_PLANS if self.program.ranges else PLANS):
                    self._runners.pop(next(iter(self._runners)))
                    self.kernels.forget_all_but(
                        kernel
                        for pool in self._runners.values()
                        for kernel in pool.first.kernels.values()
                    )
                self._runners[batch] = RunnerPool(self._binder(program, planned))
            return self._runners[batch]

    def _planned(self, batch: Batch) -> tuple[Program, Plan]:
        """Return a plan, and the program that it is of, whose shapes are checked."""
        if isinstance(batch, tuple):
            program = at_sizes(self.program, batch)
            return program, plan_batch(program, 0, self.native)
        if batch not in self.kernels.checked:
            check_shapes(self.program, batch)
            self.kernels.checked.add(batch)
        return self.program, plan_batch(self.program, batch, self.native)

    def prepare(self) -> None:
        """Compile the kernels that plans for sizes in the program's ranges need, as far as they are few."""
        for sizes in usual_sizes(self.program.ranges):
            self._binder(*self._planned(sizes))

    def _binder(self, program: Program, planned: Plan) -> Callable[[], Runner]:
        """Build a plan's kernels, and return what binds them to new memory."""
        steps = {i: step for i, step in enumerate(planned.steps) if isinstance(step, KernelStep)}
        kernels = self.kernels.of_steps(steps)
        # Kernels do for one batch what torch may have to do for another.
        torch_function = {step.op for step in planned.steps if isinstance(step, TorchStep)}
        for position, op in enumerate(self.program.ops):
            if position in torch_function - self._dense.keys():
                if isinstance(op, NativeOp):
                    self._dense[position] = torch_functions.torch_function(
                        op.kind, self._constant(op.weight), self._constant(op.bias),
                        planned.shapes[op.sources[0]], planned.shapes[op.out],
                    )  # fmt: skip
                elif isinstance(op, Recurrent):
                    self._dense[position] = torch_functions.torch_stack(op, self.program.constants)
        library = self.kernels.library(kernels.values()) if kernels else None
        return partial(Runner, program, planned, kernels, library, self._dense, self.team)

    def _constant(self, number: int | None) -> Tensor | None:
        return None if number is None else self.program.constants[number]


def load_session(path: str | os.PathLike[str], *, threads: int | None = None) -> Session:
    """Read what `Session.save` wrote; the network's own Python code is not needed.

    On a machine of another processor family the kernels are compiled again. A file holds machine
    code, which runs as you: load files that you trust.

    Args:
        path: the file.
        threads: as in `compile`; those of the saved session when None.

    Raises:
        InvalidInput: no such file, or one that is cut short, changed, or of another format.
    """
    found = storage.read_compiled(path, threads=threads)
    return Session(
        found.program, found.interface, found.native, found.kernels,
        ThreadTeam(found.kernels.threads), found.times,
    )  # fmt: skip


def _weights(op: Op) -> tuple[int, ...]:
    if isinstance(op, Recurrent):
        return op.reads[len(op.sources) :]
    return (op.weight,) if isinstance(op, NativeOp) and op.weight is not None else ()


class Uncompiled:
    """A network that torch runs as it is, because it is not one list of operations.

    Args:
        model: the network, in evaluation mode.
        why: what it does that cannot be written down.
        threads: for torch.
        gradients: whether it needs graphs for gradients while it runs.
    """

    native: frozenset[int] = frozenset()

    def __init__(
        self, model: nn.Module, why: str, threads: int, *, gradients: bool = False
    ) -> None:
        self.model, self.why, self.threads, self.gradients = model, why, threads, gradients

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        with torch.set_grad_enabled(self.gradients), torch_threads(self.threads):
            return self.model(*args, **kwargs)

    def explain(self, *args: Any, repeats: int = 5, **kwargs: Any) -> Explanation:
        """Measure the whole call."""
        times = by_turns({"model": partial(self, *args, **kwargs)}, repeats)
        median = statistics.median(times["model"])
        line = ExplainedOperation("model", (), "torch", self.why, median, None, 0)
        return Explanation((line,), 0, 0, 0, 0, 0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Refuse: its Python code is part of what it computes."""
        raise InvalidInput(
            f"Expected a model that is one list of operations to write to {path}, got one where "
            f"{self.why}; save its state_dict, or compile the part before that."
        )


class torch_threads:  # noqa: N801
    """Give torch's operators a number of threads, one after a fork, and restore the old one."""

    def __init__(self, threads: int) -> None:
        self._threads = 1 if ThreadTeam.forked else threads

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._before != self._threads:
            torch.set_num_threads(self._threads)

    def __exit__(self, *exc: object) -> None:
        if self._before != self._threads:
            torch.set_num_threads(self._before)


class torch_defaults(torch_threads):  # noqa: N801
    """Run on a number of threads, in the types that the operations name, whatever autocast says."""

    def __enter__(self) -> None:
        super().__enter__()
        self._plain = None
        if torch.is_autocast_enabled("cpu"):
            self._plain = torch.autocast("cpu", enabled=False)
            self._plain.__enter__()

    def __exit__(self, *exc: object) -> None:
        if self._plain is not None:
            self._plain.__exit__(*exc)
        super().__exit__(*exc)
