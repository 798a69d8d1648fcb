"""Prune a deep network block by block: one block and its inputs are all that must be in memory.

A transformer is a list of blocks, each taking hidden states and some settings (attention mask,
positions) and giving hidden states. Blocks may come from a generator that loads each from a file
and forgets it once it has been saved.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from boxwood.core.allocation import Scope, uniform
from boxwood.core.criteria import wanda
from boxwood.core.errors import BoxwoodError
from boxwood.core.granularity import Granularity, NofM, PerRow
from boxwood.core.masks import apply
from boxwood.model.evaluation import evaluating
from boxwood.model.evidence.calibration import Batches, Calibration
from boxwood.model.oneshot import prune
from boxwood.model.prunable import Where, linear
from boxwood.model.reconstruct import Reconstruction, load_, prune_and_reconstruct
from boxwood.model.scoring import Criterion

State = tuple[Tensor, Mapping[str, Any]]
"""Hidden states of a batch, and the settings that every block is called with."""

Decide = Callable[[nn.Module, Batches], Reconstruction]
"""A block that takes (hidden states, settings), and batches of these, to new weights and masks."""


class _ReachedError(Exception):
    """The block has been reached."""


def states_before(model: nn.Module, block: nn.Module, batches: Batches) -> list[State]:
    """Run a model until it calls a block, and return what the block was called with.

    Args:
        model: in evaluation mode for the time being; nothing after the block is run.
        block: the first block to prune, a module of the model.
        batches: as for `boxwood.prune`; of language models, token ids, with ``use_cache=False``.

    Raises:
        BoxwoodError: the model never calls the block.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> [(hidden, settings)] = states_before(net, net[1], [torch.ones(5, 2)])
        >>> hidden.shape, settings
        (torch.Size([5, 2]), {})
    """
    states: list[State] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        named = dict(kwargs)
        hidden = args[0] if args else named.pop("hidden_states")
        states.append((hidden.detach(), named))
        raise _ReachedError

    seen = Calibration(model, dict(model.named_parameters()), batches)
    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with evaluating(model), torch.no_grad():
            for inputs in seen.inputs():
                before = len(states)
                try:
                    seen.call(inputs)
                except _ReachedError:
                    continue
                if len(states) == before:
                    raise BoxwoodError(
                        f"Expected a block that the model calls, got a {type(block).__name__} that "
                        f"it does not; give the first of its list of layers."
                    )
    finally:
        handle.remove()
    return states


def through_blocks(
    blocks: Iterable[nn.Module], states: Sequence[State], decide: Decide
) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """Prune blocks in order, each on what the pruned blocks before it make.

    Args:
        blocks: modules that take hidden states first, and give them, alone or first in a tuple; a
            generator may load each as it comes.
        states: from `states_before`.
        decide: such as ``partial(by_criterion, sparsity=0.5)`` or
            ``partial(by_sparse_gpt, sparsity=0.5)``.

    Yields:
        Each block with its new weights in it, and its masks by its own names. Save and drop it
        before the next one comes.

    Example:
        >>> from functools import partial
        >>> blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        >>> states = [(torch.randn(6, 4), {})]
        >>> for block, masks in through_blocks(blocks, states, partial(by_criterion, sparsity=0.5)):
        ...     int(masks["weight"].sum()), int((block.weight != 0).sum())
        (8, 8)
        (8, 8)

    Source: Frantar and Alistarh (2023), section 4; Sun, Liu, Bair and Kolter (2024), section 4.
    """
    current = list(states)
    for block in blocks:
        fed = _Fed(block)
        done = decide(fed, [(state, None) for state in current])
        load_(fed, done.weights)
        with evaluating(block), torch.no_grad():
            for place, (hidden, settings) in enumerate(current):
                current[place] = (fed(hidden, settings), settings)
        yield block, {name.removeprefix("block."): mask for name, mask in done.masks.items()}
        del block, fed, done  # gone before the next one is loaded


def by_criterion(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    criterion: Criterion = wanda,
    granularity: Granularity = PerRow(),  # noqa: B008 - frozen
    scope: Scope = uniform,
    where: Where = linear,
) -> Reconstruction:
    """Decide a block's masks by a criterion that needs no loss, Wanda by default.

    Example:
        >>> done = by_criterion(nn.Linear(4, 2), [torch.randn(3, 4)], sparsity=0.5)
        >>> done.masks["weight"].sum(1)
        tensor([2, 2])

    Source: Sun, Liu, Bair and Kolter (2024), with the defaults.
    """
    masks = prune(
        block,
        sparsity,
        criterion=criterion,
        granularity=granularity,
        scope=scope,
        where=where,
        batches=batches,
    )
    weights = {name: parameter.detach() for name, parameter in where(block).items()}
    return Reconstruction(apply(weights, masks), masks)


def by_sparse_gpt(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    grouped: NofM | None = None,
    where: Where = linear,
) -> Reconstruction:
    """Decide a block's masks and weights by SparseGPT, its layers one after the other.

    Example:
        >>> done = by_sparse_gpt(nn.Linear(4, 2), [torch.randn(9, 4)], sparsity=0.5)
        >>> int(done.masks["weight"].sum())
        4

    Source: Frantar and Alistarh (2023), algorithm 1.
    Differs from the authors' code, which prunes all layers of a block on what the dense block
    makes; here each layer sees what the layers before it make once they are pruned.
    """
    return prune_and_reconstruct(block, sparsity, batches, where=where, grouped=grouped)


class _Fed(nn.Module):
    """A block with its hidden states and its settings as two arguments, and one result."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor, settings: Mapping[str, Any]) -> Tensor:
        outputs = self.block(hidden, **settings)
        first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return first
