"""Laws of teachers in recipes: whom they need, what they change, and what they leave alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boxwood._internal.agent.search import TryAndLearn
from boxwood._internal.core import spec
from boxwood._internal.core.call import Call
from boxwood._internal.data.augmentation import FlipAndCrop
from boxwood._internal.data.digits import digits
from boxwood._internal.data.subsets import first_examples, without_classes
from boxwood._internal.distill.encodings import Float16
from boxwood._internal.distill.feature_distillation import (
    FeatureDistillation,
    forward_with_features,
)
from boxwood._internal.distill.losses import Distillation, TeacherTargets
from boxwood._internal.recipes.gradual import gradual_pruning
from boxwood._internal.recipes.lottery_ticket import layerwise_rates, lottery_ticket
from boxwood._internal.recipes.phase import Genesis, Recipe, State
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.measure_teacher import MeasureTeacher
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.recipes.phases.shift_bias import ShiftBias
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.specialists import generalist, specialists
from boxwood._internal.recipes.structural import structural
from boxwood._internal.recipes.teacher_student import (
    student,
    trained,
    trained_teacher,
    with_teacher,
)
from boxwood._internal.recipes.teachers import PastNetwork, Teacher, TrainedNetworks
from boxwood._internal.recipes.three_step import iterative, one_shot
from boxwood._internal.runs.runner import Job, RunSettings, run_all, run_recipe, with_needs
from boxwood._internal.runs.store import Store
from boxwood._internal.train.averaging import EMA, SWA
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loading import Loading
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import cross_entropy, limit_norms_
from boxwood._internal.train.mixing import CutMix, MixUp
from boxwood._internal.train.optimizers import SGD, Adam
from boxwood._internal.train.settings import Augmentation, Regularisation, Training
from boxwood._internal.zoo.wide_nets import wide_net
from boxwood.errors import BoxwoodError

TRAINING = Training(epochs=1, batch=60, optimizer=Adam(lr=2e-3))
STEPS = Training(steps=20, batch=60, optimizer=Adam(lr=2e-3), shuffle_index=1)
NET = Call.of(wide_net, hidden=(12,), inputs=64)
BIG = Call.of(wide_net, hidden=(40,), inputs=64)
GENESIS = Genesis(model=NET, data=digits)
LOSS = Distillation(temperature=4.0)
TAUGHT = replace(TRAINING, loss=LOSS)
PAST = Teacher(source=PastNetwork("dense"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def equal(a: State, b: State) -> bool:
    return all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.mark.parametrize(
    "recipe",
    [
        one_shot(TRAINING, TRAINING, 0.9, dead=False),
        iterative(TRAINING, TRAINING, (0.5, 0.8), dead=False),
        lottery_ticket(train=TRAINING, prune=layerwise_rates(("*", 0.5)), levels=1),
        structural(TRAINING, TRAINING, 0.5),
        (
            Train(training=TRAINING, label="dense"),
            *gradual_pruning(train=STEPS, sparsity=0.8, begin=5, end=15, every=5),
        ),
    ],
)
def test_every_recipe_can_be_taught(recipe: Recipe, store: Store) -> None:
    """A recipe with its dense past as teacher keeps its phases and masks, and ends elsewhere."""
    with_past = with_teacher(recipe, PAST, LOSS)
    assert [type(phase) for phase in with_past] == [type(phase) for phase in recipe]
    plain, distilled = (run_recipe(GENESIS, each, store) for each in (recipe, with_past))
    assert distilled.masks.keys() == plain.masks.keys() != set()
    assert not equal(plain, distilled)
    for name, mask in distilled.masks.items():
        assert not distilled.weights[name][~mask].any()


def test_past_is_the_network_of_its_label(store: Store) -> None:
    """Learning from one's dense past is learning from that network's logits, in one's own loop."""
    recipe = with_teacher(one_shot(TRAINING, TRAINING, 0.5, dead=False), PAST, LOSS)[:3]
    found = run_recipe(GENESIS, recipe, store)
    dense, pruned = (run_recipe(GENESIS, recipe[:end], store) for end in (1, 2))
    past, model = GENESIS.build(), GENESIS.build()
    past.load_state_dict(dict(dense.weights))
    model.load_state_dict(dict(pruned.weights))
    data = digits().train
    inputs, _ = data.take(torch.arange(len(data)))
    with torch.no_grad():
        logits = torch.cat([past(part) for part in inputs.split(1000)])

    def teach(
        step: int, indices: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor
    ) -> object:
        return TeacherTargets(labels, logits[indices])

    train_(model, data, recipe[2].training, seed=0, masks=pruned.masks, make_targets=teach)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, found.weights[name])


