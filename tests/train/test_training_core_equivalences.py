"""Averages, mixing, parts of batches, bfloat16 and decay groups are what they say, step by step."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, update_bn

from boxwood._internal.core.call import Call
from boxwood._internal.core.policies import Gradual, Policy
from boxwood._internal.core.replacing_policies import RigL
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.core.soft_threshold import STR
from boxwood._internal.core.spec import encode
from boxwood._internal.data.splits import InMemory
from boxwood._internal.distill.losses import Distillation, TeacherTargets
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.train import loop
from boxwood._internal.train.averaging import EMA, SWA, Averaging
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loading import Loading
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.mixing import CutMix, MixUp, partners_targets
from boxwood._internal.train.optimizers import SGD, AdamW
from boxwood._internal.train.settings import PolicyPruning, Regularisation, Training
from boxwood.errors import BoxwoodError

CHANCE = torch.Generator().manual_seed(1)
IMAGES = InMemory(torch.randn(48, 1, 6, 6, generator=CHANCE), torch.arange(48) % 3)
TRAINING = Training(epochs=3, batch=8, optimizer=SGD(lr=0.1, momentum=0.9))
STEPS = 18


def net(*, norm: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        middle = nn.BatchNorm2d(4) if norm else nn.Identity()
        return nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.Flatten(), nn.Linear(64, 3))


def trained(training: Training, *, norm: bool = True, **more: object) -> nn.Module:
    model = net(norm=norm)
    train_(model, IMAGES, training, seed=3, **more)  # type: ignore[arg-type]
    return model


def weights_of_every_step(training: Training) -> list[dict[str, torch.Tensor]]:
    """The network after each step."""
    rows: list[dict[str, torch.Tensor]] = []

    def watch(model: nn.Module, _: object) -> dict[str, float]:
        rows.append({name: t.clone() for name, t in model.state_dict().items()})
        return {}

    trained(replace(training, watch_every=1), callbacks=Callbacks(watch=watch))
    return rows


def assert_close(model: nn.Module, expected: dict[str, torch.Tensor], rtol: float = 1e-5) -> None:
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=rtol, atol=1e-6)


def test_a_moving_average_is_that_of_torch() -> None:
    """Torch's averaged model with our decay, fed with the weights of every step, buffers too."""
    decay = 0.7

    def average(kept: torch.Tensor, new: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        d = min(decay, int(count) / (9 + int(count)))
        return d * kept + (1 - d) * new

    theirs, model = None, net()
    for row in weights_of_every_step(TRAINING):
        model.load_state_dict(row)
        if theirs is None:
            theirs = AveragedModel(model, avg_fn=average, use_buffers=True)
        theirs.update_parameters(model)
    assert theirs is not None
    ours = trained(replace(TRAINING, averaging=EMA(decay=decay)))
    assert_close(ours, theirs.module.state_dict() | {"1.num_batches_tracked": torch.tensor(STEPS)})


def test_stochastic_weight_averaging_is_that_of_torch() -> None:
    """The mean of the weights of three epochs, with batch norms that see all examples again."""
    theirs, model = AveragedModel(net()), net()
    for step, row in enumerate(weights_of_every_step(TRAINING), 1):
        model.load_state_dict(row)
        if step >= 9 and step % 6 == 0:
            theirs.update_parameters(model)
    update_bn([IMAGES.inputs], theirs)  # at once, as the mean of batches' variances is no variance
    ours = trained(replace(TRAINING, batch=8, averaging=SWA(start=0.5)))
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, dict(theirs.module.named_parameters())[name])
    hidden = ours[0](IMAGES.inputs)
    torch.testing.assert_close(ours[1].running_mean, hidden.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs.module[1].running_mean, ours[1].running_mean)


