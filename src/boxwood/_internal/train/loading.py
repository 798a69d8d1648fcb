"""Batches of a training: made one by one, or in advance by the worker processes of a DataLoader."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from boxwood._internal.core import spec
from boxwood._internal.core.examples import Examples, raw_example
from boxwood._internal.core.generators import own_random_numbers
from boxwood._internal.core.seeds import seed_for
from boxwood.errors import InvalidInput

Transform = Callable[[Any], Tensor]
"""One example as it is read, such as a Pillow image, to an input. What it draws from the random numbers
of torch, NumPy or Python follows from the run's seed, the step and the example's place in the batch."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Which examples, their inputs and their targets."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the examples of a training are read.

    Every example has its own random numbers. So the result is the same for any number of workers,
    and a resumed training equals an uninterrupted one, whatever step it was stopped at.

    Args:
        transform: changes each example at random as it is read, such as `ImageAugmentation`,
            instead of the data set's own transform; None reads examples as the data set returns
            them.
        workers: processes that read in advance, at least 0; 0 reads between the steps. It does not
            change results.

    Raises:
        InvalidInput: ``workers`` is negative.

    Example:
        >>> Loading(workers=4).transform is None
        True
    """

    transform: Transform | None = None
    workers: int = spec.field(0, identity=False)

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InvalidInput(
                f"Expected workers >= 0 processes, got {self.workers}; 0 reads between the steps."
            )


def batches_of(
    examples: Examples,
    order: Iterable[tuple[int, Tensor]],
    loading: Loading | None,
    *,
    seed: int,
    shuffle_index: int,
    pinned: bool = False,
) -> Iterator[Batch]:
    """Take the batches of a training in their order.

    Args:
        examples: what to take from.
        order: steps, and the indices of their examples, int64 [batch].
        loading: how; None takes each batch when it is asked for.
        seed: root seed of the run.
        shuffle_index: the training's.
        pinned: whether batches lie in memory from which a GPU copies them.

    Example:
        >>> from boxwood.data import InMemory
        >>> data = InMemory(torch.eye(2), torch.arange(2))
        >>> order = [(0, torch.tensor([1])), (1, torch.tensor([0]))]
        >>> [targets.item() for _, _, targets in batches_of(data, order, None, seed=0, shuffle_index=0)]
        [1, 0]
    """
    if loading is None:
        for _, indices in order:
            yield indices, *examples.take(indices)
        return
    yield from DataLoader(
        _Reader(examples, loading.transform, seed, f"transform/{shuffle_index}"),
        batch_size=None,
        sampler=order,
        num_workers=loading.workers,
        pin_memory=pinned,
        # Of its own, as a loader draws a number from it whenever it begins.
        generator=torch.Generator(),
    )


@dataclass(frozen=True)
class _Reader(Dataset[Batch]):
    """The batches of a training by step and indices, as a dataset of torch."""

    examples: Examples
    transform: Transform | None
    seed: int
    purpose: str

    def __getitem__(self, step_and_indices: tuple[int, Tensor]) -> Batch:
        step, indices = step_and_indices
        if self.transform is None:
            return indices, *self.examples.take(indices)
        inputs, targets = [], []
        for place, index in enumerate(indices.tolist()):
            raw, target = raw_example(self.examples, index)
            with _seeded(seed_for(self.seed, f"{self.purpose}/{step}", place)):
                inputs.append(self.transform(raw))
            targets.append(target)
        return indices, _stacked(inputs), torch.tensor(targets)


def _stacked(inputs: list[Any]) -> Tensor:
    shapes = {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in inputs}
    if len(shapes) > 1 or not isinstance(inputs[0], Tensor):
        raise InvalidInput(
            f"Expected a transform that makes tensors of one shape, got {sorted(map(str, shapes))}; "
            f"crop to one size and convert at its end."
        )
    return torch.stack(inputs)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the three kinds of random numbers that transforms use, and put them back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what transforms use
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        with own_random_numbers(seed=seed):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
