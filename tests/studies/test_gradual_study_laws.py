"""The study of large and sparse against small and dense: MobileNets of equal size, whatever their layout."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood.data import digits
from boxwood.networks import mobilenet_v1
from boxwood.runs import Store, collect, jobs_of, run_all
from boxwood_studies.memory_layout import channels_last

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def gradual() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    import gradual

    yield gradual
    sys.path.remove(str(FOLDER))


def test_the_layout_changes_no_number() -> None:
    net = partial(mobilenet_v1, width=0.125, channels=1, classes=10)
    torch.manual_seed(0)
    plain = net().double()
    torch.manual_seed(0)
    laid_out = channels_last(net).double()
    images = torch.randn(4, 1, 28, 28).double()
    torch.testing.assert_close(laid_out(images), plain(images), rtol=1e-9, atol=1e-9)


def test_sparse_networks_have_the_size_of_the_small_ones(gradual: Any, tmp_path: Path) -> None:
    """Twenty steps: the widest network ends with as many non-zeros as each smaller one has weights."""
    store = Store(tmp_path)
    studies = [gradual.mobilenet(width, steps=20, data=digits) for width in gradual.WIDTHS]
    jobs = [job for study in studies for job in jobs_of(study, (0,)) if "bytes" not in job.name]
    run_all(jobs, store)
    found = {each.name: each.facts for each in collect(jobs, store)}
    for width in gradual.WIDTHS[:-1]:
        small, sparse = found[f"dense {width}"], found[f"as {width}"]
        assert sparse["nonzero"] == pytest.approx(small["parameters"], rel=0.001)
        assert sparse["parameters"] > 2 * small["parameters"]
