"""Units that pruning left without inputs or outputs, and how to remove them."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from boxwood._internal.core.placement import check_whole
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.feedforward import Link, chain
from boxwood._internal.model.named_masks import by_parameter
from boxwood._internal.model.steps import Pointwise, Pool, Step
from boxwood.errors import UnsupportedModel


@dataclass(frozen=True)
class DeadRemoval:
    """The result of `remove_dead`: new masks, new biases, and the units that were removed.

    Args:
        masks: the given masks with fewer weights kept, and a new mask for every weight that had
            none and lost entries.
        biases: the new values of the biases that change, by parameter name.
        removed: number of removed units by layer, for all layers except the last.
        kept_constant: number of units without inputs that are kept, by layer, because their
            constant output cannot be moved exactly into the next bias.

    Example:
        >>> DeadRemoval({}, {}, {"fc1": 2}, {"fc1": 0}).removed
        {'fc1': 2}
    """

    masks: dict[str, Tensor]
    biases: dict[str, Tensor]
    removed: dict[str, int]
    kept_constant: dict[str, int]


@torch.no_grad()
def remove_dead(
    model: nn.Module, masks: Mapping[str, Tensor], example_shape: tuple[int, ...]
) -> DeadRemoval:
    """Also prune the outputs of units without kept inputs, and the inputs of units without kept outputs.

    A unit is an output of a linear layer or a filter of a convolution. The outputs of the last
    layer and the inputs of the network are kept. A unit without inputs emits the constant
    ``f(bias)``, so ``weight · f(bias)`` is added to the next bias. A unit without outputs loses its
    inputs, and its bias becomes zero. The network computes the same in evaluation mode. If the next
    layer has no bias or pads with zeros, or if average pooling counts its padding, the constant
    cannot be moved and the unit is kept, unless the constant is zero.

    Args:
        model: a plain feed-forward network; it is not changed.
        masks: bool masks by parameter name, True keeps; a weight without one is kept.
        example_shape: shape of one input, without a batch axis.

    Raises:
        UnsupportedModel: the network is not a plain chain, does not accept that shape, or flattens
            several examples into one; or a mask does not fit.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> done = remove_dead(net, {"0.weight": torch.tensor([[True], [False]])}, (1,))
        >>> done.removed, done.masks["2.weight"]
        ({'0': 1}, tensor([[ True, False]]))

    Reference: Han et al. 2015, arXiv:1506.02626, section 3.5.

    Differs from the paper: the paper leaves dead units to weight decay; here they go at once, and
    the output of a unit that has a bias and no inputs is accounted for.
    """
    check_whole(dict(model.named_parameters()))
    links = chain(model)
    _check_flattening(model, links, example_shape)
    mask_of = by_parameter(model, masks)
    kept = [_mask(link, mask_of) for link in links]
    biases = [_bias(link) for link in links]
    before = _sides(links, kept)
    _fold_constants_(links, kept, biases)
    _drop_unread_(links, kept, biases)
    after = _sides(links, kept)
    lost = (
        (link, mask)
        for link, mask in zip(links, kept, strict=True)
        if link.layer.weight in mask_of or not mask.all()
    )
    changed = (
        (link, bias)
        for link, bias in zip(links, biases, strict=True)
        if link.layer.bias is not None and not torch.equal(bias, link.layer.bias)
    )
    return DeadRemoval(
        masks=dict(masks) | {f"{link.name}.weight": mask for link, mask in lost},
        biases={f"{link.name}.bias": bias for link, bias in changed},
        removed={
            name: int(((was.reads | was.feeds) & ~now.reads & ~now.feeds).sum())
            for (name, was), now in zip(before.items(), after.values(), strict=True)
        },
        kept_constant={name: int((now.feeds & ~now.reads).sum()) for name, now in after.items()},
    )


@torch.no_grad()
def remove_dead_(
    model: nn.Module, masks: Mapping[str, Tensor], example_shape: tuple[int, ...]
) -> DeadRemoval:
    """Remove dead units from a model: set its biases, and set every pruned weight to zero.

    Args:
        model: a plain feed-forward network.
        masks: bool masks by parameter name, True keeps; a weight without one is kept.
        example_shape: shape of one input, without a batch axis.

    Returns:
        The result of ``remove_dead``. Continue to train with its masks.

    Raises:
        UnsupportedModel: as ``remove_dead``; nothing is changed then.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> done = remove_dead_(net, {"0.weight": torch.tensor([[True], [False]])}, (1,))
        >>> net[2].weight[0, 1].item()
        0.0
    """
    done = remove_dead(model, masks, example_shape)
    set_biases_(model, done)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in done.masks.items():
        parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)
    return done


@torch.no_grad()
def set_biases_(model: nn.Module, done: DeadRemoval) -> None:
    """Set the biases that a removal changes.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> set_biases_(net, DeadRemoval({}, {"bias": torch.zeros(1)}, {}, {}))
        >>> net.bias.item()
        0.0
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, bias in done.biases.items():
        parameters[name].copy_(bias)


