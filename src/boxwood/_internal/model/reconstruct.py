"""Prune a network layer by layer, and adjust the remaining weights to preserve each layer's outputs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from boxwood._internal.core.allocation import keep_of
from boxwood._internal.core.alps import alps
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import Elements, NofM
from boxwood._internal.core.masks import Masks, validate
from boxwood._internal.core.placement import check_data, check_whole
from boxwood._internal.core.ranks import Group, all_or_none, as_first_rank
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.core.shards import placed_like
from boxwood._internal.core.surgeon import adjust, count_groups, sparse_gpt
from boxwood._internal.model.evidence.activations import sharing_input
from boxwood._internal.model.evidence.calibration import Batches, Calibration
from boxwood._internal.model.evidence.curvature import damped, input_gram
from boxwood._internal.model.evidence.gathering import check_same_network
from boxwood._internal.model.layer_kinds import layouts_of, outputs_first
from boxwood._internal.model.prunable import Layers, linear_and_conv, parameter_names
from boxwood.errors import InvalidInput


class Reconstruction(NamedTuple):
    """New weights by name, zero where the masks of the same names are False."""

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]


Solve = Callable[[str, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A name, weights [groups, rows, n] and Hessians [groups, n, n], to new weights and their mask."""


def reconstruct(
    model: nn.Module,
    masks: Masks,
    batches: Batches,
    *,
    damping: float = 0.01,
    group: Group = None,
) -> dict[str, Tensor]:
    """Adjust the kept weights so that every layer's outputs change least.

    Each layer's squared error ``‖W x - W' x‖²`` over the batches is minimal for its mask (up to the
    damping), with x the output of the layers before it after their own adjustment.

    Args:
        model: with linear, 1-D or 2-D convolution layers; it is not changed.
        masks: from any criterion.
        batches: inputs, or (inputs, targets); read once for every input that layers share.
        damping: added to the diagonal of each layer's Hessian, in units of its mean; above 0.
        group: ranks of ``torch.distributed`` that hold this network, each with batches of its own,
            as for `boxwood.find_masks`; all get the same weights.

    Returns:
        New weights by name; `load_` puts them into the model.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 1.0]]))
        >>> masks = {"weight": torch.tensor([[False, True]])}
        >>> same = [torch.tensor([[1.0, 1.0], [2.0, 2.0]])]  # the two inputs always agree
        >>> new = reconstruct(net, masks, same, damping=1e-6)
        >>> [round(each, 3) for each in new["weight"][0].tolist()]
        [0.0, 2.0]

    Source: Hassibi and Stork (1993), per layer as Dong, Chen and Pan (2017).
    """
    parameters = parameter_names(model)
    validate(parameters, masks)
    chosen = {name: parameters[name] for name in masks}
    shown = outputs_first(layouts_of(model, chosen), masks)

    def solve(name: str, weight: Tensor, hessians: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        mask = shown[name].to(weight.device).view(weight.shape)
        parts = [adjust(*each) for each in zip(weight, hessians, mask, strict=True)]
        return torch.stack(parts), mask

    return _layer_by_layer(model, chosen, batches, solve, damping, group).weights


def prune_and_reconstruct(
    model: nn.Module,
    sparsity: float,
    batches: Batches,
    *,
    layers: Layers = linear_and_conv,
    grouped: NofM | Blocks | None = None,
    keep: Mapping[str, int] | None = None,
    block: int = 128,
    damping: float = 0.01,
    group: Group = None,
) -> Reconstruction:
    """Prune every layer by SparseGPT, which chooses masks and adjusts weights together.

    Args:
        model: with linear, 1-D or 2-D convolution layers; it is not changed.
        sparsity: fraction of zeros of every tensor, in [0, 1).
        batches: inputs, or (inputs, targets); read once for every input that layers share.
        layers: which parameters are pruned, in the order in which the layers run.
        grouped: n of m consecutive inputs, or blocks.
        keep: counts of weights or blocks by name instead of the sparsity, such as from `allocate`.
        block: columns for which one mask is chosen at once.
        damping: added to the diagonal of each layer's Hessian, in units of its mean; above 0.
        group: as for `reconstruct`.

    Weights whose input is zero in all of ``batches`` become zero first, and so are pruned first.

    Example:
        >>> net = nn.Linear(8, 4)
        >>> done = prune_and_reconstruct(net, 0.5, [torch.randn(32, 8)], grouped=NofM(2, 4))
        >>> load_(net, done.weights)
        >>> int((net.weight != 0).sum())
        16

    Source: Frantar and Alistarh (2023), algorithm 1.
    """
    prune = partial(sparse_gpt, block=block)
    return _pruned(
        model, sparsity, batches, "SparseGPT", prune, layers, grouped, keep, damping, group
    )


def prune_by_alps(
    model: nn.Module,
    sparsity: float,
    batches: Batches,
    *,
    layers: Layers = linear_and_conv,
    grouped: NofM | Blocks | None = None,
    keep: Mapping[str, int] | None = None,
    rho: float = 0.1,
    rounds: int = 300,
    refinements: int = 10,
    damping: float = 0.01,
    group: Group = None,
) -> Reconstruction:
    """Prune every layer by ALPS: masks and weights from ADMM, then conjugate gradients.

    It takes about ten times as long as SparseGPT, and leaves less error in the layers: 0.7 to 0.8
    of SparseGPT's in a small language model.

    Args:
        model: with linear, 1-D or 2-D convolution layers; it is not changed.
        sparsity: fraction of zeros of every tensor, in [0, 1).
        batches: inputs, or (inputs, targets); read once for every input that layers share.
        layers: which parameters are pruned, in the order in which the layers run.
        grouped: n of m consecutive inputs, or blocks.
        keep: counts of weights or blocks by name instead of the sparsity, such as from `allocate`.
        rho: penalty of the first rounds, above 0, for a Hessian with a diagonal of ones.
        rounds: most rounds of ADMM, at least 1.
        refinements: steps of conjugate gradients on the chosen weights, at least 0.
        damping: added to the diagonal of each layer's Hessian, in units of its mean; above 0.
        group: as for `reconstruct`.

    Weights whose input is zero in all of ``batches`` become zero first, as in SparseGPT.

    Example:
        >>> net = nn.Linear(8, 4)
        >>> done = prune_by_alps(net, 0.5, [torch.randn(32, 8)], grouped=NofM(2, 4))
        >>> done.masks["weight"].view(4, 2, 4).sum(2).unique()
        tensor([2])

    Source: Meng, Behdin, Wang and Mazumder (2024), algorithms 1 and 2.
    Differs from the authors' code, whose layers all see what the dense block makes; here each sees
    what the layers before it make once they are pruned.
    """
    prune = partial(alps, rho=rho, rounds=rounds, refinements=refinements)
    return _pruned(model, sparsity, batches, "ALPS", prune, layers, grouped, keep, damping, group)


def _pruned(
    model: nn.Module,
    sparsity: float,
    batches: Batches,
    method: str,
    prune: Callable[..., tuple[Tensor, Tensor]],
    layers: Layers,
    grouped: NofM | Blocks | None,
    keep: Mapping[str, int] | None,
    damping: float,
    group: Group,
) -> Reconstruction:
    """Prune every layer by a function of a matrix, its Hessian and the number to keep."""
    check_sparsity(sparsity)
    parameters = layers(model)
    missing = [name for name in parameters if keep is not None and name not in keep]
    if missing:
        raise InvalidInput(
            f"Expected counts for every tensor of layers=, got none for {missing[0]!r}; give both "
            f"the same tensors."
        )
    flat = {name: torch.empty(weight.shape, device="meta") for name, weight in parameters.items()}
    shapes = {n: t.shape for n, t in outputs_first(layouts_of(model, parameters), flat).items()}
    for name, shape in shapes.items():
        if isinstance(grouped, NofM) and shape[1] % grouped.m:
            raise InvalidInput(
                f"Expected inputs in multiples of {grouped.m} for {grouped.n}:{grouped.m} by "
                f"{method}, got {name!r} of shape {tuple(shape)}; leave it out with layers=."
            )

    def solve(name: str, weight: Tensor, hessians: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        groups, rows, columns = weight.shape
        inputs = columns if grouped is None else shapes[name][1]
        order = by_position(columns, inputs).to(weight.device)
        weight = weight.masked_fill(dead[:, None], 0)[..., order]
        if inputs < columns:
            hessians = hessians[:, order][..., order]
        if keep is None:
            each = count_groups(grouped or Elements(), (rows, inputs, columns // inputs))
            count = keep_of(groups * each, sparsity)
        else:
            count = keep[name]
        ends = [round(count * g / groups) for g in range(groups + 1)]
        parts = [
            prune(part, hessian, end - start, grouped=grouped, inputs=inputs)
            for part, hessian, (start, end) in zip(weight, hessians, pairwise(ends), strict=True)
        ]
        back = order.argsort()
        new, masks = (torch.stack(each)[..., back] for each in zip(*parts, strict=True))
        return new, masks

    return _layer_by_layer(model, parameters, batches, solve, damping, group)


@torch.no_grad()
def load_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the parameters of the same names.

    Raises:
        InvalidInput: a name matches no parameter, or a shape differs; nothing is changed then.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> load_(net, {"weight": torch.tensor([[2.0]])})
        >>> net.weight.item()
        2.0
    """
    parameters = parameter_names(model)
    for name, weight in weights.items():
        if name not in parameters or parameters[name].shape != weight.shape:
            raise InvalidInput(
                f"Expected weights of the model's names and shapes, got {name!r} of shape "
                f"{tuple(weight.shape)}; give weights that were made from this model."
            )
    check_data({name: parameters[name] for name in weights})
    for name, weight in weights.items():
        parameters[name].copy_(placed_like(weight, parameters[name]))


def by_position(columns: int, inputs: int) -> Tensor:
    """Order the columns of a flattened kernel by position, each with its inputs in a row.

    Groups of inputs run along the inputs, which a kernel's positions keep apart.

    Example:
        >>> by_position(6, 3)  # a kernel of two positions
        tensor([0, 2, 4, 1, 3, 5])
    """
    return torch.arange(columns).view(inputs, -1).T.flatten()


def _layer_by_layer(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches,
    solve: Solve,
    damping: float,
    group: Group,
) -> Reconstruction:
    found, masks = {}, {}
    layouts = layouts_of(model, weights)
    check_whole(weights)
    seen = Calibration(model, weights, batches, group=group)
    with all_or_none(group), _restoring(weights), torch.no_grad():
        check_same_network(seen)
        for alike in sharing_input(seen):
            first = replace(seen, weights={alike[0]: weights[alike[0]]})
            gram = input_gram(first)[alike[0]]
            dead = gram.diagonal(dim1=-2, dim2=-1) == 0
            hessians = damped(gram, damping)
            for name in alike:
                weight, layout = weights[name], layouts.get(name)
                shown = weight if layout is None else layout.outputs_first(weight)
                rows = shown.to(hessians.dtype).reshape(len(hessians), -1, hessians.shape[-1])
                solved = (as_first_rank(each, group) for each in solve(name, rows, hessians, dead))
                new, mask = (each.view(shown.shape) for each in solved)
                if layout is not None:
                    new, mask = layout.as_stored(new), layout.as_stored(mask)
                masks[name] = mask
                weight.data = found[name] = new.to(weight.dtype)
    return Reconstruction(found, masks)


@contextmanager
def _restoring(weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    before = {name: weight.data for name, weight in weights.items()}
    try:
        yield
    finally:
        for name, weight in weights.items():
            weight.data = before[name]
