"""What is read from stores, and which runs make one study."""

from types import SimpleNamespace

import pytest

from boxwood._internal.report.page.metrics import KEPT, TEST, other_metrics
from boxwood._internal.report.page.networks import baseline, chosen, front, networks
from boxwood._internal.report.page.store_reader import read, short
from boxwood._internal.report.tickets import early_stop
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError


def test_networks_have_the_numbers_that_were_written(store: Store) -> None:
    """Each network's test accuracy and kept fraction are the counts in the store, by seed."""
    (study,) = read([store])
    found = {each.name: each for each in networks(study)}
    assert list(found) == ["dense", *(f"{b} round-{i}" for b in ("pruned", "by chance") for i in (1, 2, 3))]  # fmt: skip
    assert found["pruned round-2"].values(TEST) == [0.955, 0.957, 0.959, 0.961, 0.963]
    assert found["pruned round-2"].mean(KEPT) == pytest.approx(28 / 114)
    assert baseline(list(found.values())) is found["dense"]


def test_a_dense_network_trained_badly_on_purpose_is_no_baseline(
    empty: Store, hand: SimpleNamespace
) -> None:
    """Of two unpruned networks the better one on validation is what all are compared with."""
    for branch, right in (("bad rate", 700), ("good rate", 950)):
        phases = [
            (hand.train(), hand.trained(), None),
            (hand.measure(branch), hand.measured(right, validation=right), None),
        ]
        hand.note(empty, branch, 0, phases)
    (study,) = read([empty])
    found = baseline(networks(study))
    assert found is not None
    assert found.name.startswith("good rate")


def test_a_tuning_on_a_seed_of_its_own_is_a_study_of_its_own(
    empty: Store, hand: SimpleNamespace
) -> None:
    """Runs are together when branches are connected by seeds, and apart when they are not."""
    hand.fill(empty, seeds=range(2))
    extra = [(hand.train(), hand.trained(), None), (hand.measure(""), hand.measured(950), None)]
    hand.note(empty, "longer", 1, extra)
    hand.note(empty, "tuning", 100, extra)
    studies = read([empty])
    assert [study.seeds for study in studies] == [(0, 1), (100,)]
    assert "longer" in studies[0].branches


def test_shared_beginnings_are_one_network(empty: Store, hand: SimpleNamespace) -> None:
    """A phase that two recipes share is one measured network, not two that agree exactly."""
    shared = [(hand.train(), hand.trained(), None), (hand.measure("a"), hand.measured(950), None)]
    hand.note(empty, "short", 0, shared)
    longer = [*shared, (hand.train(), hand.trained(), None), (hand.measure("b"), hand.measured(955), None)]  # fmt: skip
    hand.note(empty, "long", 0, longer)
    (study,) = read([empty])
    assert [each.name for each in networks(study)] == ["short a", "long b"]


def test_unfinished_phases_are_left_out(empty: Store, hand: SimpleNamespace) -> None:
    """A run under way shows what is finished; the rest is counted as open."""
    phases = [
        (hand.train(), hand.trained(), None),
        (hand.measure("a"), hand.measured(950), None),
        (hand.train(), None, None),
    ]
    hand.note(empty, "half", 0, phases)
    (study,) = read([empty])
    assert (study.runs[0].done, len(study.runs[0].steps)) == (2, 3)
    assert len(study.measurements) == 1


def test_epochs_and_seconds_add_up_along_the_run(store: Store) -> None:
    """A measurement's budget is that of all phases up to it."""
    (study,) = read([store], only=["pruned / seed 0"])
    assert [m.epochs for m in study.measurements] == [4, 6, 8]
    assert [m.seconds for m in study.measurements] == [6.0, 10.5, 15.0]


def test_branches_that_differ_by_a_number_are_one_curve(
    empty: Store, hand: SimpleNamespace
) -> None:
    """One-point recipes for several sparsities make a line; a lone one keeps its name."""
    for name in ("one-step 0.5", "one-step 0.1", "lone 0.1"):
        note = [(hand.train(name), hand.trained(), None), (hand.measure(name), hand.measured(9), None)]  # fmt: skip
        hand.note(empty, name, 0, note)
    (study,) = read([empty])
    assert {each.curve for each in networks(study)} == {"one-step", "lone 0.1"}


def test_the_front_is_chosen_by_validation(store: Store) -> None:
    """Networks that chance pruned are nowhere on the front, however they do on test."""
    found = networks(read([store])[0])
    assert front(found, KEPT) == {"dense", "pruned round-1", "pruned round-2", "pruned round-3"}


def test_the_highlighted_network_is_near_the_dense_one_on_validation(store: Store) -> None:
    """Dense has 95.5 % on validation, so within 0.5 points are rounds 1 and 2: 95.3 and 95.1 %."""
    found = networks(read([store])[0])
    best = chosen(found, baseline(found))
    assert best is not None
    assert best.name == "pruned round-2"


def test_early_stopping_is_read_off_the_history(empty: Store, hand: SimpleNamespace) -> None:
    """Where a training wrote down validation losses, its lowest gives a step and a test accuracy."""
    history = [
        {"step": 100, "validation_loss": 0.9, "validation": 0.7, "test": 0.7},
        {"step": 200, "validation_loss": 0.4, "validation": 0.8, "test": 0.8},
        {"step": 300, "validation_loss": 0.6},
    ]
    phases = [(hand.train(), {"history": history, "epochs": 1.5}, None), (hand.measure(""), hand.measured(9), None)]  # fmt: skip
    hand.note(empty, "a", 0, phases)
    (found,) = read([empty])[0].measurements
    step, test = other_metrics([found])
    assert (step.name, test.name) == (
        "step_of_lowest_validation_loss",
        "test_at_lowest_validation_loss",
    )
    assert (step.of(found), test.show(test.of(found))) == (200.0, "80.00 %")
    assert early_stop(found.history[:2]).step == 200


def test_names_choose_runs(store: Store) -> None:
    """Patterns take and leave out runs by name; nothing left is an error that says so."""
    (study,) = read([store], only=["pruned*"], without=["* / seed 4"])
    assert len(study.runs) == 4
    assert len(read([store], only=["* on digits"])[0].runs) == 15
    with pytest.raises(BoxwoodError, match="got 15 of which none has a wanted name"):
        read([store], only=["nothing"])
    with pytest.raises(BoxwoodError, match="got no such folder"):
        read([Store(store.root / "missing")])


def test_specs_in_short() -> None:
    """Lists, numbers and unknown values are written in one line."""
    assert short([{"is": "a:B", "x": 0.5, "y": [1]}, None]) == "(B(x=0.5, y=(1)), None)"