@dataclass(frozen=True)
class _Sides:
    """Per unit of a layer: whether it reads any input, whether it feeds the next layer."""

    reads: Tensor
    feeds: Tensor


def _mask(link: Link, mask_of: Mapping[Tensor, Tensor]) -> Tensor:
    weight = link.layer.weight
    mask = mask_of.get(weight)
    if mask is None:
        return torch.ones_like(weight, dtype=torch.bool)
    return mask.to(weight.device, copy=True).contiguous()


def _bias(link: Link) -> Tensor:
    """Return a copy of the bias, zeros for none."""
    weight, bias = link.layer.weight, link.layer.bias
    return weight.new_zeros(len(weight)) if bias is None else bias.detach().clone()


def _sides(links: tuple[Link, ...], kept: list[Tensor]) -> dict[str, _Sides]:
    return {
        link.name: _Sides(_reads(mask), _feeds(next_mask, fed, len(mask)))
        for (link, fed), (mask, next_mask) in zip(pairwise(links), pairwise(kept), strict=True)
    }


def _reads(mask: Tensor) -> Tensor:
    return mask.flatten(1).any(1)


def _feeds(mask: Tensor, fed: Link, units: int) -> Tensor:
    return _by_input(mask, fed, units).any(3).any(1).flatten()


def _by_input(weights: Tensor, fed: Link, units: int) -> Tensor:
    """View the weights of a layer as [group, output, input unit, weight of that pair]."""
    groups = fed.layer.groups if isinstance(fed.layer, nn.Conv2d) else 1
    return weights.view(groups, len(weights) // groups, units // groups, -1)


def _fold_constants_(links: tuple[Link, ...], kept: list[Tensor], biases: list[Tensor]) -> None:
    """Move what units without inputs emit into the next biases, first layer first."""
    for place, fed in enumerate(links[1:]):
        units = len(biases[place])
        constant, same_everywhere = _emitted(biases[place], fed.before)
        adds = fed.layer.bias is not None and same_everywhere & (not _pads_with_zeros(fed.layer))
        gone = ~_reads(kept[place]) & ((constant == 0) | adds)
        groups = _by_input(fed.layer.weight.masked_fill(~kept[place + 1], 0), fed, units)
        moved = torch.where(gone, constant, 0).view(len(groups), -1, 1)
        bias = biases[place + 1]
        added = (groups.sum(3, dtype=torch.float64) @ moved).flatten()
        biases[place + 1] = (bias + added).to(bias.dtype)
        _by_input(kept[place + 1], fed, units).logical_and_(~gone.view(len(groups), 1, -1, 1))


def _drop_unread_(links: tuple[Link, ...], kept: list[Tensor], biases: list[Tensor]) -> None:
    """Take the inputs and the bias from units that nothing reads, last layer first."""
    for place in reversed(range(len(links) - 1)):
        unread = ~_feeds(kept[place + 1], links[place + 1], len(biases[place]))
        kept[place][unread] = False
        biases[place][unread] = 0


def _emitted(bias: Tensor, steps: tuple[Step, ...]) -> tuple[Tensor, Tensor]:
    """Return what units without inputs emit, and whether it is the same at every position."""
    value = bias.double().clone()
    same = torch.ones_like(value, dtype=torch.bool)
    for step in steps:
        if isinstance(step, Pointwise):
            value = step.apply(value)
        elif isinstance(step, Pool) and not step.keeps_constant:
            same = same & (value == 0)
    return value, same


def _pads_with_zeros(layer: nn.Linear | nn.Conv2d) -> bool:
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" and layer.kernel_size != (1, 1)
    return any(layer.padding)


def _check_flattening(
    model: nn.Module, links: tuple[Link, ...], example_shape: tuple[int, ...]
) -> None:
    """Check, on shapes alone, that flattened channels of one image make one row."""
    examples = 2
    entering: dict[str, torch.Size] = {}
    hooks = [
        link.layer.register_forward_pre_hook(
            lambda _, args, name=link.name: entering.update({name: args[0].shape})
        )
        for link in links
    ]
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    kind = links[0].layer.weight.dtype
    example = torch.empty(examples, *example_shape, dtype=kind, device="meta")
    try:
        with evaluating(model):
            functional_call(model, state, (example,))
    except RuntimeError as error:
        raise UnsupportedModel(
            f"Expected the shape of an input that the network takes, got {example_shape} "
            f"({error}); give the shape of one example, without a batch axis."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    for feeding, fed in pairwise(links):
        images, rows = entering[feeding.name][0], entering[fed.name][0]
        if isinstance(feeding.layer, nn.Conv2d) and images != rows:
            raise UnsupportedModel(
                f"Expected {fed.name!r} to be given one row per image of {feeding.name!r}, got "
                f"{rows} rows for {images} images; flatten with `x.flatten(1)`."
            )
