"""Remove the same units in several ways: ours, repaired or not, and Torch-Pruning's.

What goes is decided by one ranking: the sum of the magnitudes of all that a unit owns, each group
by itself. Both libraries remove as many units of each group. `run_surgery.py` runs, judges, draws.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood import compensate, find_units, shrink
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.surgery import cuts_of
from boxwood._internal.train.answers import Answers
from boxwood.criteria import magnitude
from boxwood.structure import Units, UnitSelection, reestimate_batch_norm_, score_units

PLAIN, STATISTICS, MEANS, FITTED = "ours", "batch statistics", "means folded", "least squares"
SAME, PEER = "Torch-Pruning, same scores", "Torch-Pruning, its own scores"
RETRAINED = (PLAIN, FITTED, SAME, PEER)

Removed = dict[str, frozenset[int]]
"""What goes of the outputs of each layer that owns filters, by the name of its weight."""


@dataclass(frozen=True)
class Case:
    """A trained network, and how it is measured and retrained.

    Args:
        network: of a seed, trained.
        example: an input that shows the way through it.
        protect: patterns of parameters whose units stay.
        calibration: unlabelled inputs of a seed; none of the test.
        measure: which test examples it answers rightly.
        retrain_: trains in place, in an order that follows from a seed.
    """

    network: Callable[[int], nn.Module]
    example: Tensor
    protect: tuple[str, ...]
    calibration: Callable[[int], Sequence[Tensor]]
    measure: Callable[[nn.Module], Answers]
    retrain_: Callable[[nn.Module, int], object]


@dataclass(frozen=True)
class Operated:
    """A network after surgery, and which filters it lost; or why there is none."""

    network: nn.Module | None
    removed: Removed
    reason: str = ""


def summed(weight: Tensor, name: str) -> Tensor:
    """Magnitudes, of what the peer's criterion also reads: not of recurrent layers."""
    return magnitude(weight) if ".rnn." not in name else torch.zeros_like(weight)


def chosen(found: Units, fraction: float, protect: Sequence[str]) -> UnitSelection:
    """Keep the best of every group, so that about ``fraction`` of its units go."""
    scores = score_units(found, summed, normalise=False)
    return best_units(found, scores, 1 - fraction, protect=protect)


def rows_removed(selection: UnitSelection) -> Removed:
    """List the filters that go, of every linear layer and convolution."""
    filters = {axis.names[0] for axis in selection.units.axes if axis.dim == 0}
    gone = {}
    for name, cuts in cuts_of(selection).items():
        shape = selection.units.shapes.get(name, ())
        for dim, stays in cuts:
            if dim == 0 and name in filters and len(shape) in (2, 4) and ".rnn." not in name:
                gone[name] = frozenset(range(shape[0])) - frozenset(stays.tolist())
    return gone