@pytest.mark.parametrize("augment", [None, FlipAndCrop(pad=1, flip=False)])
def test_hidden_layers_are_learnt_in_a_recipe(store: Store, augment: Augmentation | None) -> None:
    """With hints alone, kept or fresh, a hidden layer comes closer to that of the dense past."""
    training = replace(TRAINING, epochs=2, augment=augment)
    recipe = one_shot(TRAINING, training, 0.5, dead=False)
    hinted = FeatureDistillation(layers=("relu1",), weight=10.0, soft=0.0, hard=1e-6)
    dense, pruned = (run_recipe(GENESIS, recipe[:end], store) for end in (1, 2))
    taught_ = run_recipe(
        GENESIS, with_teacher(recipe, replace(PAST, cached=augment is None), hinted)[:3], store
    )
    inputs, _ = digits().test.take(torch.arange(200))

    def hidden(state: State) -> torch.Tensor:
        network = GENESIS.network(state.weights)
        return forward_with_features(network, ("relu1",))(inputs)[:, 10:]

    before, after = ((hidden(state) - hidden(dense)).square().mean() for state in (pruned, taught_))
    assert after < 0.5 * before


def test_refused_hints(store: Store) -> None:
    """Layers that are not there, have no mean, are of another width or are kept as logits are."""
    recipe = one_shot(TRAINING, TRAINING, 0.5, dead=False)
    hinted = FeatureDistillation(layers=("relu1",))
    several = trained_teacher(BIG, TRAINING, members=2)
    for who, loss, said in [
        (PAST, FeatureDistillation(layers=("nowhere",)), "names of layers of .*, got 'nowhere'"),
        (replace(PAST, encoding=Float16()), hinted, "stored unchanged, got the encoding Float16"),
        (several, hinted, "one teacher .* got members=2"),
        (
            trained_teacher(BIG, TRAINING),
            hinted,
            "as wide as the teacher's, 40 features together, got 12",
        ),
    ]:
        with pytest.raises(BoxwoodError, match=said):
            run_all([Job(GENESIS, with_teacher(recipe, who, loss))], store)
    with pytest.raises(BoxwoodError, match="names of layers and a weight"):
        FeatureDistillation(layers=())


def test_teachers_are_made_first_and_once() -> None:
    """Runs that a recipe needs come before it, each once, however many need them."""
    source = trained_teacher(BIG, TRAINING, members=3)
    recipe = student(TRAINING, source, LOSS)
    grandchild = student(TRAINING, Teacher(source=TrainedNetworks(model=NET, recipe=recipe)), LOSS)
    jobs = with_needs([Job(GENESIS, grandchild, "c"), Job(GENESIS, recipe, "b")])
    assert len(jobs) == 5
    assert [job.name for job in jobs[3:]] == ["b", "c"]
    assert len({job.chain[-1] for job in jobs}) == 5


def test_a_named_run_keeps_its_name() -> None:
    """A run that is asked for by itself and needed by another is one run, under its own name."""
    own = Job(replace(GENESIS, model=BIG), trained(TRAINING), "teacher")
    recipe = student(TRAINING, trained_teacher(BIG, TRAINING), LOSS)
    assert [job.name for job in with_needs([Job(GENESIS, recipe, "student"), own])] == ["teacher", "student"]  # fmt: skip


def test_the_ensemble_is_its_members(store: Store) -> None:
    """Several members have seeds of their own, the first the student's, and are measured together."""
    who = trained_teacher(BIG, TRAINING, members=3).source
    needs = who.needs(GENESIS)
    assert needs[0][0].seed == GENESIS.seed
    assert len({genesis.seed for genesis, _ in needs}) == 3
    found = run_recipe(GENESIS, (MeasureTeacher(teacher=Teacher(source=who)),), store)
    states = [run_recipe(*need, store) for need in needs]
    inputs, labels = digits().test.take(torch.arange(360))
    logits = 0
    for state in states:
        model = BIG()
        model.load_state_dict(dict(state.weights))
        logits = logits + model(inputs).detach()
    assert found.facts["test"] == {"correct": int((logits.argmax(1) == labels).sum()), "total": 360}


def test_keeping_answers_is_no_part_of_the_identity() -> None:
    """Whether answers are kept on disk changes no key; in which form they are kept does."""
    source = trained_teacher(BIG, TRAINING)
    kept = replace(source, cached=True)
    assert spec.encode(source, identity=True) == spec.encode(kept, identity=True)
    assert spec.decode(spec.encode(student(TRAINING, kept, LOSS))) == student(TRAINING, kept, LOSS)


