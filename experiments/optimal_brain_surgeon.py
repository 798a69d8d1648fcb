"""The study of Hassibi and Stork (1993): Optimal Brain Surgeon on whole small networks.

Networks of one hidden layer of sigmoid units, in float64, go to a minimum of ``E + λ Σ w²``, where E is
the mean squared error. Then all their weights, biases too, are deleted one after another. Before each
deletion the second derivatives of all weights together are taken again. Optimal Brain Damage and
magnitude delete from the same networks.

H is that of Gauss and Newton, as in the paper: ``½ H = 1/P Σ_n X_n X_nᵀ + λ I``, with X_n the derivatives
of the output by the weights. Its inverse comes from the paper's recursion, whose α is λ here.

The decays come from a grid of 1e-5 to 3e-3 and the seeds 100 to 103: the dense networks of MONK's 1 and 2
answer all 432 robots rightly up to 3e-4, and those of MONK's 3 most with 3e-4.
`run_optimal_brain_surgeon.py` runs it and draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from boxwood._internal.core.seeds import generator_for
from boxwood._internal.core.surgeon import inverse_by_recursion
from boxwood.errors import TrainingDiverged
from boxwood.oneshot import remove_weights
from boxwood_studies.monks import monk

TRIES = 100
"""Initial values of a seed; the first that lead to a network that is right often enough are taken."""


class Problem(NamedTuple):
    """What a network of one hidden layer learns.

    Args:
        inputs: float64 [examples, features].
        targets: float64 [examples], 0 or 1.
        test_inputs: float64 [others, features].
        test_targets: float64 [others], 0 or 1.
        hidden: units.
        decay: λ.
        least: fraction of the training examples that a trained network must answer rightly.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    hidden: int
    decay: float
    least: float

    @property
    def weights(self) -> int:
        """Count all weights, biases too."""
        return self.hidden * (self.inputs.shape[1] + 2) + 1

    def outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [examples] of a network: weights of the hidden units, their biases, weights, bias."""
        hidden, second, last = self._hidden(weights, inputs)
        return torch.sigmoid(hidden @ second + last)

    def slopes(self, weights: Tensor) -> Tensor:
        """Derivatives of the outputs by the weights: [training examples, weights]."""
        hidden, second, last = self._hidden(weights, self.inputs)
        output = torch.sigmoid(hidden @ second + last)
        by_last = (output * (1 - output))[:, None]
        by_bias = by_last * second * hidden * (1 - hidden)
        by_first = (by_bias[:, :, None] * self.inputs[:, None]).flatten(1)
        return torch.cat([by_first, by_bias, by_last * hidden, by_last], dim=1)

    def loss(self, weights: Tensor) -> Tensor:
        """Mean squared error and penalty."""
        error = self.outputs(weights, self.inputs) - self.targets
        return error.square().mean() + self.decay * weights.square().sum()

    def right(self, weights: Tensor, *, test: bool = False) -> float:
        """Fraction answered rightly, of the training examples or of those to test on."""
        inputs, targets = (
            (self.test_inputs, self.test_targets) if test else (self.inputs, self.targets)
        )
        return float(((self.outputs(weights, inputs) > 0.5) == (targets > 0.5)).double().mean())

    def _hidden(self, weights: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.hidden * inputs.shape[1], self.hidden, self.hidden, 1]
        first, bias, second, last = weights.split(sizes)
        return torch.sigmoid(inputs @ first.view(self.hidden, -1).T + bias), second, last


def xor(_: int) -> Problem:
    """Four examples, a network of 2-2-1 with nine weights; they are trained and tested on."""
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double()
    targets = torch.tensor([0.0, 1.0, 1.0, 0.0]).double()
    return Problem(inputs, targets, inputs, targets, hidden=2, decay=1e-4, least=1.0)


def monk_1(seed: int) -> Problem:
    """17-3-1, 58 weights."""
    return Problem(*monk(1, seed), hidden=3, decay=1e-4, least=1.0)


def monk_2(seed: int) -> Problem:
    """17-2-1, 39 weights."""
    return Problem(*monk(2, seed), hidden=2, decay=1e-4, least=1.0)


def monk_3(seed: int) -> Problem:
    """17-2-1, 39 weights; some labels are wrong, so no network need answer all of them."""
    return Problem(*monk(3, seed), hidden=2, decay=3e-4, least=0.9)


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "xor": xor,
    "monk 1": monk_1,
    "monk 2": monk_2,
    "monk 3": monk_3,
}


class Network(NamedTuple):
    """Weights [n], and the mask of those that are left."""

    weights: Tensor
    mask: Tensor


class Deletion(NamedTuple):
    """What is left after a deletion, and the rise of the loss that was predicted; None if none is."""

    network: Network
    predicted: float | None


Delete = Callable[[Problem, Network], Deletion]


def brain_surgeon(problem: Problem, network: Network) -> Deletion:
    """Delete by the whole Hessian, and move all the others to make up for it."""
    slopes = _slopes(problem, network)
    left = network.weights[network.mask]
    inverse = inverse_by_recursion(slopes, alpha=problem.decay) / 2
    done = remove_weights(left, inverse, len(left) - 1)
    weights, mask = torch.zeros_like(network.weights), network.mask.clone()
    weights[network.mask], mask[network.mask] = done.weight, done.mask
    return Deletion(Network(weights, mask), float(done.rise[0]))


def brain_damage(problem: Problem, network: Network) -> Deletion:
    """Delete the least ``½ h w²``, with h of the diagonal."""
    return _delete(network, _half_curvature(problem, network) * _squares(network))


def magnitude(_: Problem, network: Network) -> Deletion:
    """Delete the smallest weight."""
    return _delete(network, _squares(network))._replace(predicted=None)


METHODS: dict[str, tuple[Delete, bool]] = {
    "OBS": (brain_surgeon, False),
    "OBS retrained": (brain_surgeon, True),
    "OBD": (brain_damage, False),
    "OBD retrained": (brain_damage, True),
    "magnitude": (magnitude, False),
    "magnitude retrained": (magnitude, True),
}
"""How a weight is chosen, and whether the network goes to its minimum again after each deletion."""


class Point(NamedTuple):
    """A network on a path of deletions.

    Args:
        left: weights.
        loss: mean squared error and penalty.
        predicted: rise of the loss by the last deletion; None where none is predicted.
        gradient: norm of the loss's gradient: 0 at a minimum.
        right: fraction of the training examples that are answered rightly.
        test: of those to test on.
    """

    left: int
    loss: float
    predicted: float | None
    gradient: float
    right: float
    test: float


def trained(problem: Problem, seed: int) -> Network:
    """Go to a minimum from initial values of the seed, again until it is right often enough.

    Raises:
        TrainingDiverged: no initial values lead there.
    """
    generator = generator_for(seed, "optimal brain surgeon")
    everything = torch.ones(problem.weights, dtype=torch.bool)
    for _ in range(TRIES):
        start = torch.randn(problem.weights, dtype=torch.float64, generator=generator) / 2
        found = minimum(problem, Network(start, everything))
        if problem.right(found.weights) >= problem.least:
            return found
    raise TrainingDiverged(
        f"Expected a network that is right on {problem.least:.0%} of the examples, got none from "
        f"{TRIES} initial values of seed {seed}; take less decay or another seed."
    )


def minimum(problem: Problem, network: Network) -> Network:
    """Go to a minimum of the loss, by Levenberg and Marquardt; masked weights stay zero.

    The loss is a sum of squares, of the errors and of the weights.
    """
    mask, count = network.mask, len(problem.inputs)
    pull = problem.decay**0.5

    def whole(left: object) -> Tensor:
        weights = torch.zeros_like(network.weights)
        weights[mask] = torch.as_tensor(left)
        return weights

    def errors(left: np.ndarray) -> np.ndarray:
        wrong = (problem.outputs(whole(left), problem.inputs) - problem.targets) / count**0.5
        return np.concatenate([wrong.numpy(), pull * left])

    def slopes(left: np.ndarray) -> np.ndarray:
        by_weights = problem.slopes(whole(left))[:, mask] / count**0.5
        return np.concatenate([by_weights.numpy(), pull * np.eye(len(left))])

    found = least_squares(
        errors, network.weights[mask].numpy(), jac=slopes, method="lm",
        ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=2000,
    )  # fmt: skip
    return network._replace(weights=whole(found.x))


def steepness(problem: Problem, network: Network) -> float:
    """Norm of the gradient of the loss, over the weights that are left: 0 at a minimum."""
    error = problem.outputs(network.weights, problem.inputs) - problem.targets
    of_error = 2 * error @ problem.slopes(network.weights) / len(error)
    return float((of_error + 2 * problem.decay * network.weights)[network.mask].norm())


def path(problem: Problem, dense: Network, method: str) -> list[Point]:
    """Delete all weights but one, and measure after each deletion; the dense network comes first."""
    delete, again = METHODS[method]
    network, points = dense, [_measured(problem, dense, None)]
    while int(network.mask.sum()) > 1:
        network, predicted = delete(problem, network)
        if again:
            network = minimum(problem, network)
        points.append(_measured(problem, network, predicted))
    return points


def smallest(points: list[Point]) -> Point:
    """The smallest network that answers as many training examples rightly as the dense one."""
    good = [point for point in points if point.right >= points[0].right]
    return min(good, key=lambda point: point.left)


def deletable(problem: Problem, dense: Network) -> list[bool]:
    """Say of each weight whether a network without it, retrained, answers as many rightly."""
    found = []
    for index in range(problem.weights):
        weights, mask = dense.weights.clone(), dense.mask.clone()
        weights[index], mask[index] = 0, False
        after = minimum(problem, Network(weights, mask))
        found.append(problem.right(after.weights) >= problem.right(dense.weights))
    return found


def _measured(problem: Problem, network: Network, predicted: float | None) -> Point:
    weights = network.weights
    return Point(
        left=int(network.mask.sum()),
        loss=float(problem.loss(weights)),
        predicted=predicted,
        gradient=steepness(problem, network),
        right=problem.right(weights),
        test=problem.right(weights, test=True),
    )


def _slopes(problem: Problem, network: Network) -> Tensor:
    """Derivatives of the outputs by the weights that are left: [examples, left]."""
    return problem.slopes(network.weights)[:, network.mask]


def _half_curvature(problem: Problem, network: Network) -> Tensor:
    return _slopes(problem, network).square().mean(0) + problem.decay


def _squares(network: Network) -> Tensor:
    return network.weights[network.mask].square()


def _delete(network: Network, scores: Tensor) -> Deletion:
    index = network.mask.nonzero()[int(scores.argmin())]
    weights, mask = network.weights.clone(), network.mask.clone()
    weights[index], mask[index] = 0, False
    return Deletion(Network(weights, mask), float(scores.min()))
