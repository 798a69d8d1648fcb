"""A compiled network: called as the network is, run by kernels and torch."""

import hashlib
import os
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwood._internal.core.errors import BoxwoodError
from boxwood._internal.engine import bind, dense, driver
from boxwood._internal.engine.constants import Constants
from boxwood._internal.engine.explain import Explanation, Line, Times, explain
from boxwood._internal.engine.interface import Interface, check_inputs
from boxwood._internal.engine.kernels.contract import Kernel
from boxwood._internal.engine.llvm import jit
from boxwood._internal.engine.llvm.cache import ObjectCache, default_cache
from boxwood._internal.engine.llvm.objects import Library, load
from boxwood._internal.engine.memory import LINE, allocate
from boxwood._internal.engine.ops import Native, Recurrent
from boxwood._internal.engine.plan import KernelStep, Plan, TorchStep, plan
from boxwood._internal.engine.program import Op, Program
from boxwood._internal.engine.runner import Bound, Runner
from boxwood._internal.engine.shapes import check_shapes
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.thread_team import Team

Held = weakref.WeakValueDictionary[bytes, NDArray[Any]]

Key = tuple[Any, int | None, int | None]  # problem, number of the weight, of the bias

PLANS = 4
"""Batch sizes whose plans are kept ready."""


@dataclass(eq=False)
class Workshop:
    """Builds kernels and keeps them, so that plans share packed weights and compiled code.

    Args:
        program: whose constants the weights are.
        target: the processor family.
        threads: that will run them.
        cache: compiled objects on disk, or None.
    """

    program: Program
    target: Target
    threads: int
    cache: ObjectCache | None = field(default_factory=default_cache)

    def __post_init__(self) -> None:
        self.built: dict[Key, Bound] = {}
        self.stored: dict[Key, Callable[[], Bound]] = {}  # kernels of a file, not yet looked at
        self.objects: dict[str, bytes] = {}
        self.held: Held = weakref.WeakValueDictionary()
        self.settled: frozenset[Key] = frozenset()  # kernels that stay whatever else is forgotten

    def kernels(self, steps: Mapping[int, KernelStep]) -> dict[int, Bound]:
        """Return the kernel of each step."""
        missing: dict[Key, Kernel] = {}
        for step in steps.values():
            key = (step.problem, step.weight, step.bias)
            self.restore(key)
            if key not in self.built and key not in missing:
                missing[key] = bind.build(
                    step.problem,
                    self.weight(step.weight),
                    self.weight(step.bias),
                    self.target,
                    self.threads,
                )
        self.built.update(zip(missing, hold(tuple(missing.values()), self.held), strict=True))
        return {
            index: self.built[step.problem, step.weight, step.bias] for index, step in steps.items()
        }

    def restore(self, key: Key) -> None:
        """Take a kernel from the file, if it is there."""
        if key in self.stored:
            self.built[key] = self.stored.pop(key)()

    def settle(self) -> None:
        """Keep for good what is built or stored now, in memory without what was built beside it."""
        self.held.clear()
        kernels = [each.kernel for each in self.built.values()]
        self.built = dict(zip(self.built, hold(kernels, self.held), strict=True))
        self.settled = frozenset((*self.built, *self.stored))

    def keep(self, kernels: Iterable[Bound]) -> None:
        """Forget all kernels but these and the settled ones."""
        kept = {id(each) for each in kernels}
        self.built = {
            key: each for key, each in self.built.items() if id(each) in kept or key in self.settled
        }
        own = {driver.CODE.entry, driver.SHARE.entry}
        entries = own | {b.kernel.code.entry for b in self.built.values()}
        self.objects = {e: code for e, code in self.objects.items() if e in entries}

    def library(self, kernels: Iterable[Bound]) -> Library:
        """Return the code of kernels and the driver's."""
        codes = {bound.kernel.code.entry: bound.kernel.code for bound in kernels}
        wanted = [driver.CODE, driver.SHARE, *codes.values()]
        objects = {
            code.entry: self.objects[code.entry] for code in wanted if code.entry in self.objects
        }
        rest = [code for code in wanted if code.entry not in objects]
        self.objects.update(jit.compile_all(rest, self.target, self.cache))
        return load({code.entry: self.objects[code.entry] for code in wanted})

    def weight(self, number: int | None) -> NDArray[np.float32] | None:
        """Return a constant; None for none."""
        return None if number is None else self.program.constants[number].numpy()


