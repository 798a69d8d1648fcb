"""Turn a program into the plan for one batch size: the positions of its values, and its steps."""

import torch

from boxwood._internal.engine import aten_ops, kernel_problems, supported, unrolling
from boxwood._internal.engine.kernels import elementwise
from boxwood._internal.engine.ops import (
    Attend,
    Concatenate,
    Flatten,
    NativeOp,
    Pointwise,
    Recurrent,
)
from boxwood._internal.engine.placement import Axes, Placement, placement_of
from boxwood._internal.engine.plan import KernelStep, Location, Plan, PlanBuilder
from boxwood._internal.engine.program import Op, Program, TorchOp, sizes_at


def plan_batch(program: Program, batch: int, native: frozenset[int]) -> Plan:
    """Decide places and steps.

    Args:
        program: lowered.
        batch: the leading size of the inputs.
        native: positions of the operations that kernels do, all of them in `supported_problems`;
            the others run in torch.
    """
    # What kernels do for one batch, they may not for another.
    supported_here = supported.supported_problems(program, batch)
    planner = Planner(program, batch, native & supported_here.keys())
    for position, op in enumerate(program.ops):
        planner.add(position, op)
    planner.builder.mark_outputs(program.outputs)
    return planner.builder.plan


class Planner:
    """Plans operation after operation.

    Args:
        program: lowered.
        batch: the leading size of the inputs.
        native: positions of the operations that kernels do.
    """

    def __init__(self, program: Program, batch: int, native: frozenset[int]) -> None:
        self.shapes = {
            number: sizes_at(value.shape, batch) for number, value in program.values.items()
        }
        self.native = native
        self.builder = PlanBuilder(batch, self.shapes)
        self.halos = supported.halos_of(program, self.shapes, native)
        self.slices = supported.concatenated_slices(program, self.shapes, native)
        self.joins: dict[int, Location] = {}  # by a concatenation's result: all of its channels

    def add(self, position: int, op: Op) -> None:
        """Add the steps of the next operation."""
        if position in self.native and isinstance(op, Recurrent):
            unrolling.unroll(op, position, self.builder)
        elif position not in self.native or not isinstance(op, NativeOp):
            self._torch(position, op)
        elif isinstance(op.kind, Concatenate):
            self._join(position, op)
        else:
            self._kernel(position, op)

    def _torch(self, position: int, op: Op) -> None:
        if isinstance(op, TorchOp) and self._renamed(op):
            return
        may_alias = not isinstance(op, TorchOp) or aten_ops.may_alias(op.target)
        self.builder.append_torch(position, op.reads, op.writes, may_alias=may_alias)

    def _renamed(self, op: TorchOp) -> bool:
        """Reuse the location of tokens if only their outer axes change."""
        location = self.builder.location(op.reads[0]) if len(op.reads) == 1 else None
        if location is None or location.placement.axes is not Axes.TOKENS or len(op.writes) != 1:
            return False
        before, after = (self.shapes[value] for value in (op.reads[0], op.writes[0]))
        if before[-1:] != after[-1:] or not aten_ops.is_view(op.target):
            return False
        entries = torch.arange(torch.Size(before).numel()).reshape(before)
        (seen,) = aten_ops.run_operator(
            aten_ops.at_batch(op, self.builder.plan.batch), {op.reads[0]: entries}
        )
        if not torch.equal(seen.reshape(-1), entries.reshape(-1)):
            return False
        self.builder.set_location(op.writes[0], location)
        return True

    def _kernel(self, position: int, op: NativeOp) -> None:
        axes = self._form(op)
        shapes = [self.shapes[value] for value in op.sources]
        wanted = kernel_problems.wanted_placements(op, axes, shapes, self.halos)
        if isinstance(op.kind, Flatten) and wanted[0].layout.plane == 1:
            self._rename(op, wanted[0])
            return
        source = self.builder.locate(op.sources[0], wanted[0])
        out = self._out(op, axes)
        second = None
        if len(wanted) > 1:
            # A residual is laid out as the result, a second operand as the first one.
            like = source.placement if isinstance(op.kind, Pointwise) else out
            whole = wanted[1] if _per_channel(op) or isinstance(op.kind, Attend) else like
            second = self.builder.locate(op.sources[1], whole, exactly=True)
        places = [operand.placement for operand in (source, second) if operand is not None]
        problem = supported.problem_at(op, places, out, self.shapes)
        # A mask is read by all heads, so that the result of one of them may not take its place.
        over = None if second == source or isinstance(op.kind, Attend) else second
        location = self._new(op.out, out, over)
        self.builder.append(
            KernelStep(
                position, problem, source, second, location, places[0].images, op.weight, op.bias
            )
        )

    def _form(self, op: NativeOp) -> Axes:
        if isinstance(op.kind, Pointwise) and not op.kind.per_channel:
            for value in op.sources:
                location = self.builder.location(value)
                if location is not None:
                    return location.placement.axes
        return kernel_problems.axes_of(op, len(self.shapes[op.sources[0]]))

    def _out(self, op: NativeOp, axes: Axes) -> Placement:
        out = supported.result_placement(op, axes, self.shapes, self.halos)
        if op.out in self.slices:
            parent, start = self.slices[op.out]
            whole = placement_of(self.shapes[parent], Axes.IMAGES, self.halos)
            layout = whole.layout.slice(start, start + out.layout.channels)
            return Placement(layout, out.images, out.axes)
        return out

    def _join(self, position: int, op: NativeOp) -> None:
        """Add copies of the sources that do not lie in their slice of the result yet."""
        root, first = self.slices.get(op.out, (op.out, 0))
        parent = self._parent(root)
        for value in op.sources:
            channels = self.shapes[value][1]
            location = self._part(parent, first, channels)
            if self.builder.location(value) != location:
                source = self.builder.locate(
                    value, placement_of(self.shapes[value], Axes.IMAGES, self.halos)
                )
                problem = elementwise.Elementwise(
                    source.placement.layout, location.placement.layout
                )
                self.builder.append(
                    KernelStep(position, problem, source, None, location, location.placement.images)
                )
            first += channels
        start = self.slices.get(op.out, (op.out, 0))[1]
        self.builder.set_location(op.out, self._part(parent, start, self.shapes[op.out][1]))

    def _parent(self, join: int) -> Location:
        if join not in self.joins:
            placement = placement_of(self.shapes[join], Axes.IMAGES, self.halos)
            self.joins[join] = self.builder.new_buffer(placement)
        return self.joins[join]

    def _part(self, parent: Location, first: int, channels: int) -> Location:
        layout = parent.placement.layout.slice(first, first + channels)
        placement = Placement(layout, parent.placement.images, Axes.IMAGES)
        return Location(placement, parent.buffer, first * layout.plane)

    def _rename(self, op: NativeOp, placement: Placement) -> None:
        location = self.builder.locate(op.sources[0], placement)
        tokens = Placement(placement.layout, placement.images, Axes.TOKENS)
        self.builder.set_location(op.out, Location(tokens, location.buffer, location.start))

    def _new(self, value: int, placement: Placement, over: Location | None) -> Location:
        if value in self.slices:
            parent, start = self.slices[value]
            location = self._part(self._parent(parent), start, placement.layout.channels)
        else:
            location = self.builder.new_buffer(placement, over)
        self.builder.set_location(value, location)
        return location


def _per_channel(op: NativeOp) -> bool:
    return isinstance(op.kind, Pointwise) and op.kind.per_channel
