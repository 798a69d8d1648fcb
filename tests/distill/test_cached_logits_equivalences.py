"""Kept answers of a teacher are fresh answers, byte for byte, and nothing damaged is believed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from boxwood._internal.core.call import Call
from boxwood._internal.data.augmentation import FlipAndCrop
from boxwood._internal.data.digits import digits
from boxwood._internal.data.splits import InMemory
from boxwood._internal.distill.cached_logits import CachedStepLogits, Shards, cache_logits
from boxwood._internal.distill.encodings import Float16, Float32, LogitEncoding, TopK
from boxwood._internal.distill.ensembles import (
    arithmetic_mean,
    ensemble,
    forward_of,
    geometric_mean,
)
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.recipes.phase import Genesis, Recipe, State
from boxwood._internal.recipes.teacher_student import student, trained_teacher
from boxwood._internal.runs.runner import run_recipe
from boxwood._internal.runs.store import Store
from boxwood._internal.train.optimizers import Adam
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.wide_nets import wide_net
from boxwood.errors import BoxwoodError

TRAINING = Training(epochs=2, batch=60, optimizer=Adam(lr=2e-3))
GENESIS = Genesis(model=Call.of(wide_net, hidden=(12,), inputs=64), data=digits)
BIG = Call.of(wide_net, hidden=(40,), inputs=64, dropout=0.5)


def recipe(training: Training, encoding: LogitEncoding, *, cached: bool) -> Recipe:
    source = replace(trained_teacher(BIG, TRAINING, members=2), encoding=encoding, cached=cached)
    return student(training, source, Distillation(temperature=4.0))


def same(a: State, b: State) -> bool:
    return a.facts == b.facts and all(
        torch.equal(a.weights[n].view(torch.uint8), b.weights[n].view(torch.uint8))
        for n in a.weights
    )


@pytest.mark.parametrize(
    "training", [TRAINING, replace(TRAINING, augment=FlipAndCrop(pad=1, flip=False))]
)
@pytest.mark.parametrize("encoding", [Float32(), Float16(), TopK(3, classes=10)])
def test_cached_is_live(training: Training, encoding: LogitEncoding, tmp_path: Path) -> None:
    """A student has the same bytes whether its teacher answers, writes down, or has written down."""
    live = run_recipe(GENESIS, recipe(training, encoding, cached=False), Store(tmp_path / "live"))
    writes = run_recipe(
        GENESIS, recipe(training, encoding, cached=True), Store(tmp_path / "writes")
    )
    shutil.copytree(tmp_path / "writes" / "answers", tmp_path / "reads" / "answers")
    reads = run_recipe(GENESIS, recipe(training, encoding, cached=True), Store(tmp_path / "reads"))
    assert not (tmp_path / "live" / "answers").exists()
    assert same(live, writes)
    assert same(live, reads)


def data(n: int = 25) -> InMemory:
    chance = torch.Generator().manual_seed(n)
    return InMemory(torch.randn(n, 6, generator=chance), torch.arange(n) % 4)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4))


class Counting:
    """Counts the inputs that a network is asked about, and gives up after some."""

    def __init__(self, patience: int = 10_000) -> None:
        self.asked, self.patience, self.ask = 0, patience, forward_of(net())

    def __call__(self, inputs: Tensor) -> Tensor:
        if self.asked + len(inputs) > self.patience:
            raise KeyboardInterrupt
        self.asked += len(inputs)
        return self.ask(inputs)


def test_interrupted_asking_goes_on(tmp_path: Path) -> None:
    """What was answered before an interruption is not asked again, and the result is the same."""
    with pytest.raises(KeyboardInterrupt):
        cache_logits(Counting(patience=12), data(), batch=5, shards=Shards(tmp_path))
    rest = Counting()
    known = cache_logits(rest, data(), batch=5, shards=Shards(tmp_path))
    assert rest.asked == 25 - 10
    whole = cache_logits(Counting(), data(), batch=5)
    assert torch.equal(known.kept["logits"], whole.kept["logits"])
    assert not list(tmp_path.glob(".new-*"))


def test_steps_are_asked_once(tmp_path: Path) -> None:
    """A step that was kept is not asked again, in any order and over shard boundaries."""
    steps = [0, 1, 255, 256, 600]
    inputs = {step: torch.randn(3, 6) for step in steps}
    labels = torch.zeros(3, dtype=torch.int64)
    targets = []
    for ask in (Counting(), Counting(patience=0)):
        answers = CachedStepLogits(ask, Float32(), Shards(tmp_path))
        targets.append([answers(s, labels, inputs[s], labels).logits for s in steps])
        answers.close()
    assert all(torch.equal(a, b) for a, b in zip(*targets, strict=True))


def test_a_resumed_shard_keeps_what_it_had(tmp_path: Path) -> None:
    """Steps added to a shard later do not push out those that were there."""
    labels, inputs = torch.zeros(3, dtype=torch.int64), torch.randn(3, 6)
    for step in (3, 9):
        answers = CachedStepLogits(Counting(), Float32(), Shards(tmp_path))
        answers(step, labels, inputs, labels)
        answers.close()
    assert set(load_file(tmp_path / "000000.safetensors")) == {"3/logits", "9/logits"}


def test_a_teacher_does_not_learn_or_drop() -> None:
    """Asking puts dropout to rest and the mode back, and leaves no gradient."""
    model = net().train()
    ask, inputs = forward_of(model), data().inputs
    assert torch.equal(ask(inputs), ask(inputs))
    assert model.training
    assert not ask(inputs).requires_grad


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_top_k_keeps_probabilities(seed: int, k: int) -> None:
    """Kept classes keep their probabilities, and the rest its mass, to float16's precision."""
    logits = 4 * torch.randn(5, 10, generator=torch.Generator().manual_seed(seed))
    form = TopK(k, classes=10)
    p, q = logits.softmax(1), form.decode(form.encode(logits)).softmax(1)
    top = p.topk(k, 1).indices
    # A logit in [-64, 0] has an absolute error of at most 2^-6 after rounding to float16.
    torch.testing.assert_close(q.gather(1, top), p.gather(1, top), rtol=2**-5, atol=0)
    others = torch.ones_like(p).scatter(1, top, 0.0)
    torch.testing.assert_close((q * others).sum(1), (p * others).sum(1), rtol=2**-4, atol=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_half_keeps_probabilities(seed: int) -> None:
    """Probabilities survive float16 to a relative error that the largest logit bounds."""
    logits = 4 * torch.randn(5, 10, generator=torch.Generator().manual_seed(seed))
    p, q = logits.softmax(1), Float16().decode(Float16().encode(logits)).softmax(1)
    torch.testing.assert_close(q, p, rtol=2**-6, atol=0)


def test_ensembles_are_means() -> None:
    """The ensembles' probabilities are the arithmetic and the normalised geometric mean."""
    logits = torch.randn(3, 4, 6, dtype=torch.float64)
    p = logits.softmax(2)
    torch.testing.assert_close(arithmetic_mean(logits).softmax(1), p.mean(0))
    product = p.log().mean(0).exp()
    torch.testing.assert_close(
        geometric_mean(logits).softmax(1), product / product.sum(1, keepdim=True)
    )


def damage(path: Path) -> None:
    tensors = load_file(path)
    tensors["logits"][0, 0] += 1
    save_file(tensors, path, {"sha256": "0" * 64})


@pytest.mark.parametrize("how", [damage, lambda path: path.write_bytes(path.read_bytes()[:50])])
def test_damaged_answers_are_refused(how: object, tmp_path: Path) -> None:
    """A shard that is not what was written is an error that names the file."""
    cache_logits(Counting(), data(), shards=Shards(tmp_path))
    how(tmp_path / "000000.safetensors")  # type: ignore[operator]
    with pytest.raises(BoxwoodError, match=r"000000.safetensors.*delete it"):
        cache_logits(Counting(), data(), shards=Shards(tmp_path))


def test_answers_to_other_examples_are_refused(tmp_path: Path) -> None:
    """Answers to another number of examples are not taken for these."""
    cache_logits(Counting(), data(25), shards=Shards(tmp_path))
    with pytest.raises(BoxwoodError, match="their own folder"):
        cache_logits(Counting(), data(24), shards=Shards(tmp_path))
    labels = torch.zeros(3, dtype=torch.int64)
    answers = CachedStepLogits(Counting(), Float32(), Shards(tmp_path / "steps"))
    answers(0, labels, torch.randn(3, 6), labels)
    with pytest.raises(BoxwoodError, match="belong to another training"):
        answers(0, labels, torch.randn(2, 6), labels[:2])


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    """Where nothing can be written, the error says so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BoxwoodError, match="free some space"):
        cache_logits(Counting(), data(), shards=Shards(tmp_path / "file"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cache_logits(lambda x: x[:, 0], data()), "finite logits"),
        (lambda: cache_logits(lambda x: x / 0, data()), "NaN or infinite values"),
        (lambda: ensemble([]), "at least one member"),
        (lambda: ensemble([lambda x: x, lambda x: x[:, :2]])(torch.ones(1, 3)), "the same classes"),
        (lambda: TopK(10, classes=10), "1 <= k < classes"),
        (lambda: TopK(1, classes=3).encode(torch.ones(1, 4)), "logits of 3 classes, got 4"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    """Teachers that cannot be learnt from are refused."""
    with pytest.raises(BoxwoodError, match=message):
        call()  # type: ignore[operator]
