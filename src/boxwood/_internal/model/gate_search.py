"""Search the filters of every layer with gates that are learned under a budget."""

import copy
import glob
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from boxwood._internal.core.allocation import ByName
from boxwood._internal.core.arguments import check_network
from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.core.seeds import generator_for, seed_for
from boxwood._internal.model.evidence.activations import gated, norm_after, outputs_of
from boxwood._internal.model.evidence.calibration import Batches, Calibration, Loss
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood.errors import InvalidInput


class GateSearch(NamedTuple):
    """The result of a search for filters.

    Args:
        allocation: the sparsity of each tensor, in filters; for ``granularity=Slices()``.
        gates: z of each filter at the end, in [0, 1], by the name of the weight.
    """

    allocation: ByName
    gates: dict[str, Tensor]


def chipnet(
    model: nn.Module,
    sparsity: float,
    *,
    batches: Batches,
    loss: Loss,
    epochs: int,
    layers: Layers = linear_and_conv,
    rate: float = 1e-3,
    decay: float = 1e-3,
    budget_weight: float = 30.0,
    crispness_weight: float = 10.0,
    seed: int = 0,
) -> GateSearch:
    """Learn how many filters each layer keeps, under a budget of weights.

    Every filter has a gate z on its output, after the batch norm that reads it if there is one:

    ``y = 1 / (1 + exp(-β ψ))`` and ``z = 1 - exp(-γ y) + y exp(-γ)``.

    ψ and the weights of a copy of the network are trained by AdamW on the loss, plus
    ``crispness_weight · mean (y - z)²``, plus ``budget_weight · (V - (1 - sparsity))²`` with V the
    fraction of weights in filters whose gate, rounded by a steep logistic curve around ½, is open.
    β and γ grow from epoch to epoch, so that gates approach 0 and 1. At the end one threshold on z
    over all layers keeps as many filters as the budget allows, at least one of each tensor.

    Args:
        model: a trained network, which is not changed.
        sparsity: of the weights of ``layers``, in [0, 1).
        batches: (inputs, targets), read once an epoch; something that can be read several times.
        loss: outputs and targets to the mean over a batch.
        epochs: at least 1; 20 in the paper.
        layers: linear layers and convolutions whose outputs get gates; leave out the last one.
        rate: learning rate of weights and gates.
        decay: weight decay of the weights.
        budget_weight: α₂, at least 0.
        crispness_weight: α₁, at least 0.
        seed: of the first gates and of dropout.

    Returns:
        Sparsities as an allocation, and the gates.

    Raises:
        InvalidInput: a setting is out of range, or a layer is of another kind.

    Example:
        >>> from boxwood import find_masks
        >>> from boxwood.granularity import Slices
        >>> from boxwood.layers import Named
        >>> from boxwood.training import cross_entropy
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> hidden = Named(("0.weight",))
        >>> found = chipnet(net, 0.5, batches=data, loss=cross_entropy, epochs=2, layers=hidden)
        >>> masks = find_masks(net, None, allocation=found.allocation, granularity=Slices(), layers=hidden)
        >>> int(masks["0.weight"].any(1).sum())
        4

    Source: Tiwari, Bamba, Chavan and Gupta (2021), equations 2 to 6 and algorithm 1.
    Differs from the paper: the budget counts the weights of gated filters, and not those that read
    them. Fine-tune with `boxwood.training` afterwards.
    """
    check_network(model)
    check_sparsity(sparsity)
    if epochs < 1 or not min(rate, decay, budget_weight, crispness_weight) >= 0:
        raise InvalidInput(
            f"Expected epochs >= 1, and rate, decay, budget_weight and crispness_weight >= 0, got "
            f"{epochs}, {rate}, {decay}, {budget_weight} and {crispness_weight}; correct them."
        )
    trained = copy.deepcopy(model)
    weights = layers(trained)
    seen = Calibration(trained, weights, batches, loss)
    outputs = outputs_of(seen)
    sizes = {name: weights[name].numel() // count for name, count in outputs.items()}
    psi = {}
    for name, count in outputs.items():
        first = 0.01 * torch.rand(count, generator=generator_for(seed, f"chipnet/{name}"))
        psi[name] = first.to(weights[name].device).requires_grad_()
    learning = [p for p in trained.parameters() if p.requires_grad]
    groups = [
        {"params": learning, "weight_decay": decay},
        {"params": list(psi.values()), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    with seen.at_rest():
        follows = norm_after(seen)
    devices = devices_of((*trained.parameters(), *trained.buffers()))
    trained.train()
    beta, gamma, rounding = 1.0, 2.0, 10.0  # and how they grow: as in the authors' code
    with own_random_numbers(devices, seed=seed_for(seed, "chipnet")):
        for _ in range(epochs):
            now = beta, gamma, rounding
            with gated(seen, follows, lambda name, now=now: gates(psi[name], *now[:2])[1]):  # type: ignore[misc]
                for error, _ in seen.losses():
                    crispness, volume = _penalties(psi, sizes, *now)
                    missed = (volume - (1 - sparsity)).square()
                    optimizer.zero_grad()
                    (error + crispness_weight * crispness + budget_weight * missed).backward()
                    optimizer.step()
            beta = min(6.0, beta + 0.02)
            gamma = min(256.0, gamma * 2**0.5)
            rounding = min(60.0, rounding + 5)
    found = {name: gates(each.detach(), beta, gamma)[1] for name, each in psi.items()}
    return GateSearch(_allocated(found, sizes, 1 - sparsity), found)


def gates(psi: Tensor, beta: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Return y, the logistic curve of ψ, and z, its image under a continuous Heaviside function.

    Example:
        >>> gates(torch.tensor([0.0]), 1.0, 0.0)
        (tensor([0.5000]), tensor([0.5000]))

    Source: Tiwari, Bamba, Chavan and Gupta (2021), equations 2 and 3.
    """
    y = torch.sigmoid(beta * psi)
    return y, 1 - torch.exp(-gamma * y) + y * math.exp(-gamma)


def _penalties(
    psi: Mapping[str, Tensor], sizes: Mapping[str, int], beta: float, gamma: float, rounding: float
) -> tuple[Tensor, Tensor]:
    """Crispness, and the fraction of weights of open gates."""
    unclear, kept, every = [], [], 0
    for name, each in psi.items():
        y, z = gates(each, beta, gamma)
        unclear.append((y - z).square())
        kept.append(sizes[name] * torch.sigmoid(rounding * (z - 0.5)).sum())
        every += sizes[name] * len(each)
    return torch.cat(unclear).mean(), torch.stack(kept).sum() / every


def _allocated(found: Mapping[str, Tensor], sizes: Mapping[str, int], density: float) -> ByName:
    """Keep the most open gates of all tensors that the budget holds, and one of each."""
    budget = density * sum(sizes[name] * len(each) for name, each in found.items())
    keep = dict.fromkeys(found, 1)
    budget -= sum(sizes[name] for name in found)
    rest = [(z, name) for name, each in found.items() for z in each.sort().values[:-1].tolist()]
    for _, name in sorted(rest, key=lambda pair: -pair[0]):
        budget -= sizes[name]
        if budget < -0.5 * sizes[name]:
            break
        keep[name] += 1
    rows = tuple((glob.escape(n), 1 - keep[n] / len(each)) for n, each in found.items())
    return ByName(rows)
