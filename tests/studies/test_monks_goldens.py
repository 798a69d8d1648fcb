"""The MONK's problems, against the counts that were published with them."""

import pytest
import torch

from boxwood.errors import InvalidInput
from boxwood_studies.monks import monk


@pytest.mark.parametrize(("problem", "positive"), [(1, 216), (2, 142), (3, 228)])
def test_all_robots_have_the_published_labels(problem: int, positive: int) -> None:
    """Of 432 robots as many are positive as in the published files, and each attribute has one value."""
    found = monk(problem)
    assert found.all_inputs.shape == (432, 17)
    assert int(found.all_targets.sum()) == positive
    assert found.all_inputs.sum(1).unique().tolist() == [6.0]
    assert len(found.all_inputs.unique(dim=0)) == 432


@pytest.mark.parametrize(("problem", "count", "wrong"), [(1, 124, 0), (2, 169, 0), (3, 122, 6)])
def test_training_examples_are_robots(problem: int, count: int, wrong: int) -> None:
    """As many different robots as published, six labels of the third wrong; seeds draw others."""
    found = monk(problem, seed=3)
    assert len(found.inputs.unique(dim=0)) == count
    same = (found.inputs[:, None] == found.all_inputs).all(2)
    truth = found.all_targets[same.int().argmax(1)]
    assert int((truth != found.targets).sum()) == wrong
    assert torch.equal(found.inputs, monk(problem, seed=3).inputs)
    assert not torch.equal(found.inputs, monk(problem, seed=4).inputs)


def test_there_are_three_problems() -> None:
    with pytest.raises(InvalidInput, match="Expected problem 1, 2 or 3, got 4"):
        monk(4)
