"""Damaged and hostile stores: a command ends, with a result or a refusal, and runs nothing of theirs."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from boxwood._internal.core.spec import load
from boxwood._internal.runs.store import Store

SCRIPT = Path(__file__).parents[2] / "experiments" / "hostile_stores.py"
TRIES = sys.modules[load(f"{SCRIPT}:made_store").__module__]
"""The script of the whole campaign, of which a part is run here."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return TRIES.made_store(tmp_path_factory.mktemp("hostile") / "store")


def check(counts: Counter[str], least: int) -> None:
    assert counts.keys() <= {"done", "refused"}
    assert counts.total() >= least


def test_every_command_works_on_a_sound_store(store: Store, tmp_path: Path) -> None:
    """Otherwise the other tests would show nothing."""
    key, other = TRIES.ends_of(store)
    for name, command in TRIES.COMMANDS.items():
        if name == "runs latency":
            pytest.importorskip("llvmlite")
        at = TRIES.copied(store, tmp_path / "sound")
        assert TRIES.outcome_of(command, at, key, other) == "done", name


def test_damage_raises_nothing_and_is_not_waited_for(store: Store, tmp_path: Path) -> None:
    """Every 37th of 1,800 pairs of a damage and a command, so that all of both come up."""
    check(TRIES.try_damages(store, tmp_path, step=37), 45)


def test_facts_of_any_form_raise_nothing(store: Store, tmp_path: Path) -> None:
    """Random values in the place of what phases and runs say."""
    check(TRIES.try_facts(store, tmp_path, cases=6, seed=1), 30)


def test_no_name_in_a_store_is_run(store: Store, tmp_path: Path) -> None:
    """Every 7th of 288 pairs of a name that would run code, and a command."""
    check(TRIES.try_code(store, tmp_path, step=7), 41)


@pytest.mark.slow(reason="the whole campaign takes five minutes")
def test_the_whole_campaign(store: Store, tmp_path: Path) -> None:
    """Every pair."""
    check(TRIES.try_damages(store, tmp_path), 1800)
    check(TRIES.try_facts(store, tmp_path, cases=600, seed=0), 3000)
    check(TRIES.try_code(store, tmp_path), 288)
