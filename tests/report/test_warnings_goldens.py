"""What a page warns of, and the checklist of ShrinkBench."""

from dataclasses import replace
from types import SimpleNamespace

from boxwood._internal.report.checklist import Reported, checklist
from boxwood._internal.report.page.networks import baseline, networks
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.report.page.warnings import warnings_of
from boxwood._internal.runs.store import Store


def said(store: Store) -> dict[str, tuple[str, list[str]]]:
    (study,) = read([store])
    found = networks(study)
    notes = warnings_of(study, found, baseline(found))
    return {note.text: (note.severity, list(note.details)) for note in notes}


def one(notes: dict[str, tuple[str, list[str]]], start: str) -> tuple[str, list[str]]:
    (found,) = [value for text, value in notes.items() if text.startswith(start)]
    return found


def test_a_sound_study_has_no_warnings(store: Store) -> None:
    """Five seeds, a dense network, validation beside test, clear differences: nothing to say."""
    assert said(store) == {}


def test_collapsed_layers_are_named(empty: Store, hand: SimpleNamespace) -> None:
    """A layer without a weight is named with its network, seed and key."""
    facts = hand.measured(100, kept=(5, 0))
    chain = hand.note(empty, "crushed", 3, [(hand.train(), hand.trained(), None), (hand.measure("x"), facts, (5, 0))])  # fmt: skip
    severity, details = one(said(empty), "Collapsed layers")
    assert (severity, details) == ("serious", [f"fc2 of crushed x, seed 3 ({chain[-1][:8]})"])


def test_few_seeds_and_no_dense_network(empty: Store, hand: SimpleNamespace) -> None:
    """Two seeds are too few, and without a dense network nothing can be compared."""
    for seed in (0, 1):
        phases = [(hand.train(), hand.trained(), None), (hand.measure("x"), hand.measured(9), (9, 2))]  # fmt: skip
        phases[1][1]["kept"] = 11
        hand.note(empty, "a", seed, phases)
    notes = said(empty)
    assert one(notes, "Too few seeds: 1 of 1") == ("serious", ["a x (2)"])
    assert one(notes, "No dense network")[0] == "serious"


def test_selection_by_test_is_found_in_the_recipe(empty: Store, hand: SimpleNamespace) -> None:
    """A phase whose settings name the test examples selects by them; a label does not."""
    until = {"is": "mine:PruneUntil", "chooses": {"split": "test"}, "label": "test"}
    hand.note(empty, "a", 0, [(until, {"sparsity": 0.5}, (9, 2)), (hand.measure(""), hand.measured(9), None)])  # fmt: skip
    assert one(said(empty), "Test examples were used") == (
        "serious",
        ["PruneUntil: chooses.split = test"],
    )


def test_no_validation_is_blind_choice(empty: Store, hand: SimpleNamespace) -> None:
    """Without validation accuracy every choice is by test."""
    facts = {k: v for k, v in hand.measured(9).items() if k != "validation"}
    hand.note(empty, "a", 0, [(hand.measure(""), facts, None)])
    assert one(said(empty), "No validation accuracy") == ("serious", ["a"])


def test_overlapping_intervals_and_unfinished_runs(empty: Store, hand: SimpleNamespace) -> None:
    """Two recipes whose differences change sign by seed cannot be ranked."""
    for seed in range(4):
        for name, more in (("a", (-1) ** seed), ("b", 0)):
            phases = [(hand.prune(0.5), {"sparsity": 0.5}, (48, 9)), (hand.measure(name), hand.measured(950 + more, (48, 9)), (48, 9))]  # fmt: skip
            hand.note(empty, name, seed, [*phases, (hand.train(), None, None)])
    notes = said(empty)
    severity, details = one(notes, "Intervals that overlap: at 1 of 1 sparsities")
    assert (severity, len(details)) == ("mild", 1)
    assert one(notes, "8 of 8 runs are not finished")[0] == "mild"


SOUND = Reported(
    model="m", data="cifar10", pairs=[("m", "cifar10"), ("n", "cifar10"), ("m", "imagenet")],
    checkpoint=None, dense="95 %", sizes=True, index_bytes=True, points={"a": 5}, seeds={"a": 3},
    criteria=frozenset({"magnitude", "random"}), scopes=frozenset({"global_", "uniform"}),
    validation=True, judged_by="accuracy", classes=10, top5=False, latency=True,
)  # fmt: skip


def test_a_report_that_keeps_every_rule() -> None:
    """Nine rules, all met."""
    assert [item.met for item in checklist(SOUND)] == [True] * 9


def test_each_rule_fails_by_itself() -> None:
    """Taking away what a rule asks for fails that rule and no other, and says what is missing."""
    broken = (
        (0, {"dense": ""}, "not measured"),
        (1, {"sizes": False}, "Measure phase"),
        (2, {"points": {"a": 4}}, "a (4)"),
        (3, {"pairs": [("m", "mnist")] * 3}, "m on mnist"),
        (4, {"seeds": {"a": 2}}, "a (2)"),
        (5, {"criteria": frozenset({"magnitude"})}, "random"),
        (5, {"one_budget": False}, "all three are there; recipes train for different numbers"),
        (6, {"classes": 100}, "top-1 only"),
        (7, {"validation": False}, "no validation"),
        (8, {"latency": False}, "no measured latency"),
    )
    for rule, change, evidence in broken:
        items = checklist(replace(SOUND, **change))
        assert [i for i, item in enumerate(items) if not item.met] == [rule]
        assert evidence in items[rule].evidence


def test_unknown_classes_leave_top5_open() -> None:
    """Where the number of classes is not known, top-5 can be neither asked for nor excused."""
    assert checklist(replace(SOUND, classes=None))[6].met is None
    assert checklist(replace(SOUND, classes=None, top5=True))[6].met is True


def test_top5_is_not_asked_of_what_is_no_accuracy() -> None:
    """A language model is held to the other rules."""
    item = checklist(replace(SOUND, classes=None, judged_by="perplexity"))[6]
    assert (item.met, "judged by perplexity" in item.evidence) == (True, True)


def test_test_and_validation_that_contradict_each_other(
    empty: Store, hand: SimpleNamespace
) -> None:
    """Three seeds that gain 2 points on test and lose as many on validation."""
    for seed in range(3):
        for branch, gain, kept in (("dense", 0, (96, 18)), ("pruned", 19 + seed, (9, 2))):
            facts = hand.measured(900 + gain, kept=kept, validation=900 - gain)
            phases = [(hand.train(), hand.trained(), None), (hand.measure(branch), facts, kept)]
            hand.note(empty, branch, seed, phases)
    severity, details = one(said(empty), "Test and validation disagree")
    assert (severity, details) == ("mild", ["pruned pruned: +2.00 on test, −2.00 on validation"])
