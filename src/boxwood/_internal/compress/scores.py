"""How good a network is, and how much worse than the dense one it may be, by an interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwood._internal.compress.task import Task, Validate
from boxwood._internal.core.arguments import described
from boxwood._internal.graph.examples import as_arguments, mapped, moved_to, tensors_of
from boxwood.errors import InvalidInput

Scores = NDArray[np.float64]
"""A score for each example, [N]; one alone where a function returned a number."""

_BOUND = 1.6448536269514722  # quantile of the normal distribution for 95 % on one side


@dataclass(frozen=True)
class Drop:
    """How much a network loses against the dense one.

    Args:
        mean: the dense network's score minus the other's.
        most: upper end of its interval, 95 % on one side; the mean where there is no interval.
        examples: number of examples compared one by one; 1 for a function that returns a number.

    Example:
        >>> Drop(0.002, 0.006, 1000).held(0.005)
        False
    """

    mean: float
    most: float
    examples: int

    def held(self, max_drop: float) -> bool:
        """Say whether the loss is below a limit as far as the interval goes."""
        return self.most <= max_drop


def drop(dense: Scores, other: Scores) -> Drop:
    """Compare example by example.

    With differences ``d``, one pseudo-example that gained and one that lost as much as any could
    are put in, so that the interval of two networks that agree on all is not empty:

        most = mean(d) + 1.645 · sqrt((Σ d² + s²) / (n + 2) - (Σ d / (n + 2))²) / sqrt(n + 2)

    with ``s`` the range of all scores, or the greatest of them where they are all the same.

    Args:
        dense: scores of the dense network.
        other: of the other one, in the same order.

    Example:
        >>> alike = drop(np.ones(1000), np.ones(1000))
        >>> alike.mean, round(alike.most, 4)
        (0.0, 0.0016)
        >>> one_wrong = np.ones(1000)
        >>> one_wrong[0] = 0
        >>> round(drop(np.ones(1000), one_wrong).most, 4)
        0.0033

    Source: Agresti and Min, Statistics in Medicine 24, 2005, for the pseudo-examples.
    """
    if len(dense) != len(other):
        raise InvalidInput(
            f"Expected a score for each of {len(dense)} examples, got {len(other)}; return as many "
            f"for every network."
        )
    differences = dense - other
    mean = float(differences.mean())
    if len(dense) == 1:
        return Drop(mean, mean, 1)
    size = len(dense) + 2
    reach = float(np.ptp([dense, other])) or float(np.abs(dense).max())
    square = (float(np.square(differences).sum()) + reach**2) / size
    spread = math.sqrt(max(0.0, square - (float(differences.sum()) / size) ** 2))
    return Drop(mean, mean + _BOUND * spread / math.sqrt(size), len(dense))


def examples_needed(max_drop: float, changed: float = 0.02) -> int:
    """Count the examples at which an equally good network can be shown to be within a limit.

    It answers a fraction of the examples otherwise, for better as often as for worse:

        n = (1.645 / max_drop)² · changed

    Args:
        max_drop: the limit, above 0.
        changed: the fraction.

    Example:
        >>> examples_needed(0.005)
        2165
    """
    return math.ceil((_BOUND / max_drop) ** 2 * changed)


@dataclass(frozen=True)
class Scorer:
    """Scores networks on one set of examples.

    Args:
        task: how batches are read, and its metric.
        given: batches or a function.
        dense: the dense network, whose outputs replace targets that are missing.
        labelled: whether targets are used.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> x = torch.randn(6, 2)
        >>> task = Task(model=net, train=[x])
        >>> Scorer(task, [x], net, labelled=True)(net).mean()
        np.float64(1.0)
    """

    task: Task
    given: Validate
    dense: nn.Module
    labelled: bool = True

    def __call__(self, network: nn.Module) -> Scores:
        """Return the score of each example, or one number.

        Raises:
            InvalidInput: a function returned no finite number, or there are no batches.
        """
        if callable(self.given):
            training = [(module, module.training) for module in network.modules()]
            network.eval()
            try:
                with torch.no_grad():
                    return _read(self.given(network))
            finally:
                for module, mode in training:
                    module.training = mode
        found = []
        with torch.no_grad():
            for _, inputs, targets in self.task.batches(self.given):
                output = run(network, inputs)
                if targets is None or not self.labelled:
                    metric = self.task.metric or agreement
                    found.append(metric(output, run(self.dense, inputs)))
                else:
                    targets = mapped(lambda each: each.to(_device(network)), targets)
                    found.append((self.task.metric or accuracy)(output, targets))
        for each in found:
            if not isinstance(each, Tensor) or each.dim() != 1:
                raise InvalidInput(
                    f"Expected a metric that returns a tensor with a score for each example, got "
                    f"{described(each)}; return a tensor of shape [N]."
                )
        return _read(torch.cat([each.detach().cpu() for each in found]))

    @property
    def name(self) -> str:
        """What is scored, in a few words."""
        if callable(self.given):
            return "score of the given function"
        labelled = self.labelled and self.task.split(next(iter(self.given)))[1] is not None
        if self.task.metric is not None:
            what = getattr(self.task.metric, "__name__", "metric").replace("_", " ")
            return what if labelled else f"{what}, against the dense network"
        return "accuracy" if labelled else "agreement with the dense network"


def run(network: nn.Module, inputs: Any) -> Any:
    """Call a network in evaluation mode on inputs of a batch.

    Example:
        >>> run(nn.Flatten(), torch.ones(1, 2, 2)).shape
        torch.Size([1, 4])
    """
    if network.training:
        network.eval()
    args, kwargs = as_arguments(moved_to(network, inputs))
    return network(*args, **kwargs)


def logits_of(output: Any) -> Tensor | None:
    """Find what says how much each class fits: the output itself, or its field ``logits``.

    Example:
        >>> logits_of({"logits": torch.ones(1, 2)}).shape
        torch.Size([1, 2])
    """
    if not isinstance(output, Tensor):
        output = (
            output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
        )
    if isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 1:
        return output
    return None


def class_axis(logits: Tensor | None, targets: Any = None) -> int | None:
    """Find the axis of the classes: by the shape of the targets, or of [N, C] the second one.

    Args:
        logits: of the network, or None.
        targets: whole numbers with one axis less, which is the second or the last of the logits.

    Example:
        >>> class_axis(torch.ones(2, 5, 3), torch.ones(2, 5, dtype=torch.long))
        2
        >>> class_axis(torch.ones(2, 3)), class_axis(torch.ones(2, 5, 3))
        (1, None)
    """
    if logits is None:
        return None
    if targets is None:
        return 1 if logits.dim() == 2 and logits.shape[1] > 1 else None
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    if targets.shape == (logits.shape[0], *logits.shape[2:]):
        return 1
    return logits.dim() - 1 if targets.shape == logits.shape[:-1] else None


def accuracy(output: Any, targets: Any) -> Tensor:
    """Say of each example whether its class is right; where it has several targets, how many are.

    Targets of -100 are left out, as torch's cross-entropy leaves them out.

    Args:
        output: logits, [N, C, ...] or [N, ..., C], or what has them as ``logits``.
        targets: whole numbers, [N, ...].

    Raises:
        InvalidInput: the shapes are of no classification.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        tensor([1., 0.])
    """
    logits = logits_of(output)
    axis = class_axis(logits, targets)
    if logits is None or axis is None:
        raise InvalidInput(
            f"Expected logits [N, C] and classes [N] to measure accuracy with, got "
            f"{described(output)} and {described(targets)}; give metric=, a function of both."
        )
    asked = (targets != -100).flatten(1) if targets.dim() > 1 else (targets != -100)[:, None]
    right: Tensor = (logits.argmax(axis) == targets).reshape(asked.shape) & asked
    share: Tensor = right.sum(1) / asked.sum(1).clamp(min=1)
    return share


def agreement(output: Any, dense: Any) -> Tensor:
    """Return for each example how much a network agrees with the dense one.

    For logits [N, C] it is 1 if both predict the same class. For other outputs it is the
    cosine between both, with all floating-point tensors of an example as one vector.

    Example:
        >>> agreement(torch.tensor([[2.0, 1.0]]), torch.tensor([[5.0, 1.0]]))
        tensor([1.])
    """
    logits, theirs = logits_of(output), logits_of(dense)
    if class_axis(logits) is not None and logits is not None and theirs is not None:
        return (logits.argmax(1) == theirs.argmax(1)).float()
    mine, dense_ones = (
        torch.cat([each.flatten(1).double() for each in floats_of(one)], 1)
        for one in (output, dense)
    )
    return torch.nn.functional.cosine_similarity(mine, dense_ones)


def floats_of(output: Any) -> list[Tensor]:
    """List the floating-point tensors of an output that have an axis for the examples.

    Example:
        >>> len(floats_of((torch.ones(2, 3), torch.ones(2, dtype=torch.long))))
        1
    """
    found = [each for each in tensors_of(output) if each.is_floating_point() and each.dim()]
    if not found:
        raise InvalidInput(
            f"Expected a network that returns floating-point tensors, got {described(output)}; "
            f"give one that does."
        )
    return found


def shuffled(network: nn.Module, seed: int = 0) -> Callable[[], None]:
    """Put the entries of every weight in a random order; the returned function puts them back.

    Such a network has learnt nothing, so it scores what chance scores.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> before = net.weight.clone()
        >>> put_back = shuffled(net)
        >>> put_back(); torch.equal(net.weight, before)
        True
    """
    kept = [(each, each.detach().clone()) for each in network.parameters()]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, whole in kept:
            order = torch.randperm(whole.numel(), generator=generator).to(whole.device)
            parameter.copy_(whole.flatten()[order].reshape(whole.shape))

    def put_back() -> None:
        with torch.no_grad():
            for parameter, whole in kept:
                parameter.copy_(whole)

    return put_back


def _read(found: Any) -> Scores:
    """Read what a function of the user's returned."""
    do = "return a number, or a tensor with one for each example; higher is better"
    if isinstance(found, bool | str) or not isinstance(
        found, int | float | Tensor | np.ndarray | np.generic
    ):
        raise InvalidInput(f"Expected a score, got {described(found)}; {do}.")
    scores = np.atleast_1d(np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found))
    if scores.ndim != 1 or not scores.size:
        raise InvalidInput(f"Expected a score, got a tensor of shape {scores.shape}; {do}.")
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise InvalidInput(f"Expected a finite score, got {scores[~np.isfinite(scores)][0]}; {do}.")
    return scores


def _device(network: nn.Module) -> torch.device:
    return next((each.device for each in network.parameters()), torch.device("cpu"))
