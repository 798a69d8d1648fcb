"""The study of Optimal Brain Surgeon: derivatives, minima and deletions against slow ways to have them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood._internal.core import spec

STUDY = Path(__file__).parents[2] / "experiments" / "optimal_brain_surgeon.py"


def of(name: str) -> Any:
    return spec.load(f"{STUDY}:{name}")


@pytest.fixture(scope="module")
def xor() -> tuple[Any, Any]:
    problem = of("xor")(0)
    return problem, of("trained")(problem, 0)


def test_weights_are_counted_as_published() -> None:
    assert [of(name)(0).weights for name in ("xor", "monk_1", "monk_2", "monk_3")] == [
        9,
        58,
        39,
        39,
    ]


def test_slopes_are_those_of_autograd() -> None:
    problem = of("monk_1")(0)
    weights = torch.randn(58, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slow = torch.func.jacrev(lambda each: problem.outputs(each, problem.inputs))(weights)
    torch.testing.assert_close(problem.slopes(weights), slow, rtol=0, atol=1e-15)


def test_training_ends_at_a_minimum_that_solves_xor(xor: tuple[Any, Any]) -> None:
    """The gradient vanishes, the Hessian is positive definite, and all four answers are right."""
    problem, dense = xor
    gradient = torch.func.grad(problem.loss)(dense.weights)
    torch.testing.assert_close(float(gradient.norm()), of("steepness")(problem, dense), rtol=1e-6, atol=1e-14)  # fmt: skip
    assert gradient.norm() < 1e-7
    assert (
        torch.linalg.eigvalsh(torch.autograd.functional.hessian(problem.loss, dense.weights)).min()
        > 0
    )
    assert problem.right(dense.weights) == 1.0


def test_the_surgeon_deletes_as_the_explicit_inverse_says(xor: tuple[Any, Any]) -> None:
    """The least ``w² / (2 [H⁻¹])`` goes, the others move by ``-w / [H⁻¹] H⁻¹ e``, and so often again."""
    problem, network = xor
    delete = of("brain_surgeon")
    for _ in range(3):
        mask, before = network.mask, network.weights[network.mask]
        slopes = problem.slopes(network.weights)[:, mask]
        half = slopes.T @ slopes / len(slopes) + problem.decay * torch.eye(len(before)).double()
        inverse = torch.linalg.inv(2 * half)
        scores = before.square() / (2 * inverse.diagonal())
        q = int(scores.argmin())
        wanted = before - before[q] / inverse[q, q] * inverse[:, q]
        network, predicted = delete(problem, network)
        assert predicted == pytest.approx(float(scores[q]), rel=1e-6)
        torch.testing.assert_close(network.weights[mask], wanted, rtol=1e-6, atol=1e-9)
        assert int(network.mask.sum()) == len(before) - 1


@pytest.mark.parametrize("name", ["brain_damage", "magnitude"])
def test_other_methods_leave_the_other_weights_alone(name: str, xor: tuple[Any, Any]) -> None:
    problem, dense = xor
    after, _ = of(name)(problem, dense)
    gone = ~after.mask
    assert int(gone.sum()) == 1
    assert torch.equal(after.weights, dense.weights.masked_fill(gone, 0))


def test_a_path_ends_at_one_weight_and_the_smallest_good_network_is_found(xor: tuple[Any, Any]) -> None:  # fmt: skip
    problem, dense = xor
    points = of("path")(problem, dense, "magnitude")
    assert [point.left for point in points] == list(range(9, 0, -1))
    least = of("smallest")(points)
    assert least.right == 1.0
    assert all(point.right < 1.0 for point in points if point.left < least.left)
    assert sum(of("deletable")(problem, dense)) >= 1