def test_rows_measure_the_average_and_the_training_goes_on_without_it() -> None:
    """The last row sees what is handed on; the losses are those of the weights themselves."""
    seen: list[dict[str, torch.Tensor]] = []

    def watch(model: nn.Module, _: object) -> dict[str, float]:
        seen.append({name: t.clone() for name, t in model.state_dict().items()})
        return {}

    averaged = net()
    plain = train_(net(), IMAGES, TRAINING, seed=3)
    with_average = train_(
        averaged,
        IMAGES,
        replace(TRAINING, averaging=EMA(decay=0.9)),
        seed=3,
        callbacks=Callbacks(watch=watch),
    )
    assert plain.history == with_average.history
    assert all(torch.equal(seen[-1][name], t) for name, t in averaged.state_dict().items())
    late = trained(replace(TRAINING, averaging=SWA(start=0.99, every=1000)))
    assert_close(late, trained(TRAINING).state_dict(), rtol=0)  # no moment, no average


@pytest.mark.parametrize("averaging", [EMA(decay=0.95), SWA(start=0.2, every=1)])
@pytest.mark.parametrize(
    "policy",
    [
        None,
        Gradual(schedule=Cubic(final=0.8, end=16), every=2),
        RigL(sparsity=0.8, every=3, until=15),
        STR(decay=0.1, initial=-2.0),
    ],
)
def test_the_average_of_a_pruned_weight_is_zero(
    averaging: Averaging, policy: Policy | None
) -> None:
    """With masks that stay and masks that move; and the training goes on as without an average."""
    masks = {"3.weight": torch.arange(192).view(3, 64) % 2 == 0} if policy is None else None
    pruning = None if policy is None else PolicyPruning(policy)
    plain = replace(TRAINING, pruning=pruning)
    model = net()
    done = train_(model, IMAGES, replace(plain, averaging=averaging), seed=3, masks=masks)
    without = train_(net(), IMAGES, plain, seed=3, masks=masks)
    assert done.history == without.history
    assert all(torch.equal(done.masks[name], mask) for name, mask in without.masks.items())
    kept = {name: p for name, p in model.named_parameters() if name in done.masks}
    assert kept
    for name, parameter in kept.items():
        assert torch.equal(parameter != 0, done.masks[name]), name
        assert not done.masks[name].all()


@given(st.integers(0, 99), st.sampled_from([MixUp(alpha=0.4), CutMix(), MixUp(alpha=5.0)]))
@settings(deadline=None, max_examples=30)
def test_the_loss_of_mixed_examples_is_that_of_mixed_targets(seed: int, mixing: MixUp) -> None:
    """λ E(f, y) + (1 - λ) E(f, y') is the cross-entropy of λ y + (1 - λ) y'."""
    chance = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(5, 2, 7, 9, generator=chance), torch.arange(5) % 3
    mixed, share = mixing(images, images.roll(1, 0), chance)
    assert 0 <= share <= 1
    logits = mixed.flatten(1)[:, :3]
    partners = partners_targets(labels)
    ours = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, partners)
    hot = functional.one_hot(labels, 3).float()
    wanted = share * hot + (1 - share) * hot.roll(1, 0)
    torch.testing.assert_close(ours, functional.cross_entropy(logits, wanted))
    constant = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 7, 9)
    blended, share = mixing(constant, constant.roll(1, 0), chance)
    expected = share * constant[:, 0, 0, 0] + (1 - share) * constant[:, 0, 0, 0].roll(1, 0)
    torch.testing.assert_close(blended.mean((1, 2, 3)), expected)


def test_cutmix_pastes_a_rectangle_and_touches_nothing_else() -> None:
    """Every pixel is one of the two images', and the partner's pixels are a rectangle."""
    ones, zeros = torch.ones(1, 1, 9, 12), torch.zeros(1, 1, 9, 12)
    areas = set()
    for seed in range(40):
        mixed, share = CutMix()(ones, zeros, torch.Generator().manual_seed(seed))
        pasted = (mixed[0, 0] == 0).nonzero()
        areas.add(len(pasted))
        assert len(pasted) == round((1 - share) * 9 * 12)
        if len(pasted):
            low, high = pasted.min(0).values, pasted.max(0).values
            assert int((high - low + 1).prod()) == len(pasted)
    assert len(areas) > 10


