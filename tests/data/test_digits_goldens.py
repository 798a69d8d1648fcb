"""Scikit-learn's digits: sizes, determinism and a fair spread over the parts."""

import sys

import pytest
import torch

from boxwood._internal.data.catalogue import CATALOGUE, named
from boxwood._internal.data.digits import digits
from boxwood.errors import BoxwoodError, MissingDependency


def test_sizes() -> None:
    """1,797 images of 8 × 8 fall into 1,197, 240 and 360."""
    data = digits()
    assert (len(data.train), len(data.validation), len(data.test)) == (1197, 240, 360)
    assert (data.name, data.shape, data.classes) == ("digits", (1, 8, 8), 10)


def test_parts_are_the_whole_set_once() -> None:
    """Undoing the standardisation gives every image of the file exactly once."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = digits()
    inputs = torch.cat(
        [part.take(torch.arange(len(part)))[0] for part in (data.train, data.validation, data.test)]
    ).double()
    # Grey values are 0..16, and both occur: the extremes give the scale back.
    low, high = inputs.min(), inputs.max()
    images = ((inputs - low) / (high - low) * 16).round().flatten(1).long()
    original = torch.from_numpy(datasets.load_digits().data).long()
    assert torch.equal(images.unique(dim=0), original.unique(dim=0))
    assert torch.equal(images.sum(0), original.sum(0))


def test_same_on_every_call() -> None:
    """Every call gives the same examples in the same order, whatever was drawn in between."""
    one = digits()
    torch.manual_seed(5)
    two = digits()
    assert one.identity == two.identity
    for part in ("train", "validation", "test"):
        ours, again = (getattr(data, part).take(torch.arange(240)) for data in (one, two))
        assert all(map(torch.equal, ours, again))


def test_split_is_the_one_of_earlier_results() -> None:
    """The identity is the recorded one: another split would make stored results incomparable."""
    assert digits().identity == ("6447f4711b3d218b9ce664df181896c78af48c491e35b406e09f14f080a6f7d2")


def test_every_part_has_every_digit() -> None:
    """No digit is rare in any part: between 6 and 14 of a hundred."""
    data = digits()
    for part in (data.train, data.validation, data.test):
        _, targets = part.take(torch.arange(len(part)))
        share = torch.bincount(targets, minlength=10) / len(part)
        assert 0.06 < float(share.min()) <= float(share.max()) < 0.14


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-learn the message names the extra to install."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r"scikit-learn .*pip install 'boxwood\[digits\]'"):
        digits()


def test_catalogue_finds_loaders_by_name() -> None:
    """A name gives the loader itself, and names are sorted."""
    assert named("digits") is digits
    assert list(CATALOGUE) == [*("cifar10", "digits", "fashion-mnist", "mnist", "ptb")]


def test_catalogue_lists_its_names() -> None:
    """An unknown name is refused with the names there are."""
    with pytest.raises(
        BoxwoodError,
        match="data set, got 'imagnet'; use one of cifar10, digits, fashion-mnist",
    ):
        named("imagnet")
