"""Networks of a page whose answers were kept: intervals over examples too, McNemar for one seed."""

import numpy as np
import pytest
from scipy.stats import binomtest

from boxwood._internal.report.estimates import interval, over_seeds_and_examples
from boxwood._internal.report.page.metrics import TEST
from boxwood._internal.report.page.networks import Network, against
from boxwood._internal.report.study import Measurement, kept_answers, summarise
from boxwood._internal.train.answers import Answers


def network(right: np.ndarray, name: str) -> Network:
    """A network that answers these examples rightly, [seeds, examples]."""
    numbers = dict.fromkeys(
        ("parameters", "nonzero", "weights", "kept", "multiply_adds", "dense_multiply_adds", "bytes", "dense_bytes"), 1
    )  # fmt: skip
    return Network(name, name, tuple(
        Measurement(name, "", seed, f"{name}{seed}", {
            "test": {"correct": int(row.sum()), "total": len(row)},
            "test_answers": Answers(row, np.ones_like(row)).facts(), **numbers,
        }, 0, 0)
        for seed, row in enumerate(right)
    ))  # fmt: skip


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return tuple((random.random((5, 200)) < share).astype(int) for share in (0.9, 0.8))  # type: ignore[return-value]


def test_intervals_are_over_seeds_and_examples(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """A network's and a difference's, and the summary that commands print, are those of the formula."""
    ours, theirs = answers
    a, b = network(ours, "a"), network(theirs, "b")
    assert a.interval(TEST) == interval(over_seeds_and_examples(ours))
    assert summarise(a.members)[0].accuracy == interval(over_seeds_and_examples(ours))
    found = against(a, b, TEST)
    assert found is not None
    assert found.difference == interval(over_seeds_and_examples(ours - theirs))
    assert found.wins == 5
    assert (found.t_p < 0.05) == (found.difference.low > 0)


def test_two_single_networks_are_compared_by_mcnemar(
    answers: tuple[np.ndarray, np.ndarray],
) -> None:
    """The p-value is that of a fair coin for the examples that one of both has right."""
    ours, theirs = (each[:1] for each in answers)
    found = against(network(ours, "a"), network(theirs, "b"), TEST)
    assert found is not None
    better, worse = int((ours > theirs).sum()), int((ours < theirs).sum())
    assert found.t_p == pytest.approx(binomtest(better, better + worse).pvalue)


def test_a_results_file_has_losses_in_half_precision_and_classes_as_they_were() -> None:
    """Losses beyond half precision stay whole: a difference of losses would be lost in infinity."""
    right, targets = np.array([3, 4]), np.array([5, 5])
    kept = {
        name: Answers(right, targets, np.array([1.0, last], np.float32)).facts()
        for name, last in (("small_answers", 0.1), ("large_answers", 7e4))
    }
    kept["test_answers"] = Answers(np.array([1, 0]), np.ones(2, np.int64)).facts()
    found = kept_answers(Measurement("a", "", 0, "key", {"test": 0.5, **kept}, 0, 0))
    assert found.keys() == kept.keys()
    assert found["test_answers"] == kept["test_answers"]
    assert Answers.read(found["small_answers"]).of("loss").tolist() == [1.0, float(np.float16(0.1))]
    assert Answers.read(found["large_answers"]).of("loss").tolist() == [1.0, 7e4]
