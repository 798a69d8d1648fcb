"""The table of claims: what it is made of, and that the page shows what the script makes."""

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from boxwood._internal.report.claims import (
    BEGIN,
    END,
    Claim,
    Fault,
    NotRun,
    judge_all,
    records,
    refreshed,
    table,
)
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.study import Finding
from boxwood._internal.report.verdicts import exceeds
from boxwood.errors import InvalidInput

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Mapping[str, Any]:
    folder = str(ROOT / "experiments")
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(f"{folder}/claims.py")
    finally:
        sys.path.remove(folder)


def claim(values: list[float], **other: Any) -> Claim:
    return Claim(**{
        "paper": "Someone 2000", "statement": "better", "figure": "+1 point", "scaled": "nothing",
        "file": "study", "command": "python run.py",
        "judge": lambda report: exceeds("", over_seeds([v + report["add"] for v in values])),
        **other,
    })  # fmt: skip


CLEAR, WEAK = [1.0, 1.1, 0.9, 1.0, 1.2], [1.0, 1.1, -0.3, 1.0, 1.2]


def test_results_decide_and_missing_ones_do_not() -> None:
    """Files give verdicts; a missing file, or one that lacks a network, gives the reason and five seeds."""

    def lacks(_: Mapping[str, Any]) -> Finding:
        raise NotRun("no network 'dense' yet")

    claims = [claim(CLEAR), claim(CLEAR, file="other"), claim(CLEAR, judge=lacks),
              claim(CLEAR, file="none", command="")]  # fmt: skip
    found = judge_all(claims, {"study": {"add": 0.0}})
    assert [each.word for each in found] == ["holds", "undecided", "undecided", "undecided"]
    assert [each.ours for each in found[1:]] == [
        "not run yet", "no network 'dense' yet", "no study of this yet",
    ]  # fmt: skip
    assert [(each.seeds, each.needed) for each in found] == [(5, None), (0, 5), (0, 5), (0, 5)]
    assert "(interval over seeds only)" in found[0].ours


def test_claims_of_one_study_are_corrected_together() -> None:
    """A weak result holds alone, and is undecided among three; other files change nothing."""
    reports = {"study": {"add": 0.0}, "other": {"add": 0.0}}
    assert judge_all([claim(WEAK)], reports)[0].word == "holds"
    assert judge_all([claim(WEAK), claim(CLEAR, file="other")], reports)[0].word == "holds"
    words = [each.word for each in judge_all([claim(WEAK), claim(WEAK), claim(CLEAR)], reports)]
    assert words == ["undecided", "undecided", "holds"]


def test_a_faulty_protocol_decides_nothing_until_it_is_run_again() -> None:
    """Results of the commit that is named are undecided, whichever way they point; later ones count."""
    spoilt = claim(CLEAR, fault=Fault(reason="grey frames", commits=("abc",)))
    for add in (0.0, -2.0):
        (old,) = judge_all([spoilt], {"study": {"add": add, "machine": {"commit": "abc"}}})
        assert (old.word, old.seeds, old.needed) == ("undecided", 5, 5)
        assert old.ours.startswith("to be run again: grey frames. Before that: ")
    (new,) = judge_all([spoilt], {"study": {"add": 0.0, "machine": {"commit": "def"}}})
    assert new.word == "holds"


def test_the_table_has_a_row_for_each_claim() -> None:
    """Counts first; bars inside a cell would end it."""
    found = judge_all(
        [claim(CLEAR, statement="a | b"), claim(CLEAR, file="other")], {"study": {"add": 0.0}}
    )
    lines = table(found).splitlines()
    assert lines[0] == "2 claims: 1 holds, 0 fails, 1 undecided."
    assert lines[4].startswith("| 1 | Someone 2000 | a / b | +1 point | 1.04 [")
    assert lines[4].endswith("| **holds** | 5 | nothing | `python run.py` |")
    assert lines[5].endswith("| not run yet | **undecided** | 0 of 5 | nothing | `python run.py` |")
    assert {len(line.replace("|--:|", "||").split("|")) for line in lines[2:]} >= {11}
    assert [each["verdict"] for each in records(found)] == ["holds", "undecided"]


def test_a_page_without_markers_is_refused() -> None:
    """The table goes where the markers are, and nowhere else."""
    for page in ("", BEGIN + "\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n"):
        with pytest.raises(InvalidInput, match="put them where the table belongs"):
            refreshed(page, "table\n")


def test_all_six_works_are_claimed(script: Mapping[str, Any]) -> None:
    """At least forty claims, each said once, each from a results file."""
    claims = script["claims"]()
    assert len(claims) >= 40
    papers = {each.paper.split()[0] for each in claims}
    assert papers >= {"Frankle", "Huang", "Zhu", "Han", "Hinton", "LeCun"}
    said = [(each.paper, each.statement) for each in claims]
    assert len(said) == len(set(said))
    assert all(each.file and each.figure and each.scaled for each in claims)


def test_the_page_shows_what_the_script_makes(script: Mapping[str, Any]) -> None:
    """`python experiments/claims.py --markdown` changes nothing; run it where this fails."""
    page = (ROOT / "docs" / "studies" / "reproduction.md").read_text()
    assert refreshed(page, table(script["verdicts"]())) == page


def test_undecided_claims_say_why(script: Mapping[str, Any]) -> None:
    """Each has a reason, or a number of seeds that would likely decide it."""
    for each in script["verdicts"]():
        if each.word == "undecided":
            assert each.needed is not None or "seeds" in each.ours