def by_peer(net: nn.Module, example: Tensor, selection: UnitSelection, importance: Any) -> Operated:
    """Let Torch-Pruning remove as many filters of each layer as we did, and no others.

    Its ratio of a layer is set in the middle between two counts, because it rounds down.
    """
    import torch_pruning

    small, ours, cuts = copy.deepcopy(net), rows_removed(selection), cuts_of(selection)
    prunable = {
        f"{name}.weight": module
        for name, module in small.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    whole = [module for name, module in prunable.items() if name not in ours]
    whole += [
        module
        for name, module in small.named_modules()
        if isinstance(module, nn.RNNBase) and f"{name}.weight_hh_l0" not in cuts
    ]
    ratios = {
        prunable[name]: (len(gone) - 0.5) / len(prunable[name].weight)  # type: ignore[arg-type]
        for name, gone in ours.items()
    }
    name_of = {module: name for name, module in prunable.items()}
    removed: Removed = {}
    # A crash of the peer is a result here.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.BasePruner(
                small,
                example,
                importance=importance,
                pruning_ratio=0.5,
                pruning_ratio_dict=ratios,
                ignored_layers=whole,
            )
            for group in pruner.step(interactive=True):
                for dependency, indices in group:
                    name = name_of.get(dependency.target.module)
                    if name in ours and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                        removed[name] = frozenset(indices)
                group.prune()
            with torch.no_grad():
                small(example)
    except Exception as error:  # noqa: BLE001
        return Operated(None, {}, f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    return Operated(small, removed)


def ways(net: nn.Module, case: Case, selection: UnitSelection, seed: int) -> dict[str, Operated]:
    """Make the smaller network in every way there is on this machine."""
    gone, data = rows_removed(selection), case.calibration(seed)
    plain = shrink(net, selection)
    made = {
        PLAIN: plain,
        MEANS: compensate(net, plain, selection, data, refit=False),
        FITTED: compensate(net, plain, selection, data),
    }
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        made[STATISTICS] = copy.deepcopy(plain)
        reestimate_batch_norm_(made[STATISTICS], data)
    found = {way: Operated(network, gone) for way, network in made.items()}
    try:
        from torch_pruning.pruner.importance import GroupMagnitudeImportance as Magnitude
    except ImportError:
        return found
    same = Magnitude(p=1, group_reduction="sum", normalizer=None, bias=True)
    found[SAME] = by_peer(net, case.example, selection, same)
    found[PEER] = by_peer(net, case.example, selection, Magnitude(p=2))
    return found


def agreement(ours: Removed, theirs: Removed) -> float:
    """Measure which share of the filters that we remove the other removes too."""
    both = sum(len(gone & theirs.get(name, frozenset())) for name, gone in ours.items())
    return both / sum(map(len, ours.values()))


def equal(one: nn.Module | None, other: nn.Module) -> bool:
    """Compare all weights and buffers, bit for bit."""
    theirs = other.state_dict()
    return one is not None and all(
        name in theirs and torch.equal(value, theirs[name])
        for name, value in one.state_dict().items()
    )


def sizes(net: nn.Module, example: Tensor) -> dict[str, int]:
    """Count parameters and the multiply-adds of one example, both libraries' alike."""
    found = find_units(net, example)
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiply_adds": found.multiply_adds() // len(example),
    }


def studied(case: Case, seed: int, fractions: Sequence[float]) -> dict[str, Any]:
    """Operate on one trained network at every fraction, and measure before and after retraining."""
    net = case.network(seed).eval()
    found = find_units(net, case.example)
    rows: list[dict[str, Any]] = []
    for fraction in fractions:
        selection = chosen(found, fraction, case.protect)
        gone = rows_removed(selection)
        made = ways(net, case, selection, seed)
        plain, theirs = made[PLAIN].network, made.get(SAME)
        # The very same network: measuring and retraining it again would say nothing.
        same = theirs is not None and theirs.network is not None and equal(plain, theirs.network)
        done: dict[str, dict[str, Any]] = {}
        for way, operated in made.items():
            row: dict[str, Any] = {"removed": fraction, "way": way}
            small = operated.network
            if small is None:
                rows.append(row | {"failed": operated.reason})
                continue
            if way == SAME and same:
                row |= done[PLAIN] | {"way": way, "equal_to_ours": True}
            else:
                row |= sizes(small, case.example) | measured(case, small, "accuracy")
                if way in RETRAINED:
                    case.retrain_(small, seed)
                    row |= measured(case, small.eval(), "retrained")
            row["agreement"] = agreement(gone, operated.removed)
            rows.append(row)
            done[way] = row
            print(seed, {k: v for k, v in row.items() if not k.endswith("_answers")}, flush=True)
    whole = measured(case, net, "dense")
    return {"seed": seed, **whole, **sizes(net, case.example), "rows": rows}


def measured(case: Case, net: nn.Module, name: str) -> dict[str, Any]:
    """Accuracy, and which test examples were answered rightly, under one name."""
    answers = case.measure(net)
    return {name: float(answers.right.mean()), f"{name}_answers": answers.facts()}
