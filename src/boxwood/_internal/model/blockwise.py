"""Prune a deep network block by block: one block and its inputs are all that must be in memory.

A transformer is a list of blocks, each taking hidden states and some settings (attention mask,
positions) and giving hidden states. Blocks may come from a generator that loads each from a file
and forgets it once it has been saved.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.allocation import Allocation, uniform
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.criteria.activations import wanda
from boxwood._internal.core.granularity import Granularity, NofM, PerRow
from boxwood._internal.core.masks import apply
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.evidence.calibration import Batches, Calibration
from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.reconstruct import Reconstruction, load_, prune_and_reconstruct
from boxwood._internal.model.scoring import Criterion
from boxwood.errors import InvalidInput

Settings = tuple[tuple[Any, ...], Mapping[str, Any]]
"""What a block is called with after its hidden states, by position and by name."""

State = tuple[Tensor, Sequence[Settings]]
"""Hidden states of a batch before the first block, and the settings of every block in turn."""

Decide = Callable[[nn.Module, Batches], Reconstruction]
"""A block, and batches of what it is called with, to new weights and masks."""


class _ReachedError(Exception):
    """The last block has been reached."""


def states_before(model: nn.Module, blocks: Sequence[nn.Module], batches: Batches) -> list[State]:
    """Run a model as far as its blocks, and return what each of them is called with.

    The first block runs, and what it makes is handed on in place of what the later ones would: their
    weights need not be there. Nothing after the blocks is run.

    Args:
        model: in evaluation mode for the time being.
        blocks: modules that the model calls one after the other, each on what the one before made.
        batches: as for `boxwood.find_masks`; of language models, token ids, with ``use_cache=False``.

    Raises:
        InvalidInput: the model does not call the blocks one after the other, or does something to
            the hidden states in between.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        >>> [(hidden, settings)] = states_before(net, net[1:], [torch.ones(5, 2)])
        >>> hidden.shape, settings
        (torch.Size([5, 2]), (((), {}), ((), {})))
    """
    states: list[State] = []
    # The first block's device, since other weights may not be there yet.
    seen = Calibration(model, dict(blocks[0].named_parameters()), batches)
    called: list[tuple[Tensor, Settings]] = []
    with evaluating(model), _handing_on(blocks, called), torch.no_grad():
        for inputs in seen.inputs():
            called.clear()
            with suppress(_ReachedError):
                seen.call(inputs)
            if len(called) < len(blocks):
                raise _not_called(blocks[len(called)], len(called))
            states.append((called[0][0], tuple(settings for _, settings in called)))
    return states


def through_blocks(
    blocks: Iterable[nn.Module], states: Iterable[State], decide: Decide
) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """Prune blocks in order, each on what the pruned blocks before it make.

    Args:
        blocks: modules that take hidden states first, and give them, alone or first in a tuple; a
            generator may load each as it comes.
        states: from `states_before`; none for a criterion that looks at weights alone.
        decide: such as ``partial(by_criterion, sparsity=0.5)`` or
            ``partial(by_sparse_gpt, sparsity=0.5)``.

    Yields:
        Each block with its new weights in it, and its masks by its own names. Save and drop it
        before the next one comes.

    Example:
        >>> from functools import partial
        >>> blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        >>> states = states_before(nn.Sequential(*blocks), blocks, [torch.randn(6, 4)])
        >>> for block, masks in through_blocks(blocks, states, partial(by_criterion, sparsity=0.5)):
        ...     int(masks["weight"].sum()), int((block.weight != 0).sum())
        (8, 8)
        (8, 8)

    Source: Frantar and Alistarh (2023), section 4; Sun, Liu, Bair and Kolter (2024), section 4.
    """
    current = list(states)
    del states  # what a block has read is dropped once it has been read
    places = count()  # enumerate would hold on to the block
    for block in blocks:
        fed, place = _Fed(block), next(places)
        done = decide(fed, [((hidden, *settings[place]), None) for hidden, settings in current])
        load_(fed, done.weights)
        with evaluating(block), torch.no_grad():
            for batch, (hidden, settings) in enumerate(current):
                current[batch] = (fed(hidden, *settings[place]), settings)
        yield block, {name.removeprefix("block."): mask for name, mask in done.masks.items()}
        del block, fed, done  # gone before the next one is loaded


def by_criterion(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    criterion: Criterion = wanda,
    granularity: Granularity = PerRow(),  # noqa: B008 - frozen
    allocation: Allocation = uniform,
    layers: Layers = linear_and_conv,
) -> Reconstruction:
    """Choose a block's masks by a criterion that needs no loss, Wanda by default.

    Example:
        >>> done = by_criterion(nn.Linear(4, 2), [torch.randn(3, 4)], sparsity=0.5)
        >>> done.masks["weight"].sum(1)
        tensor([2, 2])

    Source: Sun, Liu, Bair and Kolter (2024), with the defaults.
    """
    masks = find_masks(
        block,
        sparsity,
        criterion=criterion,
        granularity=granularity,
        allocation=allocation,
        layers=layers,
        batches=batches,
    )
    weights = {name: parameter.detach() for name, parameter in layers(block).items()}
    return Reconstruction(apply(weights, masks), masks)


def by_sparse_gpt(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    grouped: NofM | Blocks | None = None,
    layers: Layers = linear_and_conv,
) -> Reconstruction:
    """Choose a block's masks and weights by SparseGPT, layer by layer.

    Example:
        >>> done = by_sparse_gpt(nn.Linear(4, 2), [torch.randn(9, 4)], sparsity=0.5)
        >>> int(done.masks["weight"].sum())
        4

    Source: Frantar and Alistarh (2023), algorithm 1.
    Differs from the authors' code, which prunes all layers of a block on what the dense block
    makes; here each layer sees what the layers before it make once they are pruned.
    """
    return prune_and_reconstruct(block, sparsity, batches, layers=layers, grouped=grouped)


class _Fed(nn.Module):
    """A block with its hidden states and its settings as arguments, and one result."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor, places: Sequence[Any], names: Mapping[str, Any]) -> Tensor:
        return _first(self.block(hidden, *places, **names))


