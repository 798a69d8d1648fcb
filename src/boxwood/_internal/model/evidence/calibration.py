"""What evidence is gathered from: a network, its prunable weights, batches and a loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.placement import check_data
from boxwood._internal.core.ranks import Group, add_up
from boxwood._internal.model.evaluation import evaluating, without_fused_encoders
from boxwood._internal.model.prunable import unwrapped
from boxwood._internal.model.unpruned import leaving_out
from boxwood.errors import InvalidInput

Loss = Callable[[Any, Any], Tensor]
"""Outputs of the network and targets, to the mean over the examples of the batch."""

Batches = Iterable[Any]
"""Pairs (inputs, targets), or inputs alone where no loss is asked for.

Inputs are a tensor, a tuple of positional arguments, or a mapping of keyword arguments; their first
dimension counts examples. Two things in a tuple or list are always inputs and targets. Several
passes are made, so a generator will not do.
"""


@dataclass(frozen=True)
class Calibration:
    """A network at rest, and what it is shown.

    Collectors leave the network as it was: weights, buffers, gradients, modes, hooks and random
    numbers. One batch is held at a time, and one accumulator as large as the evidence.

    Args:
        model: any module; a compiled or a distributed one is used as it is inside.
        weights: the parameters that evidence is wanted about, by dotted name.
        batches: see `Batches`.
        loss: see `Loss`.
        masks: weights that these prune count as zero; their gradients are dense all the same.
        group: ranks of ``torch.distributed`` whose batches count as well, each rank's its own; all
            ranks by default.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> seen = Calibration(net, {"weight": net.weight}, [torch.ones(3, 2)])
        >>> [seen.count(inputs) for inputs in seen.inputs()]
        [3]
    """

    model: nn.Module
    weights: Mapping[str, nn.Parameter]
    batches: Batches = ()
    loss: Loss | None = None
    masks: Masks | None = None
    group: Group = None

    def __post_init__(self) -> None:
        check_data(self.weights)
        object.__setattr__(self, "model", unwrapped(self.model))
        if isinstance(self.batches, Iterator):
            raise InvalidInput(
                f"Expected batches that can be read several times, such as a list or a DataLoader, "
                f"got a {type(self.batches).__name__}; give list(batches)."
            )

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Evaluate with the masks applied and every weight differentiable; then undo it all."""
        with ExitStack() as stack:
            tensors = (*self.model.parameters(), *self.model.buffers())
            stack.enter_context(own_random_numbers(devices_of(tensors)))
            stack.enter_context(evaluating(self.model))
            stack.enter_context(without_fused_encoders())
            if any(isinstance(module, nn.RNNBase) for module in self.model.modules()):
                # cuDNN's recurrent layers have no backward pass in evaluation, nor a second one.
                stack.callback(
                    setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled
                )
                torch.backends.cudnn.enabled = False
            for buffer in self.model.buffers():
                stack.callback(_put_back_, buffer, buffer.clone())
            for name, weight in self.weights.items():
                stack.callback(weight.requires_grad_, weight.requires_grad)
                weight.requires_grad_()
                if self.masks is not None and name in self.masks:
                    stack.callback(setattr, weight, "data", weight.data)
                    weight.data = weight.data.masked_fill(~self.masks[name].to(weight.device), 0)
            yield

    def inputs(self) -> Iterator[Any]:
        """Yield the inputs of each batch on the device of the weights."""
        for batch in self._nonempty():
            inputs = batch[0] if _is_pair(batch) else batch
            yield _to(inputs, self._device())
            del batch, inputs

    def losses(self, *, singly: bool = False) -> Iterator[tuple[Tensor, int]]:
        """Yield the loss of each batch, ready for differentiation, and its number of examples.

        Args:
            singly: split the batches into examples.
        """
        if self.loss is None:
            raise InvalidInput(
                "Expected a loss for evidence from gradients, got None; give "
                "loss=boxwood.training.cross_entropy, or another function of outputs and targets."
            )
        for batch in self._nonempty():
            if not _is_pair(batch):
                raise InvalidInput(
                    f"Expected batches of (inputs, targets) for evidence from gradients, got a "
                    f"{type(batch).__name__}; pair the inputs with their targets."
                )
            count = self.count(batch[0])
            parts = [_rows(batch, i, i + 1) for i in range(count)] if singly else [batch]
            for part in parts:
                inputs, targets = _to(part, self._device())
                with torch.enable_grad():
                    loss = self.loss(self.call(inputs), targets)
                _check_loss(loss)
                yield loss, 1 if singly else count
                del loss, inputs, targets, part
            del batch, parts

    def call(self, inputs: Any) -> Any:
        """Run the network."""
        if isinstance(inputs, Mapping):
            return self.model(**inputs)
        return self.model(*inputs) if isinstance(inputs, tuple) else self.model(inputs)

    def run(self) -> int:
        """Run the network on every batch without gradients, for what hooks see.

        Returns:
            The number of examples.
        """
        examples = 0
        with torch.no_grad():
            for inputs in self.inputs():
                self.call(inputs)
                examples += self.count(inputs)
                del inputs
        return examples

    def over_ranks(self, sums: Mapping[str, Tensor], count: int) -> tuple[dict[str, Tensor], int]:
        """Add what other ranks have summed over their batches, and their number of examples.

        Args:
            sums: tensors by the names of the weights.
            count: the number that the sums will be divided by.
        """
        return add_up(sums, count, self.group)

    def count(self, inputs: Any) -> int:
        """Count the examples of a batch's inputs."""
        if isinstance(inputs, Tensor):
            return len(inputs)
        return self.count(next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs)))

    def modules(self, *kinds: type[nn.Module]) -> dict[nn.Module, str]:
        """Find the modules that hold the weights, with the weights' names.

        Args:
            kinds: the classes that a collector can deal with.

        Raises:
            InvalidInput: a weight is held by none of these.
        """
        names = {id(weight): name for name, weight in self.weights.items()}
        for attention in self.model.modules():
            if isinstance(attention, nn.MultiheadAttention):
                names.pop(
                    id(attention.out_proj._parameters.get("weight")), None
                )  # it is never called
        found = {
            module: names[id(module._parameters.get("weight"))]
            for module in self.model.modules()
            if isinstance(module, kinds) and id(module._parameters.get("weight")) in names
        }
        lacking = set(self.weights) - set(found.values())
        if lacking:
            # Of torch's own: those of other packages depend on what has been imported.
            own = (kind.__name__ for kind in kinds if kind.__module__.startswith("torch.nn."))
            raise InvalidInput(
                f"Expected weights of {', '.join(own)} layers that are "
                f"called for this evidence, got {sorted(lacking)[0]!r}, which is not one; "
                f"{leaving_out(sorted(lacking), self.weights)}."
            )
        return found

    def _nonempty(self) -> Iterator[Any]:
        # Here and wherever batches are looped over, names are dropped before the next batch is
        # asked for: a loop variable would keep the last one, and its graph, in memory too.
        some = False
        for batch in self.batches:
            some = True
            yield batch
            del batch
        if not some:
            raise InvalidInput(
                "Expected batches to gather evidence from, got none; give "
                "batches=[(inputs, targets), ...]."
            )

    def _device(self) -> torch.device:
        return next(iter(self.weights.values())).device


def accumulator(weight: Tensor) -> Tensor:
    """Zeros to sum evidence in: at least float32, whatever the weight's precision.

    Example:
        >>> accumulator(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return torch.zeros_like(wide(weight.detach()))


def wide(tensor: Tensor) -> Tensor:
    """Give a tensor at least the precision of float32.

    Example:
        >>> wide(torch.ones(1, dtype=torch.float16)).dtype, wide(torch.ones(1).double()).dtype
        (torch.float32, torch.float64)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) == 2


def _rows(value: Any, start: int, end: int) -> Any:
    return _map(value, lambda tensor: tensor[start:end])


def _to(value: Any, device: torch.device) -> Any:
    return _map(value, lambda tensor: tensor.to(device))


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _map(each, function) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_map(each, function) for each in value)
    return value


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InvalidInput(
            f"Expected a loss that is one number and depends on the weights, got {got}; return the "
            f"mean over the batch, computed with gradients."
        )
    if not bool(torch.isfinite(loss)):
        raise InvalidInput(
            f"Expected a finite loss, got {loss.item()}; check the batches and the network."
        )


def _put_back_(buffer: Tensor, before: Tensor) -> None:
    if not torch.equal(buffer, before):
        with torch.no_grad():
            buffer.copy_(before)
