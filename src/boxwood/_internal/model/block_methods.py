"""More methods to choose a block's masks and weights, and to improve those of other methods.

Each takes a block and batches of what it is called with, as `through_blocks` gives them; nothing
outside the block is looked at.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import NofM
from boxwood._internal.core.masks import apply
from boxwood._internal.model.blockwise import by_criterion
from boxwood._internal.model.evidence.calibration import Batches, Calibration
from boxwood._internal.model.mask_refinement import refine_masks
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.reconstruct import Reconstruction, prune_by_alps, reconstruct
from boxwood.errors import InvalidInput


def by_alps(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    grouped: NofM | Blocks | None = None,
    layers: Layers = linear_and_conv,
) -> Reconstruction:
    """Choose a block's masks and weights by ALPS, layer by layer.

    Example:
        >>> done = by_alps(nn.Linear(4, 2), [torch.randn(9, 4)], sparsity=0.5)
        >>> int(done.masks["weight"].sum())
        4

    Source: Meng, Behdin, Wang and Mazumder (2024), algorithms 1 and 2; see `prune_by_alps`.
    """
    return prune_by_alps(block, sparsity, batches, layers=layers, grouped=grouped)


def by_dsnot(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    start: Callable[..., Reconstruction] = by_criterion,
    grouped: NofM | None = None,
    cycles: int = 50,
    threshold: float = 0.1,
    layers: Layers = linear_and_conv,
) -> Reconstruction:
    """Choose a block's masks by another method, and refine them by DSnoT.

    Kept weights have their values from the dense block, even if ``start`` adjusts them.

    Args:
        block: as for `by_criterion`.
        batches: arguments that the block is called with.
        sparsity: fraction of zeros of every tensor, in [0, 1).
        start: the other method, such as ``Call.of(by_criterion, criterion=magnitude)``.
        grouped: the pattern of ``start``, if it has one.
        cycles: most exchanges in a row.
        threshold: of the expected error; see `refine_masks`.
        layers: which parameters are pruned.

    Example:
        >>> done = by_dsnot(nn.Linear(4, 2), [torch.randn(9, 4)], sparsity=0.5)
        >>> done.masks["weight"].sum(1)
        tensor([2, 2])

    Source: Zhang, Zhao, Lin et al. (2024), "Dynamic sparse no training", algorithm 1; see `refine_masks`.
    """
    found = start(block, batches, sparsity=sparsity, layers=layers)
    masks = refine_masks(
        block, found.masks, batches, grouped=grouped, cycles=cycles, threshold=threshold
    )
    weights = {name: parameter.detach() for name, parameter in layers(block).items()}
    return Reconstruction(apply({name: weights[name] for name in masks}, masks), masks)


def with_least_squares(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    decide: Callable[..., Reconstruction] = by_criterion,
    damping: float = 0.01,
    layers: Layers = linear_and_conv,
) -> Reconstruction:
    """Choose a block's masks by another method, and refit the kept weights by least squares.

    Layer by layer, each row's kept weights minimise ``‖W x - W' x‖² + λ ‖W - W'‖²`` exactly: it
    solves the normal equations of the kept weights. W are the dense weights, x is the output of the
    pruned layers before, and the ridge λ is ``damping`` times the mean over the inputs of
    ``‖x_j‖²``.

    Args:
        block: as for `by_criterion`.
        batches: arguments that the block is called with.
        sparsity: fraction of zeros of every tensor, in [0, 1).
        decide: the other method; its weights are not used.
        damping: the ridge, in units of the mean diagonal of the normal equations; above 0.
        layers: which parameters are pruned.

    Example:
        >>> done = with_least_squares(nn.Linear(4, 2), [torch.randn(9, 4)], sparsity=0.5)
        >>> done.masks["weight"].sum(1)
        tensor([2, 2])

    Source: Hassibi and Stork (1993), per layer as Dong, Chen and Pan (2017); see `reconstruct`.
    """
    masks = decide(block, batches, sparsity=sparsity, layers=layers).masks
    return Reconstruction(reconstruct(block, masks, batches, damping=damping), masks)


def with_tuning(
    block: nn.Module,
    batches: Batches,
    *,
    sparsity: float,
    decide: Callable[..., Reconstruction] = by_criterion,
    steps: int = 32,
    learning_rate: float = 1e-4,
    layers: Layers = linear_and_conv,
) -> Reconstruction:
    """Choose a block's masks and weights by another method, and tune the kept weights.

    Adam minimises the mean squared difference between the outputs of the dense and the pruned
    block, on one batch at a time. Masks, norms and biases do not change. If the error over all
    batches is not lower afterwards, the old weights are used.

    Args:
        block: as for `by_criterion`; the block must return one tensor.
        batches: arguments that the block is called with. The dense block's outputs are kept for all
            of them.
        sparsity: fraction of zeros of every tensor, in [0, 1).
        decide: the other method.
        steps: of Adam, at least 1.
        learning_rate: above 0.
        layers: which parameters are pruned.

    Raises:
        InvalidInput: steps or the learning rate are out of range, or there are no batches.

    Example:
        >>> done = with_tuning(nn.Linear(4, 2), [torch.randn(9, 4)], sparsity=0.5, steps=2)
        >>> bool((done.weights["weight"][~done.masks["weight"]] == 0).all())
        True

    Source: Guo et al. (2024), "EBFT: effective and block-wise fine-tuning for sparse LLMs", equation 2.
    Differs from the paper: the dense block is given the same inputs as the pruned one, where the
    paper's is given what the dense blocks before it make; so one set of hidden states is kept.
    """
    if steps < 1 or not learning_rate > 0:
        raise InvalidInput(
            f"Expected steps >= 1 and a learning rate above 0, got steps={steps}, "
            f"learning_rate={learning_rate}; 32 and 1e-4 are a start."
        )
    done = decide(block, batches, sparsity=sparsity, layers=layers)
    if not done.masks:
        return done
    seen = Calibration(block, layers(block), batches)
    with seen.at_rest():
        with torch.no_grad():
            wanted = [seen.call(inputs) for inputs in seen.inputs()]
        tuned = {name: weight.clone().requires_grad_() for name, weight in done.weights.items()}
        optimizer = torch.optim.Adam(tuned.values(), lr=learning_rate)
        for inputs, outputs in islice(_in_turn(seen, wanted), steps):
            with torch.enable_grad():
                loss = _difference(seen, apply(tuned, done.masks), inputs, outputs)
                gradients = torch.autograd.grad(loss, list(tuned.values()))
            for weight, gradient in zip(tuned.values(), gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
        weights = apply({name: weight.detach() for name, weight in tuned.items()}, done.masks)
        better = _error(seen, weights, wanted) < _error(seen, done.weights, wanted)
    return Reconstruction(weights if better else done.weights, done.masks)


def _in_turn(seen: Calibration, wanted: list[Tensor]) -> Iterator[tuple[Any, Tensor]]:
    """Yield inputs and what the dense block makes of them, repeatedly."""
    while True:
        yield from zip(seen.inputs(), wanted, strict=True)


def _error(seen: Calibration, weights: Mapping[str, Tensor], wanted: list[Tensor]) -> float:
    """Squared error of all outputs."""
    with torch.no_grad():
        return sum(
            float(_difference(seen, weights, inputs, outputs)) * outputs.numel()
            for inputs, outputs in zip(seen.inputs(), wanted, strict=True)
        )


def _difference(
    seen: Calibration, weights: Mapping[str, Tensor], inputs: Any, outputs: Tensor
) -> Tensor:
    """Mean squared difference of a batch's outputs with some weights from what they should be."""
    args, names = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    args = args if isinstance(args, tuple) else (args,)
    made = functional_call(seen.model, dict(weights), args, dict(names))
    return nn.functional.mse_loss(made, outputs)
