"""Plans for linear layers: packed, and measured, together with others of their kind."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from boxwood._internal.engine.layer_plans import LinearPlan
from boxwood._internal.engine.product_choice import Product, Times, Way, measure, ways_by_positions
from boxwood._internal.engine.sparse_products import FewPositions, ManyPositions
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.thread_team import ThreadTeam


def linear_plans(
    layers: Sequence[nn.Linear], target: Target, team: ThreadTeam
) -> tuple[list[LinearPlan | None], Times]:
    """Return the plans of layers of one kind, and what was measured.

    Args:
        layers: of equal shape and type, and about as sparse.
        target: the family that runs them.
        team: the threads.

    Returns:
        A plan for each, None if torch is always faster; layers that share their weights share one.
    """
    # Layers that share their weights share a plan.
    keys = [(layer.weight.data_ptr(), _address(layer.bias)) for layer in layers]
    tensors = {
        key: (layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
        for key, layer in zip(keys, layers, strict=True)
    }
    products = {key: _products(*each, target, team) for key, each in tensors.items()}
    timed: dict[Way, list[Product]] = {
        way: [_as_planned(*tensors[key], way, each[way]) for key, each in products.items()]
        for way in (Way.FEW, Way.MANY)
    }
    timed[Way.DENSE] = [partial(F.linear, weight=w, bias=b) for w, b in tensors.values()]
    weight, _ = tensors[keys[0]]
    with torch.no_grad():
        times = measure(timed, weight.shape[1], weight.dtype, team.threads)
    ways = ways_by_positions(times)
    used = {*ways} - {Way.DENSE}
    plans = {
        key: LinearPlan(*each, ways, {way: products[key][way] for way in used}) if used else None
        for key, each in tensors.items()
    }
    return [plans[key] for key in keys], times


def _products(
    weight: Tensor, bias: Tensor | None, target: Target, team: ThreadTeam
) -> dict[Way, Product]:
    matrix = weight.float().contiguous().numpy()
    added = None if bias is None else bias.float().numpy()
    return {
        Way.FEW: FewPositions(matrix, added, target, team),
        Way.MANY: ManyPositions(matrix, added, target, team),
    }


def _as_planned(weight: Tensor, bias: Tensor | None, way: Way, product: Product) -> Product:
    """Return a product as a plan runs it, with the types that the layer has."""
    plan = LinearPlan(weight, bias, (way,) * 2, {way: product})
    return partial(plan, weight=weight, bias=bias)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
