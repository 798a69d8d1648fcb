"""Measured times: how they come beside a store, and how the page shows them."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.cli.serve import version
from boxwood._internal.core.call import Call
from boxwood._internal.core.spec import decode
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.report.page.build import Report, articles
from boxwood._internal.report.page.document import Figure, tables_of
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.runs import latency
from boxwood._internal.runs.latency import FILE, Settings, Timings, Wanted, measure_all
from boxwood._internal.runs.runner import jobs_of, run_all
from boxwood._internal.runs.store import Store
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.errors import BoxwoodError


def ticking() -> Callable[[], float]:
    """A clock by which everything takes one second."""
    ticks = itertools.count()
    return lambda: float(next(ticks))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two networks that nobody trained; tests put files of times beside them, and take them away."""
    store = Store(tmp_path_factory.mktemp("timed") / "runs")
    branches = (("dense", (Measure(),)), ("pruned", (Prune(sparsity=0.9), Measure())))
    model = Call.of(lenet_300_100, inputs=64)
    run_all(jobs_of(Experiment(model=model, data=digits, branches=branches), [0]), store)
    return store


@pytest.fixture
def store(measured: Store) -> Store:
    (measured.root / FILE).unlink(missing_ok=True)
    return measured


def wanted(store: Store) -> list[Wanted]:
    return [
        Wanted(decode(run.genesis), run.start.key, each.key)
        for run in read([store])[0].runs
        for each in run.measurements
    ]


def test_every_way_has_a_time_for_every_turn(store: Store) -> None:
    """By a clock that ticks once a turn, each turn of 4 examples takes 250 ms per example."""
    pytest.importorskip("llvmlite")
    settings = Settings(batch=4, turns=3, clock=ticking())
    found = measure_all(store, wanted(store), settings)
    assert set(found.networks) == {each.key for each in wanted(store)}
    for ways in found.networks.values():
        assert ways == {way: [250.0] * 3 for way in ("dense", "torch", "engine")}
    assert (found.about["batch"], found.about["threads"]) == (4, 1)
    assert "processor" in found.about
    assert latency.read(store.root / FILE) == found


def test_a_stopped_measurement_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is on the disk and is not measured again; the rest is."""
    settings, tried = Settings(turns=1), []

    def fake(genesis: object, dense: object, pruned: object, *rest: object) -> tuple[dict[str, list[float]], str]:  # fmt: skip
        tried.append(pruned)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return {"dense": [1.0], "torch": [1.0]}, "it is odd"

    monkeypatch.setattr(latency, "measure", fake)
    with pytest.raises(KeyboardInterrupt):
        measure_all(store, wanted(store), settings)
    first = wanted(store)[0].key
    kept = latency.read(store.root / FILE)
    assert (list(kept.networks), kept.refused) == ([first], {first: "it is odd"})
    told: list[tuple[int, int]] = []
    found = measure_all(store, wanted(store), settings, progress=lambda *now: told.append(now))
    assert (len(tried), told, len(found.networks)) == (3, [(0, 1)], 2)


def test_times_of_other_settings_are_not_mixed(store: Store, tmp_path: Path) -> None:
    """A file of another machine or batch is an error that says so; --again begins anew."""
    pytest.importorskip("llvmlite")
    path = store.root / FILE
    settings = Settings(turns=1, clock=ticking())
    found = measure_all(store, wanted(store)[:1], settings)
    other = replace(found, about={**found.about, "processor": "another"})
    latency.write(other, path)
    with pytest.raises(BoxwoodError, match=r"Expected .*'processor': .*, got .*'another'.*--again"):
        measure_all(store, wanted(store), settings)
    assert latency.read(path) == other
    (tmp_path / FILE).write_text(json.dumps({"about": {**found.about, "batch": 9}, "networks": {"k": {"engine": [1.0]}}}))  # fmt: skip
    with pytest.raises(BoxwoodError, match=r"Expected .*'another', .*, got .*'batch': 9"):
        Report(stores=(store.root,), latencies=(tmp_path / FILE,)).timings()
    assert measure_all(store, wanted(store)[:1], settings, again=True).networks == found.networks


def test_the_command_writes_beside_the_store_and_the_page_finds_it(store: Store) -> None:
    """After one command the axes of measured time are there, with machine, rule and table."""
    pytest.importorskip("llvmlite")
    before = version([store.root])
    words = ["runs", "latency", "--store", str(store.root), "--turns", "2", "--batch", "2"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "2 networks" in result.output
    assert version([store.root]) != before
    (made,) = articles(Report(stores=(store.root,)))
    (figure,) = [p for s in made.sections for p in s.parts if isinstance(p, Figure) and p.name == "trade-off"]  # fmt: skip
    labels = [option.label for option in figure.controls[0].options]
    assert labels[-3:] == [
        "measured time in the engine ÷ dense in torch",
        "measured latency per example in engine (ms)",
        "measured latency per example in torch (ms)",
    ]
    tables = {table.name: table for table in tables_of(made)}
    assert {row["network"] for row in tables["latency"].rows} == {"dense", "pruned"}
    assert next(s.text for s in made.sections if s.name == "results").startswith(
        "Latency was measured with batch 2 on 1 thread of "
    )
    assert tables["rules"].rows[-1]["status"] == "met"


def test_ratios_are_taken_turn_by_turn(store: Store) -> None:
    """The median of 1/2, 1/2 and 1/4 is 1/2, although the ratio of medians is another number."""
    dense, pruned = (each.key for each in wanted(store))
    times = {"dense": [8.0, 2.0, 4.0], "torch": [9.0, 9.0, 1.0], "engine": [4.0, 1.0, 1.0]}
    latency.write(Timings({}, {pruned: times}), store.root / FILE)
    (made,) = articles(Report(stores=(store.root,)))
    (row,) = next(table.rows for table in tables_of(made) if table.name == "latency")
    found = {name: row[name] for name in ("way_0", "way_1", "way_2", "relative", "keys")}
    assert found == {"way_0": 4.0, "way_1": 9.0, "way_2": 1.0, "relative": 0.5, "keys": pruned[:8]}
    assert (row["relative_low"], row["relative_high"]) == (0.25, 0.5)
    assert dense not in row["keys"]


def test_intervals_are_over_seeds(empty: Store, hand: SimpleNamespace) -> None:
    """Medians of 0.4, 0.5 and 0.6 over three seeds are 0.5 with Student's t at two degrees."""
    ways = {}
    for seed in range(3):
        chain = hand.note(empty, "a", seed, [(hand.measure(""), hand.measured(900), None)])
        ways[chain[-1]] = {"dense": [1.0] * 3, "engine": [0.4 + 0.1 * seed] * 3}
    latency.write(Timings({}, ways), empty.root / FILE)
    (made,) = articles(Report(stores=(empty.root,)))
    (row,) = next(table.rows for table in tables_of(made) if table.name == "latency")
    assert row["relative"] == pytest.approx(0.5)
    assert row["relative_high"] - 0.5 == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)


