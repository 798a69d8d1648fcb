"""Run at compile time what no input reaches."""

from dataclasses import replace

import torch

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.program import Op, Program, TorchOp, Value, without_unused


def fold_constants(program: Program) -> Program:
    """Return the program with the results of constant operators as constants."""
    constants = dict(program.constants)
    values = dict(program.values)
    ops: list[Op] = []
    with torch.inference_mode():
        for op in program.ops:
            known = replace(program, constants=constants)
            if isinstance(op, TorchOp) and aten_ops.is_constant(op, known):
                for number, tensor in zip(
                    op.writes, aten_ops.run_operator(op, constants), strict=True
                ):
                    constants[number] = tensor
                    values[number] = Value(tuple(tensor.shape), tensor.dtype)
            else:
                ops.append(op)
    return without_unused(replace(program, ops=tuple(ops), constants=constants, values=values))
