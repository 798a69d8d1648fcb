"""What a page and `boxwood plan` say of comparisons that are not equal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.core import spec
from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.model.prunable import conv
from boxwood._internal.recipes.three_step import dense, iterative
from boxwood._internal.recipes.training_budget import in_words, length_of, unequal_training
from boxwood._internal.report.page.fairness import one_budget
from boxwood._internal.report.page.networks import baseline, networks
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.report.page.warnings import warnings_of
from boxwood._internal.runs.store import Store
from boxwood._internal.train.settings import PolicyPruning
from boxwood.errors import BoxwoodError
from boxwood.optim import SGD
from boxwood.phases import Measure, Prune, Rewind, Train
from boxwood.training import Training


def said(store: Store) -> dict[str, tuple[str, list[str]]]:
    (study,) = read([store])
    found = networks(study)
    notes = warnings_of(study, found, baseline(found))
    return {note.text: (note.severity, list(note.details)) for note in notes}


def one(notes: dict[str, tuple[str, list[str]]], start: str) -> tuple[str, list[str]]:
    (found,) = [value for text, value in notes.items() if text.startswith(start)]
    return found


def training(start: int, end: int, **settings: Any) -> tuple[dict, dict, None]:
    """A training from one step to another, as `Train` notes it down, and its history."""
    about = {
        "is": "boxwood.training:Training",
        "steps": end,
        "start_at": start,
        "batch": 60,
        **settings,
    }
    spec = {
        "is": "boxwood.phases:Train",
        "training": about,
        "label": "dense",
    }
    rows = [{"epoch": 1, "step": step, "loss": 1.0} for step in (start + 1, end)]
    return (spec, {"history": rows, "epochs": 1}, None)


def rewinding() -> tuple[dict, dict, tuple[int, int]]:
    return (
        {"is": "boxwood.phases:Rewind", "to": "genesis", "label": ""},
        {},
        (48, 9),
    )


def recipes(hand: SimpleNamespace, **of: list) -> dict[str, list]:
    """Recipes that end with a measurement of 50 % pruned networks, or of a dense one."""
    found = {}
    for name, phases in of.items():
        kept = None if name == "dense" else (48, 9)
        prune = [] if kept is None else [(hand.prune(0.5), {"sparsity": 0.5}, kept)]
        facts = hand.measured(950, kept or (96, 18))
        found[name] = [*phases[:1], *prune, *phases[1:], (hand.measure(""), facts, kept)]
    return found


def note_all(store: Store, hand: SimpleNamespace, **of: list) -> dict[str, tuple[str, list[str]]]:
    for seed in range(3):
        for name, phases in recipes(hand, **of).items():
            hand.note(store, name, seed, phases)
    return said(store)


def test_a_dense_network_that_trained_less_long(empty: Store, hand: SimpleNamespace) -> None:
    """Retraining counts: 500 dense steps are less than 500 and 300 more."""
    notes = note_all(
        empty, hand, dense=[training(0, 500)], pruned=[training(0, 500), training(0, 300)]
    )
    severity, details = one(notes, "The dense network (dense) was trained for 500 optimizer steps")
    assert (severity, details) == ("serious", ["pruned: 800 steps"])
    assert not any(text.startswith("Unequal") for text in notes)


def test_training_that_was_rewound_does_not_count(empty: Store, hand: SimpleNamespace) -> None:
    """A ticket that went back to its initial values, or to step 100, has one training behind it."""
    notes = note_all(
        empty,
        hand,
        dense=[training(0, 500)],
        ticket=[training(0, 500), rewinding(), training(0, 500)],
        early=[training(0, 500), rewinding(), training(0, 100), training(100, 500)],
    )
    assert not any("optimizer steps" in text for text in notes)


def test_recipes_that_train_unequally(empty: Store, hand: SimpleNamespace) -> None:
    """Pruned networks of 800 and 600 steps are told apart, each with its recipes."""
    notes = note_all(
        empty,
        hand,
        dense=[training(0, 800)],
        long=[training(0, 500), training(0, 300)],
        short=[training(0, 500), training(200, 300)],
    )
    severity, details = one(notes, "Unequal training: from 600 to 800 optimizer steps")
    assert (severity, details) == ("mild", ["600 steps: short", "800 steps: long"])
    assert not any("fewer than" in text for text in notes)
    (study,) = read([empty])
    assert not one_budget(study, networks(study))


def test_a_dense_network_that_trained_longer(empty: Store, hand: SimpleNamespace) -> None:
    """It makes pruning look worse than it is, which is said as well."""
    notes = note_all(empty, hand, dense=[training(0, 900)], pruned=[training(0, 500)])
    severity, details = one(notes, "Unequal training: from 500 to 900 optimizer steps")
    assert (severity, details) == ("mild", ["500 steps: pruned", "900 steps: dense"])
    (study,) = read([empty])
    assert one_budget(study, networks(study))


def test_epochs_are_counted_in_steps(empty: Store, hand: SimpleNamespace) -> None:
    """Half of a training of 10 epochs and 1,000 steps is 500 steps."""
    half = training(0, 1000, steps=None, epochs=10, start_at=5)
    notes = note_all(empty, hand, dense=[training(0, 500)], pruned=[training(0, 500), half])
    assert one(notes, "The dense network (dense) was trained for 500")[1] == ["pruned: 1,000 steps"]


@pytest.mark.parametrize(
    ("right", "severity"), [((948, 949, 950), None), ((952, 954, 953), "mild"), ((970,) * 3, "serious")]
)  # fmt: skip
def test_a_dense_network_below_its_pruned_ones(
    empty: Store, hand: SimpleNamespace, right: tuple[int, ...], severity: str | None
) -> None:
    """Above by an interval is a warning, above by more than half a point a grave one."""
    for seed in range(3):
        hand.note(empty, "dense", seed, [(hand.measure(""), hand.measured(950), None)])
        facts = hand.measured(right[seed], (48, 9))
        hand.note(empty, "pruned", seed, [(hand.measure("x"), facts, (48, 9))])
    notes = said(empty)
    if severity is None:
        assert notes == {}
        return
    found, details = one(notes, "The dense network (dense) is below 1 of the networks")
    mean = sum(right) / 30
    assert (found, details) == (severity, [f"pruned x: {mean:.2f} %, dense 95.00 %"])


def test_dead_units_that_went_in_one_recipe_only(empty: Store, hand: SimpleNamespace) -> None:
    """Two recipes pruned to a half, one of which lost dead units too, are no equals."""
    dead = {"is": "boxwood.phases:RemoveDead", "label": ""}
    for seed in range(3):
        hand.note(empty, "dense", seed, [(hand.measure(""), hand.measured(990), None)])
        for name, more, kept in (("plain", [], (48, 9)), ("clean", [dead], (40, 6))):
            phases = [(hand.prune(0.5), {"sparsity": 0.5}, (48, 9))]
            phases += [(spec, {"removed": {}}, kept) for spec in more]
            hand.note(empty, name, seed, [*phases, (hand.measure(""), hand.measured(950, kept), kept)])  # fmt: skip
    severity, details = one(said(empty), "Unequal counts: dead units were removed")
    assert (severity, details) == (
        "mild",
        ["clean without dead units keeps 40.35 %, plain 50.00 %"],
    )


def test_equal_recipes_have_equal_counts(empty: Store, hand: SimpleNamespace) -> None:
    """Where removal found nothing dead, or where all recipes remove, there is nothing to say."""
    dead = (
        {"is": "boxwood.phases:RemoveDead", "label": ""},
        {},
        (48, 9),
    )
    for seed in range(3):
        hand.note(empty, "dense", seed, [(hand.measure(""), hand.measured(990), None)])
        for name, more in (("plain", []), ("clean", [dead])):
            phases = [(hand.prune(0.5), {"sparsity": 0.5}, (48, 9)), *more]
            hand.note(empty, name, seed, [*phases, (hand.measure(name), hand.measured(950, (48, 9)), (48, 9))])  # fmt: skip
    assert not any(text.startswith("Unequal counts") for text in said(empty))


@pytest.mark.parametrize(
    ("other", "compared"), [(Prune(sparsity=0.5), True), (Prune(sparsity=0.5, layers=conv), False)]
)
def test_counts_of_other_layers_are_not_compared(
    other: Prune, compared: bool, empty: Store, hand: SimpleNamespace
) -> None:
    """Half of all layers, by a policy, and half of the convolutions alone were not asked for alike."""
    policy = PolicyPruning(Gradual(Cubic(final=0.5, begin=0, end=100)))
    gradual = Train(training=Training(steps=100, batch=50, optimizer=SGD(lr=0.1), pruning=policy))
    dead = {"is": "boxwood.phases:RemoveDead", "label": ""}
    for seed in range(3):
        hand.note(empty, "dense", seed, [(hand.measure(""), hand.measured(990), None)])
        plain = [(spec.encode(gradual), {}, (48, 9))]
        hand.note(empty, "plain", seed, [*plain, (hand.measure(""), hand.measured(950, (48, 9)), (48, 9))])  # fmt: skip
        clean = [(spec.encode(other), {}, (48, 9)), (dead, {"removed": {}}, (40, 6))]
        hand.note(empty, "clean", seed, [*clean, (hand.measure(""), hand.measured(950, (40, 6)), (40, 6))])  # fmt: skip
    assert any(text.startswith("Unequal counts") for text in said(empty)) == compared


TRAINING = Training(epochs=10, batch=50, optimizer=SGD(lr=0.1))
STEPS = Training(steps=100, batch=50, optimizer=SGD(lr=0.1))


def test_lengths_of_recipes() -> None:
    """What was rewound does not count; windows do, and units are kept apart."""
    train, late = Train(training=STEPS), Train(training=Training(steps=100, start_at=40, batch=50, optimizer=SGD(lr=0.1)))  # fmt: skip
    early = Train(
        training=Training(steps=100, stop_at=40, batch=50, optimizer=SGD(lr=0.1)), label="early"
    )
    prune = Prune(sparsity=0.5)
    assert in_words(length_of((train, prune, train))) == "200 steps"
    assert in_words(length_of((train, prune, Rewind(), train))) == "100 steps"
    ticket = (train, Rewind(), early, train, prune, Rewind(to="early"), late, Measure())
    assert in_words(length_of(ticket)) == "100 steps"
    assert (
        in_words(length_of((Train(training=TRAINING), train)))
        == "10 epochs of batches of 50 and 100 steps"
    )


def test_the_dense_network_takes_the_budget_of_a_recipe() -> None:
    """It is as long as all trainings of the recipe together, in epochs or in steps."""
    for training in (TRAINING, STEPS):
        pruned = iterative(training, training, (0.5, 0.8))
        long = dense(training, as_long_as=pruned)
        assert unequal_training({"dense": long, "pruned": pruned}) == ""
        assert unequal_training({"dense": dense(training), "pruned": pruned})
    with pytest.raises(BoxwoodError, match="counted in steps, got 10 epochs of batches of 50"):
        dense(STEPS, as_long_as=(Train(training=TRAINING),))


def test_plan_tells_of_unequal_training(tmp_path: Path) -> None:
    """Two recipes of another length are named with their lengths before anything runs."""
    text = """
from boxwood import Experiment
from boxwood.optim import SGD
from boxwood.recipes import dense, one_shot
from boxwood.training import Training
from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.zoo.lenet import lenet_300_100

training = Training(epochs=3, batch=60, optimizer=SGD(lr=0.1))

def recipe(fair=False):
    pruned = one_shot(training, training, 0.5)
    first = dense(training, as_long_as=pruned) if fair else dense(training)
    model = Call.of(lenet_300_100, inputs=64)
    return Experiment(model=model, data=digits, branches={"dense": first, "pruned": pruned})
"""
    file = tmp_path / "study.py"
    file.write_text(text)
    ask = ["plan", f"{file}:recipe", "--store", str(tmp_path / "runs")]
    told = " ".join(CliRunner().invoke(app, ask).output.split())
    assert "training differs between the branches" in told
    assert "dense: 3 epochs of batches of 60; pruned: 6 epochs of batches of 60" in told
    fair = CliRunner().invoke(app, [*ask, "--set", "fair=True"])
    assert fair.exit_code == 0
    assert "differs" not in fair.output
