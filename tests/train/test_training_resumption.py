"""A training that stops at any step goes on as if it had not, whatever its settings."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from boxwood._internal.core.call import Call
from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.data.augmentation import FlipAndCrop
from boxwood._internal.data.splits import InMemory, Splits
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.recipes.phase import Genesis, State, World
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.averaging import EMA, SWA
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loading import Loading, batches_of
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.lr_schedules import CosineLR, LinearWarmup, OneCycleLR, StepDecay
from boxwood._internal.train.metrics import accuracy
from boxwood._internal.train.mixing import CutMix, MixUp
from boxwood._internal.train.optimizers import SGD, Adam, AdamW
from boxwood._internal.train.settings import PolicyPruning, Regularisation, Training
from boxwood._internal.train.snapshots import Snapshot
from boxwood.errors import BoxwoodError

IMAGES = InMemory(
    torch.randn(50, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3
)
STEPS = 17
TRAINING = Training(
    steps=STEPS,
    batch=8,
    optimizer=SGD(
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-3,
        lr_schedule=LinearWarmup(steps=4, schedule=StepDecay(steps=(9,))),
    ),
    augment=FlipAndCrop(pad=2),
    regularisation=Regularisation(max_gradient_norm=0.5),
    watch_every=3,
)


def noisy(image: torch.Tensor) -> torch.Tensor:
    """Draw from all the random numbers that transforms use."""
    scale = 1 + random.random() / 10
    return image * scale + torch.randn(image.shape) / 10 + float(np.random.rand()) / 10  # noqa: NPY002


SMOOTHED = Call.of(cross_entropy, label_smoothing=0.1)
MODERN = [
    replace(TRAINING, optimizer=optimizer, loss=SMOOTHED)
    for optimizer in (
        AdamW(lr=1e-2, lr_schedule=LinearWarmup(steps=4, schedule=CosineLR(final=0.01))),
        AdamW(lr=1e-2, weight_decay=0.1, fused=True, lr_schedule=OneCycleLR()),
        SGD(lr=0.1, momentum=0.9, nesterov=True, lr_schedule=OneCycleLR(rise=0.5)),
    )
]

MODERN += [
    replace(TRAINING, mixing=(MixUp(alpha=1.0), CutMix()), averaging=EMA(decay=0.8)),
    replace(
        TRAINING,
        averaging=SWA(start=0.4, every=3),
        computation=Computation(microbatches=3, bfloat16=True),
        regularisation=Regularisation(decay_layers=linear_and_conv),
    ),
    replace(
        TRAINING,
        loading=Loading(transform=noisy),
        averaging=EMA(),
        pruning=PolicyPruning(Gradual(schedule=Cubic(final=0.8, end=16), every=2)),
    ),
]


class Kept:
    """Snapshots in memory, one after every step; resumes from the one of ``at``."""

    def __init__(self, at: Snapshot | None = None) -> None:
        self.at, self.all = at, []

    def load(self) -> Snapshot | None:
        return self.at

    def due(self) -> bool:
        return True

    def save(self, snapshot: Snapshot) -> None:
        # As files do, which know no other order in memory than that of the indices.
        row_major = torch.contiguous_format
        copied = {n: t.clone(memory_format=row_major) for n, t in snapshot.tensors.items()}
        self.all.append(Snapshot(copied, snapshot.facts))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3)
        )


def trained(training: Training, kept: Kept | None = None) -> tuple[dict[str, torch.Tensor], list]:
    model = net()
    history = train_(model, IMAGES, training, seed=3, callbacks=Callbacks(checkpoints=kept)).history
    return model.state_dict(), history


@pytest.mark.parametrize(
    "training",
    [
        TRAINING,
        *(replace(TRAINING, optimizer=Adam(lr=1e-2, fused=fused)) for fused in (False, True)),
        *MODERN,
    ],
)
def test_stopped_at_every_step_the_result_is_the_undisturbed_one(training):
    """With augmentation, clipping, warm-up, dropout and a step-wise history: the same bits."""
    kept = Kept()
    weights, history = trained(training, kept)
    assert len(kept.all) == STEPS - 1
    for snapshot in kept.all:
        again, rows = trained(training, Kept(snapshot))
        assert rows == history
        assert all(torch.equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "optimizer",
    [
        TRAINING.optimizer,
        Adam(lr=1e-2),
        Adam(lr=1e-2, fused=True),
        AdamW(lr=1e-2),
        AdamW(lr=1e-2, fused=True),
    ],
)
def test_weights_that_lie_channels_last_are_resumed_too(optimizer):
    """Their momenta lie as they do, or a fused optimizer would pair one weight with another's."""

    def run(kept):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3)
            model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        train_(
            model,
            IMAGES,
            replace(TRAINING, optimizer=optimizer),
            seed=3,
            callbacks=Callbacks(checkpoints=kept),
        )
        return model.state_dict()

    kept = Kept()
    weights = run(kept)
    again = run(Kept(kept.all[STEPS // 2]))
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_training_that_stops_early_hands_on_the_average_of_its_steps():
    """``stop_at=k`` leaves what the whole training would measure at step k."""
    training = replace(TRAINING, averaging=EMA(decay=0.8), watch_every=1)
    seen = []
    watch = Callbacks(watch=lambda network, _: seen.append(copy.deepcopy(network)) or {})
    train_(net(), IMAGES, training, seed=3, callbacks=watch)
    for stop_at in (1, 7, 10):
        weights, _ = trained(replace(training, stop_at=stop_at))
        measured = seen[stop_at - 1].state_dict()
        assert all(torch.equal(measured[name], weights[name]) for name in weights)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_whenever_they_begin(workers):
    """Read ahead by processes, stopped in an epoch and between two: the bits of one process."""
    training = replace(TRAINING, loading=Loading(transform=noisy), averaging=EMA())
    kept = Kept()
    weights, history = trained(training, kept)
    by_workers = replace(training, loading=Loading(transform=noisy, workers=workers))
    for at in (None, kept.all[4], kept.all[6]):  # step 7 is the end of an epoch
        again, rows = trained(by_workers, Kept(at))
        assert rows == history
        assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_reading_ahead_takes_the_examples_of_the_data_set():
    """Without a transform a loader gives the training that takes each batch itself."""
    weights, history = trained(TRAINING)
    again, rows = trained(replace(TRAINING, loading=Loading(workers=1)))
    assert rows == history
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_every_example_has_random_numbers_of_its_own():
    """Two places of a batch, two steps, two seeds and two orders differ; what is global stays."""

    def inputs(seed=0, shuffle_index=0):
        order = [(step, torch.tensor([1, 1])) for step in range(2)]
        loading = Loading(transform=noisy)
        return [
            batch[1]
            for batch in batches_of(IMAGES, order, loading, seed=seed, shuffle_index=shuffle_index)
        ]

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = torch.get_rng_state(), random.getstate()
    every = [*inputs(), *inputs(seed=1), *inputs(shuffle_index=1)]
    assert len({float(image.sum()) for batch in every for image in batch}) == 12
    assert torch.equal(torch.cat(inputs()), torch.cat(inputs()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_a_transform_that_makes_no_tensors_is_refused():
    """The message says what to do."""
    for transform in (lambda image: image.tolist(), lambda x: x[:, : int(torch.randint(1, 6, ()))]):
        with pytest.raises(BoxwoodError, match=r"a transform that makes tensors of one shape, got"):
            trained(replace(TRAINING, loading=Loading(transform=transform)))


def test_a_row_holds_the_mean_loss_since_the_row_before():
    """Rows come every ``watch_every`` steps and at the end, and say which step and epoch it is."""
    _, every = trained(replace(TRAINING, watch_every=1))
    _, rows = trained(TRAINING)
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 17]
    assert [row["epoch"] for row in rows] == [1, 1, 2, 2, 3, 3]
    begin = 0
    for row in rows:
        losses = [each["loss"] for each in every[begin : int(row["step"])]]
        assert row["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-9)
        begin = int(row["step"])


def test_leaving_the_course_early_is_the_beginning_of_the_whole():
    """``stop_at=k`` has the weights of the whole training at step k: the same bits."""
    for training in (TRAINING, *MODERN[:3]):
        kept = Kept()
        trained(training, kept)
        for stop_at in (1, 7, 10):
            weights, _ = trained(replace(training, stop_at=stop_at))
            whole = kept.all[stop_at - 1].tensors
            assert all(torch.equal(whole[f"model/{name}"], weights[name]) for name in weights)


def test_entering_at_step_k_replays_data_rates_and_augmentation():
    """A memoryless training in two halves is the training in one."""
    training = replace(TRAINING, optimizer=SGD(lr=0.1), watch_every=None)
    model = net()
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    second = net()
    second.load_state_dict(model.state_dict())
    second[3].p = 0.0
    train_(model, IMAGES, training, seed=3)
    train_(second, IMAGES, replace(training, stop_at=9), seed=3)
    rows = train_(second, IMAGES, replace(training, start_at=9), seed=3).history
    assert [row["step"] for row in rows] == [14, 17]
    for name, weight in model.state_dict().items():
        assert torch.equal(second.state_dict()[name], weight)


def test_epochs_and_steps_are_two_words_for_a_length():
    """Seven steps of eight examples are an epoch of fifty."""
    by_epochs, rows = trained(replace(TRAINING, steps=None, epochs=2, watch_every=None))
    by_steps, same = trained(replace(TRAINING, steps=14, watch_every=None))
    assert rows == same
    assert all(torch.equal(by_steps[name], by_epochs[name]) for name in by_steps)
    window = replace(TRAINING, steps=None, epochs=4, start_at=1, stop_at=3).window(50)
    assert (window.first, window.last, window.steps) == (7, 21, 28)
    assert replace(TRAINING, steps=None, epochs=4, start_at=1).length == "epochs 1 to 4"


def test_clipping_bounds_the_step():
    """With plain SGD a step is no longer than learning rate times the limit."""
    training = Training(
        steps=1,
        batch=8,
        optimizer=SGD(lr=1.0),
        regularisation=Regularisation(max_gradient_norm=0.01),
    )
    before, (after, _) = net().state_dict(), trained(training)
    learned = [name for name, _ in net().named_parameters()]
    moved = torch.cat([(after[name] - before[name]).flatten() for name in learned])
    assert 0.0099 < float(moved.norm()) <= 0.010001


@pytest.mark.parametrize("fill", [None, 0.0])
def test_augmentation_moves_and_mirrors_and_nothing_else(fill: float | None):
    """Every augmented image is one of the shifts of the image or of its mirror image."""
    images = torch.arange(1.0, 1 + 40 * 2 * 5 * 5).reshape(40, 2, 5, 5)
    pad = 1
    changed = FlipAndCrop(pad=pad, fill=fill)(images, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, [pad] * 4, "replicate" if fill is None else "constant")
    shifts = [padded[:, :, top : top + 5, left : left + 5] for top in range(3) for left in range(3)]
    every = torch.stack(shifts + [shift.flip(3) for shift in shifts])
    found = (every == changed).flatten(2).all(2)
    assert found.any(0).all()
    assert found.any(1).sum() > 9  # and in many ways
    same = FlipAndCrop(pad=0, flip=False)(images, torch.Generator())
    assert torch.equal(same, images)


@given(
    st.integers(0, 4), st.booleans(), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6),
    st.integers(0, 99),
)  # fmt: skip
def test_a_shifted_image_holds_no_value_that_it_did_not_have(
    pad: int, flip: bool, channels: int, height: int, width: int, seed: int
):
    """A frame of another value would tell a network by how much the image was moved."""
    chance = torch.Generator().manual_seed(seed)
    images = torch.randn(3, channels, height, width, generator=chance)
    changed = FlipAndCrop(pad=pad, flip=flip)(images, chance)
    for before, after in zip(images.flatten(0, 1), changed.flatten(0, 1), strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist())


def test_what_a_training_refuses():
    """Each message says what is wrong and what to do."""
    with pytest.raises(BoxwoodError, match=r"a length of either epochs >= 0 or steps >= 0"):
        replace(TRAINING, epochs=2)
    with pytest.raises(BoxwoodError, match=r"a length of either .* got epochs=None, steps=None"):
        replace(TRAINING, steps=None)
    with pytest.raises(
        BoxwoodError, match=r"0 <= start_at <= stop_at <= 17, got start_at=9, stop_at=5"
    ):
        replace(TRAINING, start_at=9, stop_at=5)
    with pytest.raises(BoxwoodError, match=r"watch_every >= 1 steps, got 0"):
        replace(TRAINING, watch_every=0)
    with pytest.raises(BoxwoodError, match=r"max_gradient_norm > 0 .* got 0.0, 0 and"):
        Regularisation(max_gradient_norm=0)
    with pytest.raises(BoxwoodError, match=r"pad >= 0 pixels, got -1"):
        FlipAndCrop(pad=-1)
    with pytest.raises(BoxwoodError, match=r"images \[batch, channels, height, width\] to flip"):
        FlipAndCrop()(torch.zeros(2, 3), torch.Generator())


def _rises(step: int, steps: int) -> float:
    """Learn, and then go astray."""
    return 0.3 if step < 10 else 10.0


def test_a_phase_stopped_at_every_step_reports_the_same_early_stop():
    """The weights at the lowest validation loss are in every snapshot: state and facts are equal."""
    learnable = InMemory(IMAGES.inputs, (IMAGES.inputs.mean((1, 2, 3)) > 0).long())
    data = Splits("toy", learnable, learnable, learnable, classes=3, identity="")
    phase = Train(
        training=replace(
            TRAINING,
            regularisation=Regularisation(),
            optimizer=replace(TRAINING.optimizer, lr_schedule=_rises),
        )
    )

    def run(kept: Kept) -> State:
        start = Genesis(model=net, data=lambda: data)
        world = World(genesis=start, data=data, earlier=lambda _: None, checkpoints=kept)
        return phase.run(State(net().state_dict(), {}), world)

    kept = Kept()
    whole = run(kept)
    losses = [row["validation_loss"] for row in whole.facts["history"]]
    assert 0 < losses.index(min(losses)) < len(losses) - 1  # neither first nor last
    assert ["test" in row for row in whole.facts["history"]] == [x == min(losses) for x in losses]
    for snapshot in kept.all:
        again = run(Kept(snapshot))
        assert again.facts == whole.facts
        assert all(torch.equal(again.weights[n], t) for n, t in whole.weights.items())


def test_test_accuracy_is_written_down_at_the_steps_that_were_asked_for():
    """``test_at`` adds it to the rows of those steps, equal to that of the network then."""
    data = Splits("toy", IMAGES, IMAGES, IMAGES, classes=3, identity="")
    world = World(genesis=Genesis(model=net, data=lambda: data), data=data, earlier=lambda _: None)
    state = State(net().state_dict(), {})
    rows = (
        Train(training=replace(TRAINING, start_at=3), test_at=(6, 12))
        .run(state, world)
        .facts["history"]
    )
    assert {row["step"] for row in rows if "test" in row} >= {6, 12}
    asked = [row for row in rows if row["step"] in (6, 12)]
    assert all(row["test"] == row["validation"] for row in asked)
    early = Train(training=replace(TRAINING, start_at=3, stop_at=6)).run(state, world)
    assert asked[0]["test"] == accuracy(world.network(early), IMAGES).fraction