def test_a_file_from_elsewhere_joins_the_one_in_the_store(store: Store, tmp_path: Path) -> None:
    """Times of a phone stand beside those of this machine, as one more way."""
    key = wanted(store)[1].key
    latency.write(Timings({}, {key: {"torch": [1.0]}}), store.root / FILE)
    (tmp_path / "phone.json").write_text(json.dumps({"networks": {key: {"a phone": [7, 9, 8]}}}))
    report = Report(stores=(store.root,), latencies=(tmp_path / "phone.json",))
    assert report.timings().networks == {key: {"torch": [1.0], "a phone": [7.0, 9.0, 8.0]}}
    (made,) = articles(report)
    (row,) = next(table.rows for table in tables_of(made) if table.name == "latency")
    assert (row["way_0"], row["way_1"], "relative" in row) == (1.0, 8.0, False)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"networks": {"k": [1.0]}}', '{"networks": {"k": {"w": ["x"]}}}',
     '{"networks": {"k": {"w": [0.0]}}}', '{"networks": {"k": {"w": [NaN]}}}'],
)  # fmt: skip
def test_files_of_anything_else_are_refused(text: str, tmp_path: Path) -> None:
    """Whatever is no file of positive times is named, with what to write instead."""
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(BoxwoodError, match=r"Expected JSON such as .*, got .*; measure with"):
        latency.read(path)


def test_bad_settings_say_what_to_do(store: Store) -> None:
    """Nothing to run with, and more examples than there are."""
    with pytest.raises(BoxwoodError, match="at least 1, got 0, 1 and 21; give 1 or more"):
        Settings(batch=0)
    with pytest.raises(BoxwoodError, match=r"validation examples to measure with, got .*--batch"):
        measure_all(store, wanted(store), Settings(batch=10**6))


def test_a_full_disk_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The times that were there stay, and nothing half-written is left."""
    path = store.root / FILE
    latency.write(Timings({}, {"k": {"torch": [1.0]}}), path)

    def full(self: Path, *args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BoxwoodError, match=r"Expected to write .*No space left.*; free some space"):
        latency.write(Timings(), path)
    monkeypatch.undo()
    assert latency.read(path).networks == {"k": {"torch": [1.0]}}
    assert not list(store.root.glob(".new-*"))