def _first(outputs: Any) -> Tensor:
    hidden: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return hidden


@contextmanager
def _handing_on(
    blocks: Sequence[nn.Module], called: list[tuple[Tensor, Settings]]
) -> Iterator[None]:
    """Let blocks note what they are called with, and all but the first do nothing else."""
    made: list[Any] = []

    def note(place: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if place != len(called):
            raise _not_called(blocks[len(called)], len(called))
        name = next(iter(inspect.signature(forward).parameters))
        hidden = args[0] if args else kwargs.pop(name)
        if place and not _same(hidden, _first(made[-1])):
            raise InvalidInput(
                f"Expected every block to read the output of the one before, got something else "
                f"for the {type(blocks[place]).__name__} at {place}; give a list of blocks with "
                f"nothing "
                f"between them."
            )
        called.append((hidden.detach(), (args[1:], kwargs)))
        if place + 1 == len(blocks):
            raise _ReachedError
        if not place:
            made[:] = [forward(*args, **kwargs) if args else forward(hidden, **kwargs)]
        return made[-1]

    with ExitStack() as stack:
        for place, block in enumerate(blocks):
            own = vars(block).get("forward")
            block.forward = partial(note, place, block.forward)
            stack.callback(_give_back_, block, own)
        yield


def _give_back_(block: nn.Module, own: Any) -> None:
    if own is None:
        del block.forward
    else:
        block.forward = own


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.data_ptr() == other.data_ptr()


def _not_called(block: nn.Module, place: int) -> InvalidInput:
    return InvalidInput(
        f"Expected blocks that the model calls one after the other, got a {type(block).__name__} at "
        f"{place} that it does not; give its list of layers."
    )