def test_a_mixed_training_is_the_loop_with_mixed_batches() -> None:
    """Ways are drawn evenly, and a student learns its teacher's view of the mixed inputs."""
    training = replace(TRAINING, mixing=(MixUp(alpha=1.0), CutMix()), steps=12, epochs=None)
    shown: list[torch.Tensor] = []

    def teach(_: int, __: object, inputs: torch.Tensor, labels: torch.Tensor) -> object:
        shown.append(inputs.clone())
        return TeacherTargets(labels, inputs.flatten(1)[:, :3])

    model = trained(replace(training, loss=Distillation()), make_targets=teach)
    blended = [x for x in shown if not torch.isin(x, IMAGES.inputs).all()]
    assert 0 < len(blended) < len(shown)  # the others are pasted
    assert all(torch.isfinite(p).all() for p in model.parameters())
    targets = TeacherTargets(torch.tensor([0, 1, 2]), torch.eye(3))
    partners = partners_targets(targets)
    assert partners.labels.tolist() == [2, 0, 1]
    assert torch.equal(partners.logits, targets.logits)


@pytest.mark.parametrize("parts", [2, 3, 8, 100])
def test_the_gradients_of_parts_add_up_to_that_of_the_whole(parts: int) -> None:
    """The weights of a training in parts are those of one at once, to rounding."""
    whole = trained(TRAINING, norm=False)
    in_parts = replace(TRAINING, computation=Computation(microbatches=parts))
    assert_close(trained(in_parts, norm=False), whole.state_dict())
    mixed = replace(TRAINING, mixing=(MixUp(alpha=1.0),))
    in_parts = replace(mixed, computation=Computation(microbatches=parts))
    assert_close(trained(in_parts, norm=False), trained(mixed, norm=False).state_dict())


