"""The empirical Fisher matrix in small blocks along the inputs of every output."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from boxwood._internal.core.block_surgery import inverse_diagonals, rises
from boxwood._internal.model.evidence.calibration import Calibration, wide
from boxwood._internal.model.evidence.gradients import gradients_of
from boxwood._internal.model.layer_kinds import Layouts, layouts_of
from boxwood.errors import InvalidInput


def fisher_blocks(
    seen: Calibration, *, block: int = 50, damping: float = 1e-5, singly: bool = True
) -> dict[str, Tensor]:
    """Blocks of the empirical Fisher matrix, ``1/N Σ_n g_n g_nᵀ + damping · I``.

    The weights of every output, [inputs · kernel], are cut into blocks of about equal length. What
    masks prune has no gradient here. The blocks take ``block`` times the memory of the weights.

    Args:
        seen: with a loss.
        block: most weights in a block, at least 1.
        damping: above 0.
        singly: gradients of single examples; otherwise of batches, which are fewer and noisier.

    Returns:
        [blocks, n, n] for each weight, at least float32.

    Raises:
        InvalidInput: ``block`` or ``damping`` is out of range.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> loss = lambda outputs, targets: outputs.mean()
        >>> batches = [(torch.tensor([[1.0, 2.0]]), None)]
        >>> fisher_blocks(Calibration(net, {"weight": net.weight}, batches, loss), damping=1.0)
        {'weight': tensor([[[2., 2.],
                 [2., 5.]]])}

    Source: Singh and Alistarh (2020), section 3; Kurtic et al. (2022), section 3, for blocks as
    small as 50.
    """
    if block < 1 or not damping > 0:
        raise InvalidInput(
            f"Expected block >= 1 and damping > 0, got {block} and {damping}; the papers take "
            f"50 and 1e-7 to 1e-5."
        )
    layouts, masks = layouts_of(seen.model, seen.weights), seen.masks or {}
    sums: dict[str, Tensor] = {}
    count = 0
    with seen.at_rest():
        for loss, _ in seen.losses(singly=singly):
            count += 1
            for name, gradient in gradients_of(loss, seen.weights).items():
                kept = gradient
                if name in masks:
                    kept = gradient.masked_fill(~masks[name].to(gradient.device), 0)
                rows = cut(wide(turned(kept, name, layouts)), block)
                outer = rows.unsqueeze(2) * rows.unsqueeze(1)
                sums[name] = sums[name] + outer if name in sums else outer
            del loss
    sums, count = seen.over_ranks(sums, count)
    for name, each in sums.items():
        each /= count
        each.diagonal(dim1=1, dim2=2).add_(damping)
        sums[name] = each
    return sums


def inverse_fisher_diagonal(
    seen: Calibration, *, block: int = 50, damping: float = 1e-5
) -> dict[str, Tensor]:
    """Diagonal of the inverse of `fisher_blocks`, of each weight's shape.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> loss = lambda outputs, targets: outputs.mean()
        >>> batches = [(torch.tensor([[1.0, 0.0]]), None)]
        >>> seen = Calibration(net, {"weight": net.weight}, batches, loss)
        >>> inverse_fisher_diagonal(seen, damping=1.0)
        {'weight': tensor([[0.5000, 1.0000]])}
    """
    layouts = layouts_of(seen.model, seen.weights)
    found = {}
    for name, fisher in fisher_blocks(seen, block=block, damping=damping).items():
        diagonal = inverse_diagonals(fisher.double()).to(fisher.dtype)
        found[name] = joined(diagonal, seen.weights[name], name, layouts)
    return found


def elimination_cost(
    seen: Calibration, *, block: int = 50, damping: float = 1e-5
) -> dict[str, Tensor]:
    """What each weight costs when the weights of its block go one after the other, cheapest first.

    See `boxwood._internal.core.block_surgery.rises`.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = net.weight.data.fill_(2.0)
        >>> loss = lambda outputs, targets: outputs.mean() / 2
        >>> batches = [(torch.tensor([[1.0]]), None)]
        >>> seen = Calibration(net, {"weight": net.weight}, batches, loss)
        >>> elimination_cost(seen, damping=0.25)  # ½ (¼ + ¼) 2²
        {'weight': tensor([[1.]])}
    """
    layouts, masks = layouts_of(seen.model, seen.weights), seen.masks or {}
    found = {}
    for name, fisher in fisher_blocks(seen, block=block, damping=damping).items():
        weight = seen.weights[name].detach()
        mask = masks[name].to(weight.device) if name in masks else torch.ones_like(weight, dtype=torch.bool)  # fmt: skip
        parts = [cut(turned(each, name, layouts), block) for each in (weight, mask)]
        costs = rises(parts[0].double(), fisher.double(), parts[1])
        found[name] = joined(costs.to(fisher.dtype), weight, name, layouts)
    return found


def cut(tensor: Tensor, block: int) -> Tensor:
    """Cut the rows of a tensor [outputs, ...] into blocks, filled up with zeros, [blocks, n].

    Example:
        >>> cut(torch.arange(5.0).view(1, 5), 3)
        tensor([[0., 1., 2.],
                [3., 4., 0.]])
    """
    rows = tensor.reshape(len(tensor), -1)
    parts = math.ceil(rows.shape[1] / block)
    length = math.ceil(rows.shape[1] / parts)
    return pad(rows, (0, parts * length - rows.shape[1])).reshape(-1, length)


def turned(tensor: Tensor, name: str, layouts: Layouts) -> Tensor:
    """Let outputs be first, wherever the layer of that name stores them.

    Example:
        >>> turned(torch.zeros(2, 3), "weight", {}).shape
        torch.Size([2, 3])
    """
    return layouts[name].outputs_first(tensor) if name in layouts else tensor


def joined(blocks: Tensor, like: Tensor, name: str, layouts: Layouts) -> Tensor:
    """Undo `cut` and `turned`.

    Example:
        >>> joined(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.zeros(1, 3), "weight", {})
        tensor([[0., 1., 2.]])
    """
    shape = turned(like, name, layouts).shape
    rows = blocks.reshape(shape[0], -1)[:, : math.prod(shape[1:])].reshape(shape)
    return layouts[name].as_stored(rows) if name in layouts else rows
