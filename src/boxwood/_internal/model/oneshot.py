"""Choose masks for a whole network in one call."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.agreement import check_same_request, placed, together
from boxwood._internal.core.allocation import Allocation, allocate
from boxwood._internal.core.arguments import check_network, checked_masks
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.granularity import Elements, Granularity, check_granularity, pool_within
from boxwood._internal.core.masks import Masks, apply_, kept, validate
from boxwood._internal.core.placement import check_data
from boxwood._internal.core.ranks import Group
from boxwood._internal.core.schedules import Schedule
from boxwood._internal.core.selection import candidates, select
from boxwood._internal.core.shard_groups import over_shards
from boxwood._internal.model.evidence.calibration import Batches, Calibration, Loss
from boxwood._internal.model.evidence.gathering import Evidence, gather
from boxwood._internal.model.layer_kinds import as_stored, layouts_of, outputs_first
from boxwood._internal.model.prunable import Layers, check_layers, linear_and_conv, parameter_names
from boxwood._internal.model.scoring import Criterion, score
from boxwood.errors import InvalidInput, NoEffect


def find_masks(
    model: nn.Module,
    sparsity: float | None,
    *,
    criterion: Criterion = magnitude,
    granularity: Granularity | None = None,
    allocation: Allocation | None = None,
    layers: Layers = linear_and_conv,
    floor: int = 0,
    masks: Masks | None = None,
    loss: Loss | None = None,
    batches: Batches = (),
    evidence: Evidence | None = None,
    group: Group = None,
) -> dict[str, Tensor]:
    """Choose which weights of a network to keep, without changing the network.

    ``criterion`` scores the weights, ``allocation`` gives each tensor a count, and exactly that
    many of the highest scores are kept.

    Args:
        model: any module.
        sparsity: total fraction of zeros over the tensors of ``layers``, in [0, 1); None if the
            allocation has its own numbers.
        criterion: scores weights, and higher scores are kept; a function of `boxwood.criteria` or
            your own.
        granularity: what is kept or pruned together; single weights by default.
        allocation: how the sparsity is distributed among tensors; one ranking over all tensors by
            default.
        layers: which parameters may be pruned; by default all matrices and kernels, but no biases,
            norms and embeddings.
        floor: keep at least this many weights of every tensor.
        masks: earlier masks; weights that they prune stay pruned, and count as zero for the
            evidence.
        loss: a function of outputs and targets that returns the mean over a batch, for criteria
            that need gradients.
        batches: pairs (inputs, targets), or inputs alone, for criteria that need activations or
            gradients; an iterable that can be read several times.
        evidence: evidence gathered earlier, by the name of the evidence and of the weight; it is
            used unchanged.
        group: ranks of ``torch.distributed`` that hold this network; all ranks by default. With
            several ranks, each passes its own batches and all must make the same call; their
            evidence is added up, and all get the same masks.

    Returns:
        A bool mask per prunable tensor, True where the weight is kept, on the weight's device.

    Raises:
        InvalidInput: the sparsity is out of range or not reachable, a weight is NaN or infinite,
            ``masks`` does not fit the model, or the criterion asks for evidence that the batches,
            the loss or the network cannot give; or ranks hold different weights.

    Warns:
        NoEffect: every weight stays.
        SelectionWarning: the default ``layers`` leaves a matrix out, or finds one that an embedding
            shares; the warning says how to choose.

    Example:
        >>> net = nn.Linear(10, 10)
        >>> masks = find_masks(net, 0.9)
        >>> apply_masks_(net, masks)
        >>> int((net.weight != 0).sum())
        10

    Source: Han, Pool, Tran and Dally (2015), with the defaults.
    """
    check_network(model)
    check_layers(layers)
    granularity = granularity or Elements()
    check_granularity(granularity)
    with together(model.parameters(), group):
        parameters = layers(model)
        asked: dict[str, Any] = {"sparsity": sparsity, "criterion": criterion, "floor": floor}
        asked |= {"granularity": granularity, "allocation": allocation}
        asked["masks"] = sorted(masks or {})
        check_same_request(parameters, asked, group)
        if masks is not None:
            validate(parameter_names(model), masks)
            masks = placed({n: m for n, m in masks.items() if n in parameters}, parameters, group)
        seen = Calibration(model, parameters, batches, loss, masks, group)
        found = gather(evidence_of(criterion), seen, evidence)
        weights: dict[str, Tensor] = {name: p.detach() for name, p in parameters.items()}
        layouts = layouts_of(model, parameters)
        scores = score(weights, criterion, masks=masks, evidence=found, layouts=layouts)
        # From here on rows are outputs, whatever the layer.
        scores = outputs_first(layouts, scores)
        before = outputs_first(layouts, masks or {})
        seen_by = over_shards(granularity)
        groups = {n: pool_within(seen_by, each, before.get(n)) for n, each in scores.items()}
        alive = {name: seen_by.alive(mask) for name, mask in before.items()}
        keep = allocate(groups, sparsity, allocation=allocation, floor=floor, masks=alive)
        chosen = as_stored(layouts, select(scores, keep, granularity, masks=before))
        left = kept(chosen), sum(candidates(weights, masks).values())
    if left[0] == left[1]:
        warnings.warn(
            "Expected pruning to remove weights, got masks that keep all that was there; "
            "ask for a higher sparsity.",
            NoEffect,
            stacklevel=2,
        )
    return chosen


def find_masks_in_rounds(
    model: nn.Module, schedule: Schedule, rounds: int, **settings: Any
) -> dict[str, Tensor]:
    """Prune, score the remaining weights again, and prune further, without training in between.

    Round k = 1 … rounds prunes to ``schedule(k)``. With ``Geometric(final=s, end=n)`` and `synflow`
    this is Iterative Synaptic Flow Pruning, whose density is ``(1 - s)^(k/n)``.

    Args:
        model: any module; it is not changed.
        schedule: total sparsity after each round.
        rounds: number of rounds, at least 1; the paper of SynFlow uses 100.
        settings: as for `find_masks`; the first round starts from ``masks``.

    Example:
        >>> from boxwood.criteria import synflow
        >>> from boxwood.schedules import Geometric
        >>> net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
        >>> rounds = Geometric(final=0.75, end=10)
        >>> masks = find_masks_in_rounds(net, rounds, 10, criterion=synflow, batches=[torch.ones(1, 8)])
        >>> kept(masks)
        32

    Source: Tanaka, Kunin, Yamins and Ganguli (2020), algorithm 1.
    """
    if rounds < 1:
        raise InvalidInput(f"Expected at least 1 round of pruning, got {rounds}; give more.")
    masks = settings.pop("masks", None)
    with warnings.catch_warnings():
        # Early rounds of a slow schedule may prune nothing; only the last one's effect counts.
        warnings.simplefilter("ignore", NoEffect)
        for done in range(1, rounds):
            masks = find_masks(model, schedule(done), masks=masks, **settings)
    return find_masks(model, schedule(rounds), masks=masks, **settings)


@torch.no_grad()
def apply_masks_(model: nn.Module, masks: Masks, *, group: Group = None) -> None:
    """Set weights to zero where the masks are False, in a network or an average of networks.

    Args:
        model: any module, compiled or not.
        masks: bool tensors by parameter name. If parameters are ``DTensor`` shards, give masks of
            the whole network, the same on every rank.
        group: ranks that hold the shards of this network; all ranks by default.

    Raises:
        InvalidInput: a name matches no parameter, or a shape differs; nothing is changed then.
        DistributedError: ranks that hold shards give different masks.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> apply_masks_(net, {"weight": torch.tensor([[True, False]])})
        >>> bool(net.weight[0, 1] == 0)
        True
    """
    check_network(model)
    named = parameter_names(model)
    with together(named.values(), group):
        masks = checked_masks(masks)
        validate(named, masks)
        apply_(named, placed(masks, named, group))


def prune_(model: nn.Module, sparsity: float | None, **settings: Any) -> dict[str, Tensor]:
    """Find masks and apply them to a network: `find_masks`, then `apply_masks_`.

    Args:
        model: any module; its pruned weights become zero.
        sparsity: total fraction of zeros over the tensors that are pruned, in [0, 1).
        settings: as for `find_masks`.

    Returns:
        The masks. An optimizer makes pruned weights nonzero again, unless a `MaskBinding` holds
        them.

    Example:
        >>> net = nn.Linear(10, 10)
        >>> masks = prune_(net, 0.9)
        >>> int((net.weight != 0).sum())
        10

    Source: Han, Pool, Tran and Dally (2015), with the defaults.
    """
    masks = find_masks(model, sparsity, **settings)
    apply_masks_(model, masks, group=settings.get("group"))
    return masks


def masks_from_zeros(model: nn.Module, layers: Layers = linear_and_conv) -> dict[str, Tensor]:
    """Derive masks from a network that another tool pruned: zeros count as pruned.

    Boxwood stores masks separately and never infers them without your knowledge. Use this function
    for weights that come without masks.

    Raises:
        InvalidInput: the network has no zero weights.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = net.weight.copy_(torch.tensor([[0.0, 3.0]]))
        >>> masks_from_zeros(net)
        {'weight': tensor([[False,  True]])}
    """
    parameters = layers(model)
    check_data(parameters)
    masks = {name: p.detach() != 0 for name, p in parameters.items()}
    if kept(masks) == sum(mask.numel() for mask in masks.values()):
        raise InvalidInput(
            "Expected a network with zero weights, got none; use find_masks() to choose masks."
        )
    return masks