def hold(
    kernels: Sequence[Kernel], held: Held | None = None, mapped: NDArray[np.uint8] | None = None
) -> list[Bound]:
    """Copy the constants of kernels into memory of their own, each to a cache line.

    Args:
        kernels: the kernels.
        held: constants that are there already, by digest: packed weights are often the same for
            several batches, and are then shared.
        mapped: memory of a file; constants that lie on lines there stay.
    """
    held = weakref.WeakValueDictionary() if held is None else held
    parts = {id(part): part for kernel in kernels for part in kernel.constants}
    placed = {number: part for number, part in parts.items() if _stays(part, mapped)}
    digests = {number: _digest(part) for number, part in parts.items() if number not in placed}
    placed |= {number: held[digest] for number, digest in digests.items() if digest in held}
    new = {number: part for number, part in parts.items() if number not in placed}
    memory = allocate(sum(_whole_lines(part) for part in new.values()))
    start = 0
    for number, part in new.items():
        there = memory[start : start + part.nbytes].view(part.dtype)
        there[:] = part.reshape(-1)
        placed[number] = held[digests[number]] = there
        start += _whole_lines(part)
    found = []
    for kernel in kernels:
        constants = tuple(placed[id(part)] for part in kernel.constants)
        addresses = tuple(constant.ctypes.data for constant in constants)
        found.append(Bound(replace(kernel, constants=constants), addresses, memory))
    return found


