"""Specialists: their classes, their training examples, and their start from a generalist.

A specialist for the classes S answers with |S| + 1 logits: the classes of S in order, then the
*dustbin*, everything else.

Shape suffixes: N examples, C classes, D dimensions, K clusters.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwood._internal.core.examples import Examples
from boxwood._internal.core.seeds import generator_for
from boxwood.errors import InvalidInput

ClassGroups = tuple[tuple[int, ...], ...]
"""Classes of each specialist, in order; a class may be in several or in none."""


def confusable_classes(probabilities: Tensor, clusters: int, *, seed: int = 0) -> ClassGroups:
    """Group classes that a network often predicts together: clusters of the covariance's columns.

    The diagonal is cut down to the largest covariance of two classes: a class's own variance says
    nothing about what it is confused with, and would leave all columns equally far from each other.

    Args:
        probabilities: predictions, [N, C].
        clusters: groups to make, in [1, C]; with few classes, about half as many as classes.
        seed: of the clustering.

    Returns:
        Groups of two classes or more; a class that nothing is confused with is in none.

    Raises:
        InvalidInput: there are more clusters than classes.

    Example:
        >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.6, 0.0], [0.0, 0.0, 1.0]])
        >>> confusable_classes(p, 2)
        ((0, 1),)

    Source: Hinton, Vinyals and Dean (2015), section 5.3.
    Differs from the paper: it does not cut the diagonal.
    """
    if not 1 <= clusters <= probabilities.shape[1]:
        raise InvalidInput(
            f"Expected between 1 and {probabilities.shape[1]} clusters of classes, got {clusters}; "
            f"ask for fewer."
        )
    covariance = torch.cov(probabilities.double().T, correction=0)
    between = covariance.clone().fill_diagonal_(-torch.inf).max()
    nearest = online_k_means(covariance.clamp(max=between), clusters, seed=seed)
    groups = [tuple((nearest == k).nonzero().flatten().tolist()) for k in range(clusters)]
    return tuple(sorted(group for group in groups if len(group) > 1))


def online_k_means(
    points: Tensor, clusters: int, *, seed: int = 0, passes: int = 10, starts: int = 10
) -> Tensor:
    """Cluster points one at a time: each draws its nearest centre to itself by 1 / (times chosen).

    Centres start at points drawn at random; of several starts the one whose points are nearest to
    their centres, by the sum of squares, is taken.

    Args:
        points: [N, D].
        clusters: K in [1, N].
        seed: of the starts, and of the order of points in each pass.
        passes: how often all points are seen.
        starts: how often it is begun.

    Returns:
        Number of the nearest centre of each point, int64 [N].

    Example:
        >>> online_k_means(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2).unique(return_counts=True)[1]
        tensor([2, 2])

    Source: MacQueen (1967), "Some methods for classification and analysis of multivariate
    observations", section 3.
    """
    found = []
    for start in range(starts):
        chance = generator_for(seed, "k-means", start)
        order = torch.randperm(len(points), generator=chance)
        centres, times = points[order[:clusters]].clone(), torch.ones(clusters)
        for _ in range(passes):
            for index in torch.randperm(len(points), generator=chance).tolist():
                nearest = int((centres - points[index]).square().sum(1).argmin())
                times[nearest] += 1
                centres[nearest] += (points[index] - centres[nearest]) / times[nearest]
        distances = (points[:, None] - centres).square().sum(2).min(1)
        found.append((float(distances.values.sum()), start, distances.indices))
    return min(found, key=lambda each: each[:2])[2]


@dataclass(frozen=True, eq=False)
class BalancedExamples:
    """A specialist's training examples: as many of its own classes as of all others.

    The fewer, usually its own, are repeated until both are as many. A shuffled batch has half of
    each on average. Targets are the indices of classes among the specialist's outputs.

    Args:
        examples: all examples.
        own: int64, indices of those of its classes.
        others: int64, indices of the rest.
        targets: int64, for every example.
    """

    examples: Examples
    own: Tensor
    others: Tensor
    targets: Tensor

    @classmethod
    def of(cls, examples: Examples, classes: Sequence[int]) -> "BalancedExamples":
        """Divide examples into those of some classes and the rest.

        Raises:
            InvalidInput: one of the two is empty.

        Example:
            >>> from boxwood.data import InMemory
            >>> some = InMemory(torch.eye(4), torch.tensor([0, 1, 2, 2]))
            >>> own = BalancedExamples.of(some, (1,))
            >>> len(own), own.take(torch.arange(6))[1]
            (6, tensor([1, 1, 1, 0, 0, 0]))
        """
        _, labels = examples.take(torch.arange(len(examples)))
        targets = specialist_targets(labels, classes)
        inside = targets < len(classes)
        own, others = inside.nonzero().flatten(), (~inside).nonzero().flatten()
        if not len(own) or not len(others):
            raise InvalidInput(
                f"Expected examples of the specialist's classes {tuple(classes)} and others, got "
                f"{len(own)} and {len(others)}; give it some of the classes, but not all."
            )
        return cls(examples, own, others, targets)

    def __len__(self) -> int:
        return 2 * max(len(self.own), len(self.others))

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch: even halves of the numbers, others first.

        Args:
            indices: int64 [batch], each in [0, len).
        """
        half = len(self) // 2
        rest = self.others[indices % len(self.others)]
        mine = self.own[(indices - half) % len(self.own)]
        chosen = torch.where(indices < half, rest, mine)
        inputs, _ = self.examples.take(chosen)
        return inputs, self.targets[chosen]

    @property
    def dustbin_shift(self) -> float:
        """What the dustbin's logit lacks after training: log of how much its own are oversampled.

        Its own are seen as often as the others but are ``own / others`` as many, so the odds of
        the dustbin are too small by ``others / own``.

        Example:
            >>> from boxwood.data import InMemory
            >>> some = InMemory(torch.eye(4), torch.tensor([0, 1, 2, 2]))
            >>> round(BalancedExamples.of(some, (1,)).dustbin_shift, 4) == round(math.log(3), 4)
            True

        Source: Hinton, Vinyals and Dean (2015), section 5.2.
        """
        return math.log(len(self.others) / len(self.own))


