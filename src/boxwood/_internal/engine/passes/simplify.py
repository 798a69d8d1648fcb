"""Drop the operators that change nothing or repeat another, and ask for no memory layout."""

from dataclasses import replace

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.program import Op, Program, TorchOp, ValueRef, renamed, without_unused

_IDENTITIES = frozenset(
    (
        "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout",
        "detach", "alias", "lift_fresh", "clone", "contiguous",
    )
)  # fmt: skip
_FILLED = frozenset(
    ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like", "new_empty",
     "empty_like")
)  # fmt: skip
_CASTS = frozenset(("to", "_to_copy", "type_as"))


def simplify(program: Program) -> Program:
    """Return the program without dropout in evaluation, copies, casts to the same type and repetitions.

    ``view`` becomes ``reshape``, which serves every layout that a later pass may choose.
    """
    same: dict[int, int] = {}
    first: dict[object, TorchOp] = {}  # that did what it does, by what it does
    ops: list[Op] = []
    strided = {
        value
        for op in program.ops
        if isinstance(op, TorchOp) and op.name in ("as_strided", "as_strided_scatter")
        for value in op.reads
    }
    for op in program.ops:
        op = renamed(op, same)
        if isinstance(op, TorchOp):
            # What reads memory by strides needs them as they were.
            if _is_identity(op, program) and not strided.intersection(op.writes):
                same[op.writes[0]] = op.reads[0]
                continue
            if op.name in _FILLED:
                op = _filled(op, program)
            if op.name in ("view", "_unsafe_view") and op.target.endswith("default"):
                op = replace(op, target="aten.reshape.default")
            if not aten_ops.is_random(op.target):
                other = first.setdefault(repr((op.target, op.args, op.kwargs)), op)
                if other is not op:
                    same.update(zip(op.writes, other.writes, strict=True))
                    continue
        ops.append(op)
    outputs = tuple(same.get(value, value) for value in program.outputs)
    return without_unused(replace(program, ops=tuple(ops), outputs=outputs))


def _filled(op: TorchOp, program: Program) -> TorchOp:
    """Return an operator that only reads another tensor's shape and type without that tensor."""
    made = program.values[op.writes[0]]
    if op.name in ("new_full", "full_like"):
        fill = op.args[1] if op.name == "full_like" else op.args[2]
    else:
        fill = 1 if "ones" in op.name else 0
    kwargs = (("dtype", made.dtype),)
    return replace(op, target="aten.full.default", args=(made.shape, fill), kwargs=kwargs)


def _is_identity(op: TorchOp, program: Program) -> bool:
    if not op.args or type(op.args[0]) is not ValueRef or len(op.writes) != 1:
        return False
    before, after = program.values[op.args[0].value], program.values[op.writes[0]]
    if before != after:
        return False
    if "dropout" in op.name:
        return len(op.args) > 2 and not (op.args[2] and op.args[1])
    if op.name == "expand":
        return True
    return op.name in _IDENTITIES or op.name in _CASTS
