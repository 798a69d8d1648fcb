"""Evidence from second derivatives that any network and loss can give."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwood._internal.core.ranks import rank, size
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.model.evidence.activations import check_seen, watching_inputs
from boxwood._internal.model.evidence.calibration import Calibration, accumulator, wide
from boxwood._internal.model.evidence.gradients import derivative_along, gradients_of
from boxwood._internal.model.evidence.second_order import twice_differentiable
from boxwood._internal.model.layer_kinds import layouts_of, linear_kinds
from boxwood.errors import InvalidInput


def hessian_diagonal(seen: Calibration, *, probes: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Hutchinson's estimate of the Hessian's diagonal, ``E[z ⊙ H z]`` over random signs z.

    Each batch of each rank has probes of its own. The error of an entry is ``sqrt(Σ_{l≠k} H_kl² / probes)``:
    none where the Hessian is diagonal, and often larger than the entry with a few probes. A ranking
    needs hundreds in all, over the batches.

    Args:
        seen: with a loss that can be differentiated twice.
        probes: sign vectors per batch, at least 1; each costs one more backward pass.
        seed: another seed, other signs.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> loss = lambda outputs, targets: outputs.square().mean()
        >>> hessian_diagonal(
        ...     Calibration(net, {"weight": net.weight}, [(torch.full((1, 1), 3.0), None)], loss)
        ... )
        {'weight': tensor([[18.]])}

    Source: Bekas, Kokiopoulou and Saad (2007), equation 1.
    """
    if probes < 1:
        raise InvalidInput(
            f"Expected at least 1 probe for Hutchinson's estimate, got {probes}; 8 is the default."
        )
    sums = {name: accumulator(weight) for name, weight in seen.weights.items()}
    examples, ranks, mine = 0, size(seen.group), rank(seen.group)
    with seen.at_rest(), twice_differentiable():
        for turn, (loss, count) in enumerate(seen.losses()):
            examples += count
            batch = turn * ranks + mine  # its place among the batches of all ranks
            first = gradients_of(loss, seen.weights, again=True)
            for probe in range(probes):
                signs = {
                    name: _signs(weight, seed, name, batch * probes + probe)
                    for name, weight in seen.weights.items()
                }
                more = probe + 1 < probes
                product = derivative_along(first, seen.weights, signs, more=more)
                for name, value in product.items():
                    sums[name] += count * signs[name] * value / probes
            del loss, first
    sums, examples = seen.over_ranks(sums, examples)
    return {name: value / examples for name, value in sums.items()}


def input_gram(seen: Calibration) -> dict[str, Tensor]:
    """Hessian of each layer's summed squared error, ``2/n Σ x xᵀ``, [groups, inputs, inputs].

    n counts examples, not positions. The same for every row of weights; for a convolution the
    inputs are those under the kernel, in the order of ``weight.flatten(1)``.

    Raises:
        InvalidInput: a layer is neither linear nor a 1-D or 2-D convolution.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> input_gram(Calibration(net, {"weight": net.weight}, [torch.tensor([[1.0, 2.0]])]))
        {'weight': tensor([[[2., 4.],
                 [4., 8.]]])}

    Source: Frantar and Alistarh (2023), section 3.
    """
    sums: dict[str, Tensor] = {}
    modules = seen.modules(*linear_kinds(), nn.Conv1d, nn.Conv2d)

    def add(layer: nn.Module, inputs: Tensor) -> None:
        columns = unfolded(layer, wide(inputs.detach()))
        found = columns @ columns.transpose(1, 2)
        sums[modules[layer]] = sums[modules[layer]] + found if modules[layer] in sums else found

    with seen.at_rest(), watching_inputs(modules, add):
        examples = seen.run()
    check_seen(modules, sums)
    sums, examples = seen.over_ranks({name: sums[name] for name in seen.weights}, examples)
    return {name: value * (2 / examples) for name, value in sums.items()}


def inverse_hessian_diagonal(seen: Calibration, *, damping: float = 0.01) -> dict[str, Tensor]:
    """Diagonal of the inverse of `input_gram`, made regular by a part of its mean diagonal.

    Args:
        seen: batches of inputs.
        damping: added to the diagonal, in units of its mean; above 0.

    Returns:
        [1, in] for linear layers, or [in, 1] where the weight lies that way; of the weight's shape
        for convolutions.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> batches = [torch.tensor([[1.0, 0.0], [0.0, 2.0]])]
        >>> inverse_hessian_diagonal(Calibration(net, {"weight": net.weight}, batches))
        {'weight': tensor([[0.9756, 0.2484]])}

    Source: Frantar and Alistarh (2023), section 3 and appendix A for the damping.
    """
    layouts = layouts_of(seen.model, seen.weights)
    found = {}
    for name, gram in input_gram(seen).items():
        weight = seen.weights[name]
        inverse = torch.linalg.inv(damped(gram, damping).double())
        diagonal = inverse.diagonal(dim1=1, dim2=2).to(gram.dtype)  # [groups, inputs]
        rows = (
            diagonal
            if weight.dim() == 2
            else diagonal.repeat_interleave(len(weight) // len(gram), 0)
        )
        found[name] = rows.T if name in layouts else rows.view(len(rows), *weight.shape[1:])
    return found


def damped(gram: Tensor, damping: float) -> Tensor:
    """Add ``damping · mean(diagonal)`` to the diagonal of each matrix of a stack.

    An input that is always zero gets a diagonal of 1 before, so that the inverse exists.

    Example:
        >>> damped(torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]), 0.5)
        tensor([[[2., 0.],
                 [0., 4.]]])
    """
    if not damping > 0:
        raise InvalidInput(
            f"Expected a damping above 0, got {damping}; without damping the matrix of linearly "
            f"dependent inputs has no inverse."
        )
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    dead = diagonal == 0
    extra = damping * diagonal.mean(-1, keepdim=True) + dead.to(gram.dtype)
    return gram + torch.diag_embed(extra.expand_as(diagonal))


def unfolded(layer: Any, inputs: Tensor) -> Tensor:
    """Arrange what a layer reads as columns, [groups, inputs under the kernel, examples·positions].

    Args:
        layer: linear, or a 1-D or 2-D convolution.
        inputs: what it reads.

    Example:
        >>> unfolded(nn.Conv1d(1, 1, 2), torch.tensor([[[1.0, 2.0, 3.0]]]))
        tensor([[[1., 2.],
                 [2., 3.]]])
    """
    if isinstance(layer, linear_kinds()):
        return inputs.flatten(0, -2).T.unsqueeze(0)
    # The layer's own padding, whatever its mode, before anything is unfolded.
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    inputs = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    flat = isinstance(layer, nn.Conv1d)
    lead = (1,) * flat
    columns = functional.unfold(
        inputs.unsqueeze(2) if flat else inputs,
        (*lead, *layer.kernel_size),
        dilation=(*lead, *layer.dilation),
        stride=(*lead, *layer.stride),
    )
    grouped: Tensor = columns.view(len(columns), layer.groups, -1, columns.shape[2])
    return grouped.permute(1, 2, 0, 3).flatten(2)


def _signs(weight: Tensor, seed: int, name: str, index: int) -> Tensor:
    generator = generator_for(seed, f"hutchinson/{name}", index)
    bits = torch.randint(0, 2, weight.shape, generator=generator)
    return (2 * bits - 1).to(weight.device, weight.dtype)