def shifted(image: torch.Tensor) -> torch.Tensor:
    """Change an example as it is read."""
    return image + torch.randn(image.shape) / 10


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": FlipAndCrop(pad=1, flip=False)},
        {"loading": Loading(transform=shifted, workers=1), "averaging": SWA(start=0.5, every=7)},
        {
            "mixing": (MixUp(), CutMix()),
            "averaging": EMA(),
            "computation": Computation(bfloat16=True),
        },
    ],
)
def test_a_stopped_student_goes_on(changes: dict[str, Any], tmp_path: Path) -> None:
    """A taught training that is stopped at a snapshot ends with the bytes of an undisturbed one."""
    regularisation = Regularisation(max_weight_norm=1.0)
    training = replace(TRAINING, epochs=2, regularisation=regularisation, **changes)
    source = replace(trained_teacher(BIG, TRAINING), cached=True)
    recipe = student(training, source, LOSS)
    whole = run_recipe(GENESIS, recipe, Store(tmp_path / "whole"))

    def stop(job: Job, index: int, done: int, steps: int) -> None:
        if job.name == "x" and done == 27:
            raise KeyboardInterrupt

    cut = Store(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run_all([Job(GENESIS, recipe, "x")], cut, RunSettings(snapshot_every=0.0, watcher=stop))
    assert equal(run_recipe(GENESIS, recipe, cut), whole)
    fresh = student(training, replace(source, cached=False), LOSS)
    assert equal(run_recipe(GENESIS, fresh, Store(tmp_path / "fresh")), whole)


GO = """
import sys
import torch
from boxwood._internal.core.spec import decode
from boxwood._internal.report.study import collect
from boxwood._internal.runs.runner import run_recipe
from boxwood._internal.runs.store import Store
import json
torch.set_num_threads(1)
genesis, recipe = decode(json.loads(sys.argv[2]))
run_recipe(genesis, recipe, Store(sys.argv[1]))
"""


def test_one_process_or_two(tmp_path: Path, forks) -> None:
    """Specialists that two processes train have the bytes of those that one process trains."""
    recipe = specialists(generalist(TRAINING), TRAINING, groups=((1, 7), (3, 8), (4, 9), (5, 6)))
    text = json.dumps(spec.encode((GENESIS, recipe)))
    both = [forks.start(GO, tmp_path / "two", text, entry="code") for _ in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_recipe(GENESIS, recipe, Store(tmp_path / "one"))
    finally:
        torch.set_num_threads(threads)
    assert [process.wait() for process in both] == [0, 0]
    one, two = (
        {
            path.parent.name: path.read_bytes()
            for path in (tmp_path / name / "phases").glob("*/state.safetensors")
        }
        for name in ("one", "two")
    )
    # The start, the generalist and its groups; four specialists; and their consensus.
    assert len(one) == 4 + 4 + 1
    assert one == two


def test_specialists_of_a_pruned_generalist(store: Store) -> None:
    """A pruned generalist's specialists keep its masks, with a dense dustbin."""
    before = (*generalist(TRAINING)[:1], Prune(sparsity=0.8))
    special = specialists(before, TRAINING, groups=((1, 7),))
    pruned = run_recipe(GENESIS, before, store)
    found = run_recipe(GENESIS, special[-1].members[0], store)
    assert torch.equal(found.masks["fc1.weight"], pruned.masks["fc1.weight"])
    assert torch.equal(found.masks["fc2.weight"][:2], pruned.masks["fc2.weight"][[1, 7]])
    assert found.masks["fc2.weight"][2].all()
    assert not found.weights["fc2.weight"][~found.masks["fc2.weight"]].any()
    facts = run_recipe(GENESIS, special, store).facts
    assert facts["groups"] == [[1, 7]]
    assert facts["covered"][0]["total"] < 360
    assert facts["covered"][0]["joint"] == facts["covered"][0]["generalist"]


def test_groups_that_were_not_found_are_left_out(store: Store) -> None:
    """Asking for more clusters than have two classes leaves fewer specialists, and no error."""
    recipe = specialists(generalist(TRAINING), TRAINING, groups=9)
    facts = run_recipe(GENESIS, recipe, store).facts
    assert 1 <= len(facts["groups"]) < 9


def test_shift_is_the_best_on_validation(store: Store) -> None:
    """The shift with most right validation answers is taken, the smallest of equals, and no other bias moves."""
    start = (Train(training=TRAINING),)
    shift = ShiftBias(classes=(3,), shifts=(-100.0, -1.0, 0.0, 1.0, 100.0))
    before, after = run_recipe(GENESIS, start, store), run_recipe(GENESIS, (*start, shift), store)
    moved = after.weights["fc2.bias"] - before.weights["fc2.bias"]
    expected = torch.zeros(10)
    expected[3] = after.facts["shift"]
    torch.testing.assert_close(moved, expected)
    tried = {row["shift"]: row["validation"] for row in after.facts["tried"]}
    for chosen, right in tried.items():
        ranked = (right, -abs(chosen))
        assert ranked <= (tried[after.facts["shift"]], -abs(after.facts["shift"]))
    measured = run_recipe(GENESIS, (*start, shift, Measure()), store).facts["validation"]
    assert measured["correct"] == round(tried[after.facts["shift"]] * measured["total"])


def test_by_class_adds_up(store: Store) -> None:
    """Right answers by class are those of all classes together."""
    facts = run_recipe(GENESIS, (Train(training=TRAINING), Measure(by_class=True)), store).facts
    for part in ("test", "validation"):
        rows = facts[f"{part}_by_class"]
        assert sum(row["correct"] for row in rows) == facts[part]["correct"]
        assert sum(row["total"] for row in rows) == facts[part]["total"]


@pytest.mark.parametrize("seed", range(40))
def test_norms_are_kept_to(seed: int) -> None:
    """No unit's incoming weights exceed the limit, those below it are not touched, zeros stay."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 3))
    before = net[0].weight.detach().clone()
    limit_norms_([net[0].weight], float(before.norm(dim=1).median()))
    norms = before.norm(dim=1)
    kept = norms <= norms.median()
    assert torch.equal(net[0].weight[kept], before[kept])
    torch.testing.assert_close(
        net[0].weight[~kept].norm(dim=1), norms.median().expand(int((~kept).sum()))
    )
    kernel = nn.Parameter(torch.ones(2, 3, 3, 3))
    limit_norms_([kernel], 1.0)
    torch.testing.assert_close(kernel.flatten(1).norm(dim=1), torch.ones(2))


def test_less_of_a_data_set() -> None:
    """Fewer examples or classes change the training part and its identity alone."""
    whole, some, rest = digits(), first_examples(digits, 50), without_classes(digits, (1, 3))
    assert torch.equal(some.train.inputs, whole.train.inputs[:50])
    assert not torch.isin(rest.train.targets, torch.tensor([1, 3])).any()
    assert len(rest.train) == int((~torch.isin(whole.train.targets, torch.tensor([1, 3]))).sum())
    for part in (some, rest):
        assert torch.equal(part.validation.inputs, whole.validation.inputs)
        assert torch.equal(part.test.inputs, whole.test.inputs)
    assert len({whole.identity, some.identity, rest.identity}) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_teacher(one_shot(TRAINING, TRAINING, 0.5), PAST, LOSS, after="fine"), "a phase labelled 'fine'"),
        (lambda: with_teacher(one_shot(TRAINING, None, 0.5), PAST, LOSS), "Expected a training after"),
        (lambda: TrainedNetworks(model=NET, recipe=trained(TRAINING), members=0), "at least one member"),
        (lambda: Train(training=TAUGHT), "got teacher=None with the loss Distillation"),
        (lambda: Train(training=TRAINING, teacher=PAST), "got teacher=PastNetwork with the loss cross_entropy"),
        (lambda: Train(training=replace(TRAINING, loss=Call.of(cross_entropy, label_smoothing=0.1)), teacher=PAST), "got teacher=PastNetwork with the loss cross_entropy"),
        (lambda: specialists(generalist(TRAINING), TAUGHT, groups=((1, 7),)), "got teacher=None with the loss"),
        (lambda: SearchFilters(layer="", search=TryAndLearn(bound=2.0), recover=TAUGHT), "got teacher=None with the loss"),
        (lambda: ShiftBias(classes=(), shifts=(1.0,)), "classes and shifts to try"),
        (lambda: Training(epochs=1, batch=1, optimizer=SGD(lr=1.0), regularisation=Regularisation(max_weight_norm=0.0)), "max_weight_norm > 0, got 0.0, None and 0.0"),
        (lambda: first_examples(digits, 0), "between 1 and 1197"),
        (lambda: without_classes(digits, (10,)), r"0..9, got \[10\]"),
        (lambda: without_classes(digits, tuple(range(10))), "leave out fewer"),
    ],
)  # fmt: skip
def test_refusals(call: object, message: str) -> None:
    """Settings that cannot work are refused with the way out."""
    with pytest.raises(BoxwoodError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (Train(training=TAUGHT, teacher=PAST), "label of an earlier phase"),
        (ShiftBias(classes=(1,), shifts=(1.0,)), "output layer with biases"),
    ],
)
def test_phases_refuse(phase: object, message: str, store: Store) -> None:
    """A past that is not there, and an output layer without biases to shift."""
    genesis = Genesis(model=unbiased, data=digits)
    with pytest.raises(BoxwoodError, match=message):
        run_recipe(genesis, (phase,), store)  # type: ignore[arg-type]


def unbiased() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
