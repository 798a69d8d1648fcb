"""A plan bound to memory: run it, or run it step by step and take the time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwood._internal.core.timing import Clock, elapsed
from boxwood._internal.engine import aten_ops, driver
from boxwood._internal.engine.kernels import contract
from boxwood._internal.engine.llvm.objects import Library
from boxwood._internal.engine.memory import allocate_aligned, arrange_buffers
from boxwood._internal.engine.ops import NativeOp, Recurrent
from boxwood._internal.engine.placement import strided_view
from boxwood._internal.engine.plan import CopyStep, KernelStep, Location, Plan, TorchStep
from boxwood._internal.engine.program import Program, TorchOp, ValueRef
from boxwood._internal.engine.thread_team import ThreadTeam
from boxwood.errors import InvalidInput

Slots = list[Any]
Action = Callable[[Slots], None]


@dataclass(frozen=True)
class BoundStep:
    """Something to do, and the positions of the operations that it does.

    Args:
        act: what to do.
        positions: of operations; empty for a copy that the plan adds.
    """

    act: Action
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class KernelCall:
    """A kernel's address and arguments; ``outside`` is a torch value to take the source from."""

    address: int
    block: NDArray[np.int64]
    outside: int | None


class Runner:
    """A plan with its arena, argument blocks and prepared torch calls.

    Args:
        program: the program.
        plan: of it.
        kernels: by step.
        library: the kernels' code, and the driver's; None without kernels.
        dense: by position, the operations that torch runs.
        team: the threads.
    """

    def __init__(
        self,
        program: Program,
        plan: Plan,
        kernels: Mapping[int, contract.BoundKernel],
        library: Library | None,
        dense: Mapping[int, Callable[..., Tensor]],
        team: ThreadTeam,
    ) -> None:
        self.program, self.plan, self._team = program, plan, team
        self.kernels, self._library, self._dense = kernels, library, dense
        starts, total = arrange_buffers(plan.buffers)
        self._starts = [start // 4 for start in starts]
        scratch = max((bound.kernel.scratch for bound in kernels.values()), default=0)
        self.arena_bytes = total + scratch * team.threads
        self._memory = allocate_aligned(self.arena_bytes)
        self._arena = torch.from_numpy(self._memory.view(np.float32))
        self._scratch = self._memory.ctypes.data + total
        self._static: dict[int, Tensor] = {
            number: program.constants[number]
            for number in _outside(program, plan)
            if number in program.constants
        }
        for number, home in plan.locations.items():
            if not home.placement.quads:  # which torch never reads
                self._static[number] = self._view(home, plan.shapes[number])
        for number, view in plan.views.items():
            start = self._starts[view.buffer] + view.start
            self._static[number] = torch.as_strided(
                self._arena, plan.shapes[number], view.strides, start
            )
        self._slot_count = program.next_value()
        self._kept: list[Any] = []  # argument blocks and jobs, which are known by address alone
        self._last_reads = _last_reads(program, plan)
        self.single_steps = self._steps()
        self.actions = self._merged()

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run all steps."""
        slots = self._slots(inputs)
        for act in self.actions:
            act(slots)
        return self._outputs(slots, inputs)

    def time_steps(self, inputs: Sequence[Tensor], repeats: int, clock: Clock) -> list[list[float]]:
        """Return seconds of every single step in every repeat."""
        found: list[list[float]] = [[] for _ in self.single_steps]
        for _ in range(repeats):
            slots = self._slots(inputs)
            for times, step in zip(found, self.single_steps, strict=True):
                times.append(elapsed(partial(step.act, slots), clock))
        return found

    @property
    def _code(self) -> Library:
        if self._library is None:
            raise TypeError("a plan with kernels needs their code")
        return self._library

    def weight_bytes(self) -> dict[int, int]:
        """Return the bytes of packed weights of each operation, by position."""
        found: dict[int, dict[int, int]] = {}
        for index, step in enumerate(self.plan.steps):
            if isinstance(step, KernelStep) and step.op is not None:
                kernel = self.kernels[index].kernel
                found.setdefault(step.op, {})[id(kernel)] = kernel.nbytes
        return {position: sum(parts.values()) for position, parts in found.items()}

    def _slots(self, inputs: Sequence[Tensor]) -> Slots:
        slots: Slots = [None] * self._slot_count
        for number, tensor in zip(self.program.inputs, inputs, strict=True):
            slots[number] = tensor
        return slots

    def _outputs(self, slots: Slots, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return results that share no memory with anything."""
        found = []
        taken: set[int] = set()
        for number in self.program.outputs:
            if number in self._static:
                found.append(self._static[number].clone(memory_format=torch.contiguous_format))
                continue
            taken = taken or {self._memory.ctypes.data, *map(_memory, inputs)}
            tensor = slots[number]
            tensor = tensor.clone() if _memory(tensor) in taken else tensor
            taken.add(_memory(tensor))
            found.append(tensor)
        return found

    def _inside(self, tensor: Tensor) -> bool:
        return _memory(tensor) == self._memory.ctypes.data

    def _view(self, home: Location, shape: tuple[int, ...]) -> Tensor:
        return strided_view(
            self._arena, self._starts[home.buffer] + home.start, home.placement, shape
        )

    def _address(self, home: Location) -> int:
        return int(self._memory.ctypes.data) + 4 * (self._starts[home.buffer] + home.start)

    def _steps(self) -> list[BoundStep]:
        found: list[BoundStep] = []
        self._calls: dict[int, KernelCall] = {}  # by index in the result
        for index, step in enumerate(self.plan.steps):
            if isinstance(step, KernelStep):
                call = self._call(index, step)
                self._calls[len(found)] = call
                positions = () if step.op is None else (step.op,)
                found.append(BoundStep(self._native([call]), positions))
            elif isinstance(step, CopyStep):
                found.append(BoundStep(self._copy(step), ()))
            elif not self._known(step):
                found.append(BoundStep(self._torch(step), (step.op,)))
        return found

    def _merged(self) -> list[Action]:
        """Return the actions of a call; consecutive kernels are one native call."""
        found: list[Action] = []
        run: list[KernelCall] = []
        for index, step in enumerate(self.single_steps):
            if index in self._calls:
                call = self._calls[index]
                # What it reads through torch may be a view of what this very run makes.
                if run and call.outside in self._static:
                    found.append(self._native(run))
                    run = []
                run.append(call)
                continue
            if run:
                found.append(self._native(run))
                run = []
            found.append(step.act)
        if run:
            found.append(self._native(run))
        return found

    def _call(self, index: int, step: KernelStep) -> KernelCall:
        bound = self.kernels[index]
        outside = None if isinstance(step.source, Location) else step.source
        block = contract.arguments(
            bound.kernel,
            bound.addresses,
            source=self._address(step.source) if isinstance(step.source, Location) else 0,
            target=self._address(step.out),
            second=self._address(step.second) if step.second else 0,
            scratch=self._scratch,
            images=step.images,
        )
        self._kept.append((block, bound))
        address = self._code.address(bound.kernel.code.entry)
        return KernelCall(address, block, outside)

    def _native(self, run: Sequence[KernelCall]) -> Action:
        """One call for several kernels, whose sources in torch are looked up first."""
        openmp = self._team.openmp
        address, words = driver.job(
            [(call.address, call.block.ctypes.data) for call in run],
            self._code,
            openmp.numbers if openmp else (0, 0),
        )
        self._kept.append(words)
        share = self._code.address(driver.SHARE.entry)
        start = partial(self._team.run, driver.function(self._code), share, address, self)
        outside = [(call.block, call.outside) for call in run if call.outside is not None]
        if not outside:
            return lambda _: start()

        def act(slots: Slots) -> None:
            weight_bytes = []
            for block, value in outside:
                tensor = self._static[value] if value in self._static else slots[value]
                tensor = tensor.contiguous().resolve_neg()
                block[0] = tensor.data_ptr()
                weight_bytes.append(tensor)
            start()

        return act

    def _copy(self, step: CopyStep) -> Action:
        layout, shape = step.out.placement.layout, self.plan.shapes[step.value]
        index, value = step.index, step.value
        view = self._view(step.out, shape if index is None else shape[1:])
        source = self._static.get(value)
        start = self._starts[step.out.buffer] + step.out.start
        whole = self._arena[start : start + layout.size(step.out.placement.images)]
        around = layout.halo > 0

        def act(slots: Slots) -> None:
            if around:
                whole.zero_()
            tensor = slots[value] if source is None else source
            view.copy_(tensor if index is None else tensor[index])

        return act

    def _known(self, step: TorchStep) -> bool:
        """Run now an operator whose result is the same tensors or views of the arena in every call."""
        op = self.program.ops[step.op]
        if not isinstance(op, TorchOp) or not aten_ops.depends_on_batch_alone(op, self._static):
            return False
        fixed = not any(self._inside(self._static[value]) for value in op.reads)
        if not fixed and not aten_ops.may_alias(op.target):
            return False
        results = aten_ops.run_operator(aten_ops.at_batch(op, self.plan.batch), self._static)
        self._check(op, results)
        if not fixed and not all(self._inside(tensor) for tensor in results):
            return False
        self._static.update(zip(op.writes, results, strict=True))
        return True

    def _torch(self, step: TorchStep) -> Action:
        op = self.program.ops[step.op]
        done = self._last_reads.get(step.op, ())
        if isinstance(op, NativeOp | Recurrent):
            function, template = self._dense[step.op], tuple(map(ValueRef, op.sources))
            named: dict[str, Any] = {}
        elif not isinstance(op, TorchOp):
            raise TypeError("torch runs its own operators and the engine's")
        else:
            op = aten_ops.at_batch(op, self.plan.batch)
            function, template = aten_ops.operator(op.target), op.args
            named = {name: self._fill(part) for name, part in op.kwargs}
        ready = [self._fill(part) for part in template]
        holes = [(index, part) for index, part in enumerate(ready) if _has_holes(part)]
        named_holes = [(name, part) for name, part in named.items() if _has_holes(part)]
        writes = op.writes
        kinds = self._kinds(writes)

        def act(slots: Slots) -> None:
            args = list(ready)
            for index, part in holes:
                args[index] = _filled(part, slots)
            kwargs = named
            if named_holes:
                kwargs = named | {name: _filled(part, slots) for name, part in named_holes}
            result = function(*args, **kwargs)
            made = (result,) if type(result) is Tensor else aten_ops.tensors_of(result)
            if [(tensor.shape, tensor.dtype) for tensor in made] != kinds:
                self._check(op, made)
            for number, tensor in zip(writes, made, strict=True):
                slots[number] = tensor
            for number in done:
                slots[number] = None

        return act

    def _kinds(self, values: Sequence[int]) -> list[Any]:
        return [(self.plan.shapes[each], self.program.values[each].dtype) for each in values]

    def _check(self, op: Any, made: Sequence[Tensor]) -> None:
        """Raise if torch returned other shapes or types than planned, which kernels rely on."""
        kinds = self._kinds(op.writes)
        if [(tensor.shape, tensor.dtype) for tensor in made] == kinds:
            return
        name = op.name if isinstance(op, TorchOp) else type(op).__name__.lower()
        wanted = ", ".join(f"{tuple(shape)} of {dtype}" for shape, dtype in kinds)
        got = ", ".join(f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in made)
        raise InvalidInput(
            f"Expected the operation {name} to give {wanted} for this batch, got {got}; its "
            f"result depends on the batch in another way than in the example: compile the model "
            f"with "
            f"an example of this batch."
        )

    def _fill(self, argument: Any) -> Any:
        """Replace references to tensors that never change; what stays is a hole."""
        if type(argument) is ValueRef:
            return self._static.get(argument.value, argument)
        if type(argument) is tuple:
            return [self._fill(part) for part in argument]
        return argument


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _outside(program: Program, plan: Plan) -> set[int]:
    """Return the values that torch reads or hands back, other than packed weights."""
    found = set(program.outputs)
    for step in plan.steps:
        if isinstance(step, TorchStep):
            op = program.ops[step.op]
            found.update(op.sources if isinstance(op, NativeOp | Recurrent) else op.reads)
        elif isinstance(step, CopyStep):
            found.add(step.value)
        elif isinstance(step.source, int):
            found.add(step.source)
    return found


def _has_holes(argument: Any) -> bool:
    if type(argument) is list:
        return any(_has_holes(part) for part in argument)
    return type(argument) is ValueRef


def _filled(argument: Any, slots: Slots) -> Any:
    if type(argument) is ValueRef:
        return slots[argument.value]
    if type(argument) is list:
        return [_filled(part, slots) for part in argument]
    return argument


def _last_reads(program: Program, plan: Plan) -> dict[int, tuple[int, ...]]:
    """Return, by position, the torch values that no later step needs."""
    last: dict[int, int] = {}
    copied = {step.value for step in plan.steps if isinstance(step, CopyStep)}
    copied |= {
        step.source
        for step in plan.steps
        if isinstance(step, KernelStep) and isinstance(step.source, int)
    }
    for position, op in enumerate(program.ops):
        for value in op.reads:
            last[value] = position
    keep = {*program.outputs, *program.constants, *plan.locations, *plan.views, *copied}
    found: dict[int, list[int]] = {}
    for value, position in last.items():
        if value not in keep:
            found.setdefault(position, []).append(value)
    return {position: tuple(values) for position, values in found.items()}
