"""How the gradient of a step is computed: in parts, in bfloat16, compiled."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.train.losses import Loss
from boxwood.errors import InvalidInput

Targets = Sequence[tuple[float, Any]]
"""Shares of the loss, which add up to 1, and what each is the loss of."""


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How the gradient of a step is computed; by default in one pass, in float32, without
    compilation.

    Args:
        microbatches: parts of each batch, at least 1, whose gradients add up before the step: use
            several if a batch does not fit into memory. Steps, learning rates and examples do not
            change. The gradient is that of the whole batch up to rounding, if each example has the
            same number of targets. Batch norms see the parts.
        bfloat16: compute in bfloat16 what torch's autocast considers safe; weights, gradients, the
            optimizer and evaluation stay in float32.
        compiled: compile the forward and backward pass with ``torch.compile``, separately for each
            batch size.

    Raises:
        InvalidInput: ``microbatches`` is below 1.

    Example:
        >>> Computation(microbatches=4, bfloat16=True)
        Computation(microbatches=4, bfloat16=True, compiled=False)
    """

    microbatches: int = 1
    bfloat16: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.microbatches < 1:
            raise InvalidInput(
                f"Expected microbatches >= 1, got {self.microbatches}; 1 computes a batch at once."
            )

    def prepared(self, model: nn.Module) -> Callable[..., Any]:
        """Return what computes the outputs of a network in training."""
        # With sizes of its own, code depends on the batch alone and not on those that came before,
        # so a resumed training runs the same.
        return torch.compile(model, dynamic=False) if self.compiled else model

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context in which the network computes."""
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


def add_gradients_(
    outputs_of: Callable[[Tensor], Any],
    inputs: Tensor,
    targets: Targets,
    loss: Loss,
    computation: Computation,
    device: torch.device,
) -> Tensor:
    """Add the gradient of a batch's loss to that of the parameters, and return the loss.

    Args:
        outputs_of: the network.
        inputs: [batch, ...].
        targets: with the share of each in the loss.
        loss: a mean over a batch.
        computation: how.
        device: of the network.

    Example:
        >>> w = nn.Parameter(torch.ones(1))
        >>> add_gradients_(
        ...     lambda x: x * w, torch.tensor([[1.0], [3.0]]), [(1.0, torch.zeros(2, 1))],
        ...     lambda outputs, _: outputs.mean(), Computation(microbatches=2), torch.device("cpu"),
        ... ), w.grad
        (tensor(2.), tensor([2.]))
    """
    whole: Any = None
    for part in _parts(len(inputs), computation.microbatches):
        with computation.autocast(device):
            outputs = outputs_of(_rows(inputs, part).to(device, non_blocking=True))
        outputs = _in_float32(outputs) if computation.bfloat16 else outputs
        losses = [loss(outputs, _rows(each, part).to(device)) for _, each in targets]
        value = losses[0]
        if len(targets) > 1:
            shares = torch.tensor([share for share, _ in targets], device=value.device)
            value = (torch.stack(losses) * shares).sum()
        if part is not None:
            value = value * ((part.stop - part.start) / len(inputs))
        value.backward()
        whole = value.detach() if whole is None else whole + value.detach()
    return whole  # type: ignore[no-any-return]


def _in_float32(outputs: Any) -> Any:
    """Losses are computed in float32, of logits as of logits with features."""
    return outputs.float() if isinstance(outputs, Tensor) else tuple(map(_in_float32, outputs))


def _parts(count: int, parts: int) -> Iterator[slice | None]:
    """The rows of each part; None for all."""
    if parts == 1:
        yield None
        return
    size = -(-count // parts)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _rows(each: Any, part: slice | None) -> Any:
    """Some examples of a batch: of a tensor, or of each tensor of a teacher's targets."""
    if part is None:
        return each
    if isinstance(each, Tensor):
        return each[part]
    tensors = {f.name: getattr(each, f.name) for f in fields(each)}
    return replace(each, **{n: t[part] for n, t in tensors.items() if isinstance(t, Tensor)})
