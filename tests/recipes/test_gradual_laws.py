"""A large network pruned while it trains weighs what the small one does, and a page tells of both."""

from math import log

import pytest
import torch

from boxwood import Experiment
from boxwood._internal.core.call import Call
from boxwood._internal.data.text import corpus
from boxwood._internal.recipes.gradual import Size, dense_training, gradual_pruning
from boxwood._internal.recipes.gradual_networks import LANGUAGE_MODEL
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.report.page.build import Report, page
from boxwood._internal.report.study import Measurement, collect
from boxwood._internal.runs.runner import jobs_of, run_all
from boxwood._internal.runs.store import Store
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.settings import Regularisation
from boxwood._internal.zoo.language_models import lstm_language_model
from boxwood.data import Splits
from boxwood.optim import SGD
from boxwood.training import Training

SMALL = Call.of(lstm_language_model, words=32, hidden=4)
LARGE = Call.of(lstm_language_model, words=32, hidden=12)


def text() -> Splits:
    generator = torch.Generator().manual_seed(0)
    words = [f"w{i}" for i in torch.randint(30, (400,), generator=generator).tolist()]
    return corpus("toy", [words], [words[:60]], [words[:60]]).splits(8, 20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("gradual"))


@pytest.fixture(scope="module")
def measured(store: Store) -> dict[str, Measurement]:
    training = Training(
        steps=40,
        batch=4,
        optimizer=SGD(lr=4.0),
        regularisation=Regularisation(max_gradient_norm=0.5),
        stateful=True,
    )
    measure = Measure(loss=cross_entropy)
    dense = dense_training(train=training, measure=measure)
    small, large = (Size.of(model, LANGUAGE_MODEL) for model in (SMALL, LARGE))
    sparse = [
        gradual_pruning(
            train=training,
            sparsity=sparsity,
            begin=10,
            end=30,
            every=10,
            layers=LANGUAGE_MODEL,
            measure=measure,
        )
        for sparsity in (
            large.sparsity_at(small.total),
            large.sparsity_at_bytes(4 * small.total),
        )
    ]
    branches = (("dense", dense), ("weights", sparse[0]), ("bytes", sparse[1]))
    jobs = jobs_of(Experiment(model=SMALL, data=text, branches=(("small", dense),)), [0])
    jobs += jobs_of(Experiment(model=LARGE, data=text, branches=branches), [0])
    run_all(jobs, store)
    return {each.branch: each for each in collect(jobs, store)}


def test_as_many_nonzeros_or_bytes(measured: dict[str, Measurement]) -> None:
    """Non-zeros, or values and bits together, are the small network's, up to a weight a tensor."""
    tensors = 6
    small = measured["small"].facts["parameters"]
    assert measured["small"].facts["nonzero"] == small
    assert abs(measured["weights"].facts["nonzero"] - small) <= tensors / 2
    prunable = Size.of(LARGE, LANGUAGE_MODEL).prunable
    count = 4 * measured["bytes"].facts["nonzero"] + prunable / 8
    assert abs(count - 4 * small) <= 4 * tensors / 2


def test_what_is_measured_of_a_language_model(measured: dict[str, Measurement]) -> None:
    """The loss is nats a held-out word, and all that may be pruned is counted as weights."""
    for each in measured.values():
        assert 0 < each.facts["test"]["loss"] < 1.2 * log(32)
        assert each.facts["test"]["total"] == 60  # 61 words with the end, all but the first
    weights = Size.of(LARGE, LANGUAGE_MODEL).prunable
    assert measured["weights"].facts["weights"] == weights
    kept = measured["weights"].facts["nonzero"] - Size.of(LARGE, LANGUAGE_MODEL).rest
    assert measured["weights"].facts["kept"] == kept


def test_a_page_tells_of_language_models(store: Store, measured: dict[str, Measurement]) -> None:
    """Losses among the facts, and an embedding that multiplies nothing, do not break a page."""
    pytest.importorskip("vl_convert")
    assert measured
    found = page(Report(stores=(store.root,)))
    assert "Embedding" in found
