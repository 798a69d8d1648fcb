"""How closely a network in an engine agrees with the dense one in torch, on data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.cli.target import loader_of
from boxwood._internal.core.examples import Examples
from boxwood._internal.data.splits import Splits
from boxwood._internal.engine.backends import Forward
from boxwood.errors import InvalidInput

CALIBRATION = 128  # examples that calibrate int8
_LITTLE = 0.01  # of accuracy, or of the outputs

Inputs = tuple[Tensor, ...]
Judged = tuple[Inputs, Tensor | None]
"""Inputs of a call, and what is right for them."""


@dataclass(frozen=True)
class BenchData:
    """Inputs that calibrate int8, and others by which networks are judged.

    Args:
        calibration: inputs of some calls.
        judged: inputs of other calls, and targets where there are any.
    """

    calibration: tuple[Inputs, ...]
    judged: tuple[Judged, ...]

    def shapes(self) -> tuple[str, ...]:
        """The shapes of a call's inputs, as they would be typed."""
        return tuple(
            f"{'x'.join(map(str, each.shape))}:{str(each.dtype).removeprefix('torch.')}"
            for each in self.judged[0][0]
        )

    def like(self, example: Inputs) -> Inputs:
        """Take the first call's inputs for an example of the same shapes and types.

        Raises:
            InvalidInput: they are others.
        """
        first = self.judged[0][0]
        if [(x.shape, x.dtype) for x in first] != [(x.shape, x.dtype) for x in example]:
            raise InvalidInput(
                f"Expected --input of the shapes of --data, {' and '.join(self.shapes())}, got "
                f"other shapes; leave --input out."
            )
        return first


@dataclass(frozen=True)
class Agreement:
    """What a network in an engine gives, next to the dense network in torch.

    Args:
        examples: that were judged.
        error: root of the mean squared difference of the first output, over that of the output.
        agrees: fraction of places with the same highest class; None where there are no classes.
        accuracy: fraction of places with the right class; None without targets.
    """

    examples: int
    error: float
    agrees: float | None
    accuracy: float | None

    def cells(self) -> dict[str, str]:
        """What a table shows, by heading."""
        shown = {"accuracy": self.accuracy, "agrees": self.agrees}
        found = {name: f"{100 * each:.1f} %" for name, each in shown.items() if each is not None}
        error = "< 0.1 %" if 0 < self.error < 0.001 else f"{100 * self.error:.2g} %"
        return {**found, "error": error}

    def said(self, dense: "Agreement") -> str:
        """Say what it costs, after "On 500 examples it"."""
        if self.agrees is None:
            return f"is off by {100 * self.error:.2g} % of the dense network's outputs"
        said = f"agrees with the dense network on {100 * self.agrees:.1f} %"
        if self.accuracy is None or dense.accuracy is None:
            return said
        return f"{said}, with an accuracy of {100 * self.accuracy:.1f} % against {100 * dense.accuracy:.1f} %"

    def near(self, dense: "Agreement") -> bool:
        """Whether it loses at most one point of accuracy, or is off by 1 % without classes."""
        if self.accuracy is None or dense.accuracy is None:
            return self.error <= _LITTLE
        return self.accuracy >= dense.accuracy - _LITTLE


def read_bench_data(data: str, batch: int | None, examples: int) -> BenchData:
    """Load what ``--data`` names.

    Args:
        data: a data set's name, or ``file.py:function`` of one that returns `Splits` or a list of
            batches, ``(inputs, targets)`` or inputs alone. Of splits, training examples calibrate
            and test examples judge; of batches, the first half calibrates.
        batch: examples of a call on splits; None is 1. Batches are calls as they are.
        examples: how many are judged, at most.

    Raises:
        InvalidInput: it is neither, or there is too little of it.
    """
    found = loader_of(data)()
    if isinstance(found, Splits):
        size = batch or 1
        calibration = [inputs for inputs, _ in _calls(found.train, size, CALIBRATION)]
        judged = list(_calls(found.test, size, examples))
    else:
        batches = [_split(each) for each in found]
        half = len(batches) // 2
        each = len(batches[0][0][0]) if half else 1
        calibration = [inputs for inputs, _ in batches[:half][: -(-CALIBRATION // each)]]
        judged = batches[half:][: -(-examples // each)] if half else []
    if not calibration or not judged:
        raise InvalidInput(
            f"Expected --data {data} with examples to calibrate on and others to measure on, in "
            f"batches of "
            f"{batch or 1}, got too few; give more, or a smaller batch in --input."
        )
    return BenchData(tuple(calibration), tuple(judged))


def first_outputs(forward: Forward, judged: Iterable[Judged]) -> list[Tensor]:
    """Run a network on all inputs and keep what it returns first, in float64.

    Example:
        >>> [out] = first_outputs(lambda inputs: [2 * inputs[0]], [((torch.ones(1, 2),), None)])
        >>> out.tolist()
        [[2.0, 2.0]]
    """
    return [forward(inputs)[0].detach().double() for inputs, _ in judged]


def agreement(
    outputs: Sequence[Tensor], dense: Sequence[Tensor], judged: Sequence[Judged]
) -> Agreement:
    """Compare a network's outputs with those of the dense one.

    Classes are along the second dimension of the outputs, or the last, whichever leaves the shape
    of the targets.

    Args:
        outputs: of each call.
        dense: of the dense network.
        judged: the calls.

    Example:
        >>> dense, mine = [torch.tensor([[0.0, 1.0], [2.0, 0.0]])], [torch.tensor([[1.0, 0.0], [2.0, 0.0]])]
        >>> found = agreement(mine, dense, [((torch.ones(2, 3),), torch.tensor([1, 0]))])
        >>> found.agrees, found.accuracy
        (0.5, 0.5)
    """
    off = sum(float((a - b).square().sum()) for a, b in zip(outputs, dense, strict=True))
    size = sum(float(each.square().sum()) for each in dense)
    places = same = right = 0
    for mine, theirs, (_, targets) in zip(outputs, dense, judged, strict=True):
        if targets is None or targets.dtype.is_floating_point or theirs.dim() < 2:
            continue
        classes = _class_dimension(theirs, targets)
        if classes is None:
            continue
        chosen = mine.argmax(classes)
        places += targets.numel()
        same += int((chosen == theirs.argmax(classes)).sum())
        right += int((chosen == targets).sum())
    return Agreement(
        examples=sum(len(inputs[0]) for inputs, _ in judged),
        error=(off / size) ** 0.5 if size else float(off > 0),
        agrees=same / places if places else None,
        accuracy=right / places if places else None,
    )


def _class_dimension(outputs: Tensor, targets: Tensor) -> int | None:
    for at in (1, outputs.dim() - 1):
        if outputs.shape[:at] + outputs.shape[at + 1 :] == targets.shape:
            return at
    return None


def _calls(part: Examples, size: int, examples: int) -> Iterable[Judged]:
    count = min(len(part), examples) // size
    for at in range(count):
        inputs, targets = part.take(torch.arange(at * size, (at + 1) * size))
        yield (inputs,), targets


def _split(batch: Any) -> Judged:
    """As `boxwood.find_masks` reads a batch: (inputs, targets), or inputs alone."""
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    inputs, targets = batch if pair else (batch, None)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), targets
