"""Each kind of error, raised by the call that it belongs to and caught by its own name."""

import sys

import pytest
import torch
from torch import nn

import boxwood
from boxwood import errors
from boxwood._internal.core.extras import extra
from boxwood._internal.core.spec import decode
from boxwood._internal.core.trust import Trust
from boxwood.data import InMemory
from boxwood.optim import SGD
from boxwood.training import Training, train_

KINDS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.BoxwoodError)
]


class Branching(nn.Module):
    """Takes a way that depends on what its layer computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        return self.second(hidden) if hidden.sum() > 0 else self.second(-hidden)


class Chance(nn.Module):
    """Computes something else in every run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        return self.second(hidden + torch.randn_like(hidden))


def invalid_input(_, __) -> None:
    boxwood.find_masks(nn.Linear(2, 2), 1.5)


def unsupported_model(_, __) -> None:
    boxwood.find_units(Branching(), torch.ones(1, 4))


def equivalence_error(_, __) -> None:
    boxwood.shrink(Chance(), torch.ones(1, 4), keep=0.5)


def training_diverged(_, __) -> None:
    data = InMemory(torch.full((4, 2), 1e30), torch.tensor([0, 1, 0, 1]))
    fast = Training(steps=3, batch=4, optimizer=SGD(lr=1e30))
    train_(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), data, fast, seed=0)


def checkpoint_error(tmp_path, _) -> None:
    (tmp_path / "net.bxw").write_bytes(b"something else")
    boxwood.load(tmp_path / "net.bxw")


def untrusted_code(_, __) -> None:
    decode({"function": "os:abort"}, Trust())


def missing_dependency(_, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    with extra("engine", "llvmlite for compiled networks"):
        import llvmlite  # noqa: F401


RAISED = {
    errors.InvalidInput: invalid_input,
    errors.UnsupportedModel: unsupported_model,
    errors.EquivalenceError: equivalence_error,
    errors.TrainingDiverged: training_diverged,
    errors.CheckpointError: checkpoint_error,
    errors.UntrustedCode: untrusted_code,
    errors.MissingDependency: missing_dependency,
}


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_each_is_caught_by_its_name(kind, tmp_path, monkeypatch) -> None:
    """No other kind is raised there, and the message has the one form."""
    with pytest.raises(kind, match=r"^Expected .*, got .*") as caught:
        RAISED[kind](tmp_path, monkeypatch)
    assert [each for each in RAISED if isinstance(caught.value, each)] == [kind]
    assert isinstance(caught.value, boxwood.BoxwoodError)


def test_every_kind_is_raised_somewhere() -> None:
    """Ranks that disagree need several processes: `tests/model/ranks_at_work.py`."""
    assert set(KINDS) - set(RAISED) == {errors.BoxwoodError, errors.DistributedError}


def test_what_python_calls_them() -> None:
    """Code that knows nothing of Boxwood catches wrong values and missing packages as always."""
    assert issubclass(errors.InvalidInput, ValueError)
    assert issubclass(errors.MissingDependency, ImportError)
    assert not issubclass(errors.CheckpointError, ValueError)