def specialist_targets(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Map labels to a specialist's outputs: the index of its class, or the dustbin's.

    Args:
        labels: int64 [N].
        classes: of the specialist, in order.

    Example:
        >>> specialist_targets(torch.tensor([7, 3, 0]), (3, 7))
        tensor([1, 0, 2])
    """
    matches = labels[:, None] == torch.tensor(list(classes), device=labels.device)
    found = matches.long().argmax(1)
    return torch.where(matches.any(1), found, len(classes))


def specialist_weights(
    weights: Mapping[str, Tensor], layer: str, classes: Sequence[int]
) -> dict[str, Tensor]:
    """Turn a generalist's weights into a specialist's: its output rows, and one for the dustbin.

    The dustbin starts at the mean of the rows that go, with ``log`` of their number added to its
    bias: to first order the logarithm of the sum of their exponentials.

    Args:
        weights: of the generalist.
        layer: name of its output layer, which has a bias.
        classes: those that stay.

    Example:
        >>> w = {"o.weight": torch.tensor([[1.0], [2.0], [4.0]]), "o.bias": torch.zeros(3)}
        >>> cut = specialist_weights(w, "o", (0,))
        >>> cut["o.weight"].flatten(), round(float(cut["o.bias"][1]), 4)
        (tensor([1., 3.]), 0.6931)

    Source: Hinton, Vinyals and Dean (2015), section 5.2: initialised with the generalist's weights.
    Differs from the paper: it does not say how the dustbin starts.
    """
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    rest = [index for index in range(len(weight)) if index not in classes]
    mean = bias[rest].mean() + math.log(len(rest))
    return {
        **weights,
        f"{layer}.weight": torch.cat([weight[list(classes)], weight[rest].mean(0, keepdim=True)]),
        f"{layer}.bias": torch.cat([bias[list(classes)], mean[None]]),
    }


def replace_output_layer_(model: nn.Module, layer: str, outputs: int) -> None:
    """Give a network's output layer another number of outputs, with new weights.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 10))
        >>> replace_output_layer_(net, "0", 3)
        >>> net[0].weight.shape
        torch.Size([3, 2])
    """
    old = model.get_submodule(layer)
    assert isinstance(old, nn.Linear)  # noqa: S101 - what output_layer names
    new = nn.Linear(old.in_features, outputs, old.bias is not None)
    model.set_submodule(layer, new.to(old.weight))