def test_teachers_targets_are_taken_apart_with_the_batch() -> None:
    """Labels and logits of a part are those of its examples."""

    def teach(_: int, indices: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> object:
        return TeacherTargets(labels, inputs.flatten(1)[:, :3])

    taught = replace(TRAINING, loss=Distillation())
    parts = replace(taught, computation=Computation(microbatches=3))
    expected = trained(taught, norm=False, make_targets=teach).state_dict()
    assert_close(trained(parts, norm=False, make_targets=teach), expected)


def test_bfloat16_is_the_autocast_loop_of_torch() -> None:
    """The same bits as a bare loop; the weights stay in float32, and the loss is computed in it."""
    steps = 3
    training = Training(
        steps=steps, batch=48, optimizer=SGD(lr=0.1), computation=Computation(bfloat16=True)
    )
    dtypes: list[torch.dtype] = []

    def watched(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        dtypes.append(outputs.dtype)
        return functional.cross_entropy(outputs, targets)

    ours, bare = trained(replace(training, loss=watched)), net()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    order = next(loop._Loop._order_of(_Order, 0) for _ in "1")  # type: ignore[arg-type]
    for epoch in range(steps):
        order = loop._Loop._order_of(_Order, epoch)  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            outputs = bare(IMAGES.inputs[order[0]])
        optimizer.zero_grad()
        functional.cross_entropy(outputs.float(), IMAGES.targets[order[0]]).backward()
        optimizer.step()
    assert set(dtypes) == {torch.float32}
    assert_close(ours, bare.state_dict(), rtol=0)
    exact = trained(replace(training, computation=Computation()))
    assert not torch.equal(ours[3].weight, exact[3].weight)
    assert ours[3].weight.dtype == torch.float32


class _Order:
    """What the order of an epoch follows from."""

    examples, seed = IMAGES, 3
    training = Training(steps=3, batch=48, optimizer=SGD(lr=0.1))


def test_decay_is_for_what_it_is_asked_for() -> None:
    """Two groups in torch, by hand; and by default one."""
    optimizer = AdamW(lr=0.01, weight_decay=0.5)
    training = Training(steps=6, batch=48, optimizer=optimizer)
    chosen = replace(training, regularisation=Regularisation(decay_layers=linear_and_conv))
    ours, bare = trained(chosen), net()
    bare.train()
    groups = [
        {"params": [p for p in bare.parameters() if p.dim() > 1]},
        {"params": [p for p in bare.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.5)
    for epoch in range(6):
        (order,) = loop._Loop._order_of(_Order, epoch)  # type: ignore[arg-type]
        theirs.zero_grad()
        functional.cross_entropy(bare(IMAGES.inputs[order]), IMAGES.targets[order]).backward()
        theirs.step()
    assert_close(ours, bare.state_dict(), rtol=0)
    assert not torch.equal(ours[0].bias, trained(training)[0].bias)


def test_a_compiled_training_is_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under masks as well, by a backend that changes no arithmetic; sizes have code of their own."""
    compile_ = torch.compile
    asked: list[object] = []

    def eager(model: nn.Module, *, dynamic: bool) -> object:
        asked.append(dynamic)
        return compile_(model, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", eager)
    masks = {"3.weight": torch.arange(192).view(3, 64) % 2 == 0}
    training = replace(TRAINING, steps=5, epochs=None, batch=20)  # a smaller batch comes third
    expected = trained(training, masks=masks)
    compiled = replace(training, computation=Computation(compiled=True))
    assert_close(trained(compiled, masks=masks), expected.state_dict())
    assert asked == [False]


def test_old_trainings_keep_their_names() -> None:
    """What a training has by default is no part of its identity."""
    identity = encode(TRAINING, identity=True)
    new = {"loading", "mixing", "averaging", "computation"}
    assert not new & set(identity)
    assert "decay_layers" not in identity["regularisation"]
    assert encode(Loading(workers=3), identity=True) == encode(Loading(), identity=True)
    changed = replace(
        TRAINING, loading=Loading(), mixing=(MixUp(),), averaging=EMA(),
        computation=Computation(bfloat16=True),
    )  # fmt: skip
    assert new <= set(encode(changed, identity=True))


def test_what_they_refuse() -> None:
    """Each message says what is wrong and what to do."""
    with pytest.raises(BoxwoodError, match=r"a decay in \[0, 1\), got 1"):
        EMA(decay=1.0)
    with pytest.raises(BoxwoodError, match=r"start in \[0, 1\) and every >= 1 steps, got 1"):
        SWA(start=1.0)
    with pytest.raises(BoxwoodError, match=r"alpha above 0, got 0"):
        MixUp(alpha=0.0)
    with pytest.raises(BoxwoodError, match=r"real numbers to blend, got torch.int64"):
        MixUp()(torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), torch.Generator())
    with pytest.raises(BoxwoodError, match=r"images .* to cut from, got inputs of shape \(2, 2\)"):
        CutMix()(torch.zeros(2, 2), torch.zeros(2, 2), torch.Generator())
    with pytest.raises(BoxwoodError, match=r"microbatches >= 1, got 0"):
        Computation(microbatches=0)
    with pytest.raises(BoxwoodError, match=r"workers >= 0 processes, got -1"):
        Loading(workers=-1)
    with pytest.raises(BoxwoodError, match=r"a stateful training whose batches are taken one by"):
        replace(TRAINING, stateful=True, mixing=(MixUp(),))
    replace(TRAINING, stateful=True, computation=Computation(bfloat16=True))
    call = Call.of(cross_entropy, label_smoothing=0.1)
    assert replace(TRAINING, loss=call, averaging=SWA()).averaging == SWA()


def test_parts_of_a_batch_grow_the_weights_that_the_whole_would_grow() -> None:
    """The dense gradient that RigL looks at is the sum over the parts."""
    policy = RigL(sparsity=0.8, every=3, until=15)
    training = replace(TRAINING, pruning=PolicyPruning(policy))
    one, parts = net(norm=False), net(norm=False)
    whole = train_(one, IMAGES, training, seed=3)
    in_parts = replace(training, computation=Computation(microbatches=4))
    done = train_(parts, IMAGES, in_parts, seed=3)
    assert whole.masks.keys() == done.masks.keys()
    assert all(torch.equal(mask, done.masks[name]) for name, mask in whole.masks.items())
    assert_close(parts, one.state_dict())
