"""Processes on one store, killed at random, beside readers and garbage collection."""

import random
import sys
from pathlib import Path

import pytest

from boxwood._internal.core.spec import load

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.slow(reason="two rounds with some ten kills take half a minute of two cores")
def test_kills_readers_and_gc_leave_the_undisturbed_store(tmp_path, monkeypatch) -> None:
    """Byte for byte, without an error of anybody and without leftovers."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    storm = sys.modules[load(f"{EXPERIMENTS / 'store_concurrency.py'}:one_round").__module__]
    storm.runs(tmp_path / "calm")
    for number in range(2):
        at = tmp_path / f"storm-{number}"
        counts = storm.one_round(at, tmp_path / "said", random.Random(number))
        assert not (tmp_path / "said").exists(), (tmp_path / "said").read_text()
        assert not counts["failures"] + counts["hangs"] + counts["left behind"]
        assert storm.contents(at) == storm.contents(tmp_path / "calm")
