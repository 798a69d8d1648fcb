"""The study of what a ticket owes to what: it shares its tickets with the study of tickets."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxwood._internal.core import spec
from boxwood._internal.runs.runner import jobs_of
from boxwood.data import digits
from boxwood.runs import Job

FOLDER = Path(__file__).parents[2] / "experiments"
STUDY = FOLDER / "lottery_ticket.py"


@pytest.fixture(scope="module")
def claims() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    import claims_frankle_carbin

    yield claims_frankle_carbin
    sys.path.remove(str(FOLDER))


def chains(name: str, **settings: Any) -> dict[str, Job]:
    study = spec.load(f"{STUDY}:{name}")(data=digits, steps=500, **settings)
    return {job.name.partition(" / ")[0]: job for job in jobs_of(study, (0,))}


def test_tickets_and_reinitialised_networks_are_those_of_the_study_of_tickets() -> None:
    """Level 7 of nine levels: the same keys, so that one store serves both."""
    ours, theirs = chains("ablations"), chains("lenet_300_100")
    whole = ours["ticket"].chain
    assert whole == theirs["ticket"].chain[: len(whole)]
    for index in (1, 2, 3):
        name = f"reinit {index} at 7"
        assert ours[name].chain == theirs[name].chain


def test_what_is_replaced_shares_the_rest() -> None:
    """Each ablation goes on from the dense training, and those of one mask from its pruning."""
    found = chains("ablations")
    ticket = found["ticket"].chain
    shared = {
        name: next(i for i, key in enumerate(job.chain) if key not in ticket)
        for name, job in found.items()
        if name != "ticket"
    }
    dense, last = 3, len(ticket) - 3  # genesis, training, measurement; before rewinding at level 7
    assert shared["continued"] > dense
    assert shared["one-shot: ticket"] == dense
    assert shared["copies"] >= dense
    assert {
        shared[name] for name in ("noise 0.5 at 7", "noise 3 at 7", "masked at start at 7")
    } == {last}


def test_claims_wait_for_what_is_missing(claims: Any) -> None:
    """A report of tickets alone decides none of them."""
    report = {"early_stops": {"ticket level-7": {"0": {"step": 1, "censored": False, "validation": 0.9, "test": 0.9}}}}  # fmt: skip
    for claim in claims.claims():
        if claim.file == "lottery_ablations_mnist":
            with pytest.raises(claims.NotRun):
                claim.judge(report)


def test_stability_is_held_to_two_points(claims: Any) -> None:
    def line(*right: int) -> list[dict[str, Any]]:
        return [{"test": {"correct": each, "total": 1000}} for each in right]

    stable = {seed: line(980, 975 - int(seed), 980) for seed in "01234"}
    apart = {seed: line(980, 940 - int(seed), 980) for seed in "01234"}
    words = [claims._stable({"lines": lines}).word for lines in (stable, apart)]
    assert words == ["holds", "fails"]
