"""Whether torch's operators give the shapes that a program says they do, at one batch.

``x[:8]`` gives eight rows of nine examples and of ten, but not of five: an operator may follow the
batch otherwise than on a line, though its arguments do not change.
"""

import torch

from boxwood.core.errors import BoxwoodError
from boxwood.engine import calls
from boxwood.engine.program import Program, Torch, at


def check_shapes(program: Program, batch: int) -> None:
    """Raise if an operator gives other shapes than the program says.

    Operators run without values, so those that need some are left out.

    Raises:
        BoxwoodError: the program does not hold for this batch.
    """
    values = {
        number: torch.empty(at(value.shape, batch), dtype=value.dtype, device="meta")
        for number, value in program.values.items()
    }
    for op in program.ops:
        if not isinstance(op, Torch):
            continue
        try:
            made = calls.run(calls.at_batch(op, batch), values)
        except Exception:  # noqa: BLE001, S112 - it needs values, or torch will say what is wrong
            continue
        wanted = [tuple(values[number].shape) for number in op.writes]
        got = [tuple(tensor.shape) for tensor in made]
        if wanted != got:
            raise BoxwoodError(
                f"Expected the operation {op.name} to give {_listed(wanted)} at a batch of "
                f"{batch}, got {_listed(got)}: it follows the batch otherwise than at the "
                f"example's; compile the model with an example of this batch."
            )


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) if len(shapes) <= 4 else f"{len(shapes)} tensors"
