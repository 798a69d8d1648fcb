"""A task: a trained network, data in batches of any form, and a function that scores it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.arguments import check_kind, check_network, described
from boxwood._internal.graph.examples import inputs_like, mapped, tensors_of
from boxwood.errors import InvalidInput

Validate = Iterable[Any] | Callable[[nn.Module], Any]
"""Batches, or a function from a network to its score: a number, or one for each example."""

TARGETS = ("labels", "label", "targets", "target")
"""What entries of a batch that is a dict are called, where they are no input."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained network, and the data that it is compressed for.

    A batch has the form of your DataLoader's: inputs alone, ``(inputs, targets)``, or a dict of
    tensors, whose entry ``labels`` is the target. Without targets, the dense network's outputs
    replace them.

    Args:
        model: trained.
        train: batches that can be read repeatedly, such as a DataLoader or a list.
        validate: batches, or a function that returns the score of a network, higher is better: one
            number, or a tensor with a number for each example, always in the same order. None takes
            ``train``, without its targets.
        test: the same, read once at the end; None leaves it out.
        example: input of the served network, used for timing; None uses the first example of
            ``train``.
        metric: function from outputs and targets to a score for each example, [N]; None is the
            accuracy, if targets are classes. Without targets it compares with the dense network's
            outputs.
        loss: function from outputs and targets to the mean over a batch, added to the distillation
            loss; None is the cross-entropy, if targets are classes.
        train_step: function from the network and a batch to the loss, instead of ``loss``.
        optimizer: function from parameters to an optimizer; None is Adam, at a rate chosen on
            validation.

    Example:
        >>> batches = [(torch.randn(8, 4), torch.arange(8) % 2)]
        >>> task = Task(model=nn.Linear(4, 2), train=batches, validate=batches)
        >>> [each.shape for each in task.split(batches[0])]
        [torch.Size([8, 4]), torch.Size([8])]
    """

    model: nn.Module
    train: Iterable[Any]
    validate: Validate | None = None
    test: Validate | None = None
    example: Any = None
    metric: Callable[[Any, Any], Tensor] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    train_step: Callable[[nn.Module, Any], Tensor] | None = None
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None

    def __post_init__(self) -> None:
        check_network(self.model)
        for name, parameter in self.model.named_parameters():
            if not parameter.is_cpu:  # else the race at the end would fail, after the whole search
                raise InvalidInput(
                    f"Expected a network on the CPU, because files are written and times are "
                    f"measured for the CPU, got {name!r} on {parameter.device}; move it there "
                    f"with .cpu()."
                )
        _check_batches(self.train, "train")
        for name in ("validate", "test"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                _check_batches(given, name)

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Take a batch apart into the network's inputs and the targets, None without any.

        Raises:
            InvalidInput: it has not the inputs of the example.
        """
        example = self.example
        if example is None:
            example = _without_targets(batch)
        inputs = inputs_like(example, batch)
        if isinstance(batch, Mapping):
            return inputs, next((batch[name] for name in TARGETS if name in batch), None)
        if isinstance(batch, list | tuple):
            count = len(example) if isinstance(example, tuple) else 1
            rest = tuple(batch[count:])
            return inputs, rest[0] if len(rest) == 1 else rest or None
        return inputs, None

    def batches(self, given: Iterable[Any]) -> Iterator[tuple[Any, Any, Any]]:
        """Read batches from their beginning: each with its inputs and targets.

        Raises:
            InvalidInput: there are none.
        """
        empty = True
        for batch in given:
            empty = False
            yield batch, *self.split(batch)
        if empty:
            raise InvalidInput(
                f"Expected batches, got an empty {type(given).__name__}; give at least one, in "
                f"something that can be read repeatedly."
            )

    def first(self, count: int) -> list[Any]:
        """Take the inputs of as many examples of ``train`` as asked for, in batches."""
        found: list[Any] = []
        seen = 0
        for _, inputs, _ in self.batches(self.train):
            found.append(first_rows(inputs, count - seen))
            seen += rows_of(found[-1])
            if seen >= count:
                break
        return found


def rows_of(inputs: Any) -> int:
    """Count the examples of a batch: the length of its first tensor.

    Example:
        >>> rows_of({"x": torch.ones(3, 2)})
        3
    """
    first = next(tensors_of(inputs), None)
    if first is None or not first.dim():
        raise InvalidInput(
            f"Expected batches of tensors with an axis for the examples, got {described(inputs)}; "
            f"give tensors [batch, ...]."
        )
    return len(first)


def first_rows(inputs: Any, count: int) -> Any:
    """Take the first examples of a batch: of every tensor that is as long as the first one.

    Example:
        >>> first_rows((torch.ones(3, 2), torch.ones(1)), 2)[0].shape
        torch.Size([2, 2])
    """
    rows = rows_of(inputs)
    return mapped(lambda each: each[:count] if each.dim() and len(each) == rows else each, inputs)


def _without_targets(batch: Any) -> Any:
    """Take an example of the inputs out of a batch: its first entry, or all but the targets."""
    if isinstance(batch, Mapping):
        return {name: each for name, each in batch.items() if name not in TARGETS}
    if isinstance(batch, list | tuple):
        if not batch:
            raise InvalidInput("Expected batches of inputs, got an empty one; leave it out.")
        return _without_targets(batch[0]) if isinstance(batch[0], Mapping) else batch[0]
    return batch


def _check_batches(given: Any, name: str) -> None:
    do = f"give {name} as a DataLoader or a list of batches"
    check_kind(given, Iterable, "batches", do)
    if isinstance(given, Tensor | Mapping | str):
        raise InvalidInput(f"Expected batches, got {described(given)}; {do}.")
    if isinstance(given, Iterator):
        raise InvalidInput(
            f"Expected batches that can be read several times, got {described(given)}, which is "
            f"empty after the first time; {do}."
        )
    if isinstance(given, Sequence) and not len(given):
        raise InvalidInput(f"Expected batches, got an empty {type(given).__name__}; {do}.")


def endlessly(given: Iterable[Any]) -> Iterator[Any]:
    """Read batches over and over.

    Raises:
        InvalidInput: a reading gives none.

    Example:
        >>> from itertools import islice
        >>> list(islice(endlessly([1, 2]), 5))
        [1, 2, 1, 2, 1]
    """
    while True:
        empty = True
        for batch in given:
            empty = False
            yield batch
        if empty:
            raise InvalidInput(
                f"Expected batches that can be read several times, got a {type(given).__name__} "
                f"that is empty now; give a DataLoader or a list."
            )