def _whole_lines(part: NDArray[Any]) -> int:
    return -(-part.nbytes // LINE) * LINE


def _digest(part: NDArray[Any]) -> bytes:
    digest = hashlib.blake2b(f"{part.dtype} {part.size}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _stays(part: NDArray[Any], mapped: NDArray[np.uint8] | None) -> bool:
    if mapped is None:
        return False
    first, place = mapped.ctypes.data, part.ctypes.data
    return first <= place < first + mapped.nbytes and place % LINE == 0


class Session:
    """A compiled network; make one with `compile`, call it like the network.

    Args:
        program: lowered.
        interface: how it is called.
        native: positions of the operations that kernels do.
        workshop: where its kernels come from.
        team: its threads.
        times: what `choosing` measured, for `explain`.
    """

    def __init__(
        self,
        program: Program,
        interface: Interface,
        native: frozenset[int],
        workshop: Workshop,
        team: Team,
        times: Mapping[int, Times] | None = None,
    ) -> None:
        self.times = dict(times or {})
        self.program, self.interface, self.native = program, interface, native
        self.workshop, self.team = workshop, team
        self._runners: dict[int, Runner] = {}
        self._dense: dict[int, Callable[..., Tensor]] = {}

    @property
    def threads(self) -> int:
        """How many threads it runs on."""
        return self.team.threads

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Raises:
            BoxwoodError: the arguments are not like the example's.
        """
        inputs = self.interface.tensors(args, kwargs)
        batch = check_inputs(self.program, inputs)
        # A sign that torch keeps beside a tensor's memory is not seen by kernels.
        inputs = [tensor.resolve_neg() for tensor in inputs]
        with self.team.lock, torch.no_grad(), undisturbed(self.threads):
            outputs = self.runner(batch)(inputs)
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
        raise BoxwoodError(
            "Expected a compiled network to be saved by its save(), got an attempt to pickle or "
            "copy it; use save(path) and boxwood.load(path), also to hand it to another process."
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this session to a file that `boxwood._internal.engine.storage.load` reads.

        Args:
            path: the file, by custom ``*.bxw``.

        Raises:
            BoxwoodError: its interface or an operator has no form in a file, or the disk is full
                or not writable.
        """
        from boxwood._internal.engine.storage import save

        save(self, path)

    def explain(self, *args: Any, repeats: int = 5, **kwargs: Any) -> Explanation:
        """Measure each operation of a call, and say where it runs and why.

        Args:
            args: of the call.
            repeats: how often to run it.
            kwargs: of the call.
        """
        inputs = self.interface.tensors(args, kwargs)
        batch = check_inputs(self.program, inputs)
        with self.team.lock, torch.no_grad(), undisturbed(self.threads):
            return explain(self.runner(batch), self.times, inputs, repeats)

    def assigned(
        self, native: frozenset[int], times: Mapping[int, Times] | None = None
    ) -> "Session":
        """Return a session of the same program whose kernels do these operations."""
        return Session(
            self.program, self.interface, native, self.workshop, self.team, times or self.times
        )

    def settle(self, batch: int) -> None:
        """Keep the kernels of one batch's plan, and no others; keep their weights without zeros."""
        self.workshop.settled = frozenset()
        self.workshop.keep(self.runner(batch).kernels.values())
        self.workshop.settle()
        ops = self.program.ops
        packed = {n for position in self.native for n in _weights(ops[position])}
        packed -= {n for p, op in enumerate(ops) if p not in self.native for n in op.reads}
        constants = Constants(self.program.constants).without_zeros(packed)
        self.program = self.workshop.program = replace(self.program, constants=constants)
        self._runners = {}

    def runner(self, batch: int) -> Runner:
        """Return the bound plan for a batch, made when it is first asked for."""
        if batch not in self._runners:
            check_shapes(self.program, batch)
            if len(self._runners) >= PLANS:
                self._runners.pop(next(iter(self._runners)))
                self.workshop.keep(
                    kernel
                    for runner in self._runners.values()
                    for kernel in runner.kernels.values()
                )
            self._runners[batch] = self._bind(plan(self.program, batch, self.native))
        return self._runners[batch]

    def _bind(self, planned: Plan) -> Runner:
        steps = {i: step for i, step in enumerate(planned.steps) if isinstance(step, KernelStep)}
        kernels = self.workshop.kernels(steps)
        # Kernels do for one batch what torch may have to do for another.
        in_torch = {step.op for step in planned.steps if isinstance(step, TorchStep)}
        for position, op in enumerate(self.program.ops):
            if position in in_torch - self._dense.keys():
                if isinstance(op, Native):
                    self._dense[position] = dense.in_torch(
                        op.does, self._constant(op.weight), self._constant(op.bias),
                        planned.shapes[op.sources[0]], planned.shapes[op.out],
                    )  # fmt: skip
                elif isinstance(op, Recurrent):
                    self._dense[position] = dense.recurrent(op, self.program.constants)
        library = self.workshop.library(kernels.values()) if kernels else None
        return Runner(self.program, planned, kernels, library, self._dense, self.team)

    def _constant(self, number: int | None) -> Tensor | None:
        return None if number is None else self.program.constants[number]


def _weights(op: Op) -> tuple[int, ...]:
    if isinstance(op, Recurrent):
        return op.reads[len(op.sources) :]
    return (op.weight,) if isinstance(op, Native) and op.weight is not None else ()


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
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            self(*args, **kwargs)
            seconds.append(time.perf_counter() - begin)
        line = Line("model", (), "torch", self.why, statistics.median(seconds), None, 0)
        return Explanation((line,), 0, 0, 0, 0, 0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Refuse: its Python code is part of what it computes."""
        raise BoxwoodError(
            f"Expected a model that is one list of operations to write to {path}, got one where "
            f"{self.why}; save its state_dict, or compile the part before that."
        )


class torch_threads:  # noqa: N801
    """Give torch's operators so many threads, after a fork one, and back what it had."""

    def __init__(self, threads: int) -> None:
        self._threads = 1 if Team.forked else threads

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._before != self._threads:
            torch.set_num_threads(self._threads)

    def __exit__(self, *exc: object) -> None:
        if self._before != self._threads:
            torch.set_num_threads(self._before)


class undisturbed(torch_threads):  # noqa: N801
    """Run on so many threads, in the types that the operations say whatever autocast is set to."""

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
