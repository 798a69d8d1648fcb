"""Callbacks of a training: measurements, progress, and snapshots to resume from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from boxwood._internal.train.snapshots import Checkpoints, Row

Watch = Callable[[nn.Module, Sequence[Row]], Mapping[str, float]]
"""The network and the history so far, to what is added to the history's last row."""

Progress = Callable[[int, int], None]
"""Called with (done, all) after every step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Callbacks:
    """Functions that a training calls; none by default.

    Args:
        watch: called after every row of the history; its return value is added to the row.
        memory: tensors that ``watch`` keeps between rows, such as the best weights so far. They are
            part of every snapshot, and are restored in place when a training resumes.
        checkpoints: where to resume from and to save to.
        progress: called with (done, all), in steps, after every step.

    Example:
        >>> callbacks = Callbacks(progress=lambda done, all: print(f"{done}/{all}"))
        >>> callbacks.memory
        {}
    """

    watch: Watch | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    checkpoints: Checkpoints | None = None
    progress: Progress | None = None
