"""One damaged file costs that file: it is named, and everything else is read as before."""

import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.core.call import Call
from boxwood._internal.core.replacing import UNFINISHED
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Genesis
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.runs import runner
from boxwood._internal.runs import store as store_module
from boxwood._internal.runs.difference import history
from boxwood._internal.runs.garbage import collect_garbage
from boxwood._internal.runs.runner import Job, run_all
from boxwood._internal.runs.store import Store, StoredCheckpoints
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.train.snapshots import Snapshot
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.errors import BoxwoodError, DamagedFileWarning

START = Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits)
JOBS = [
    Job(START, (Measure(label="dense"),), "dense / seed 0"),
    Job(START, (Prune(sparsity=0.5), Measure(label="half")), "half / seed 0"),
]
DENSE, HALF = (job.chain[-1] for job in JOBS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("damaged") / "made")
    run_all(JOBS, store)
    return store


@pytest.fixture
def store(made: Store, tmp_path: Path) -> Store:
    """A store of two runs, to be damaged."""
    return Store(shutil.copytree(made.root, tmp_path / "runs"))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_newer_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [a_pipe, a_newer_format, one_bit, half])
def test_a_damaged_note_is_named_and_the_others_are_read(
    store: Store, damage: Callable[[Path], None]
) -> None:
    """The list and the report hold the other run; running again writes the note anew."""
    path = store.root / "runs" / f"{HALF}.json"
    damage(path)
    with pytest.warns(DamagedFileWarning, match=str(path)):
        (left,) = store.runs()
    assert left["name"] == "dense / seed 0"
    with pytest.warns(DamagedFileWarning, match=str(path)):
        done = CliRunner().invoke(app, ["runs", "list", "--json", "--store", str(store.root)])
    assert [row["name"] for row in json.loads(done.stdout)] == ["dense / seed 0"]
    if damage is a_newer_format:
        with pytest.raises(BoxwoodError, match="got format 3"):
            run_all(JOBS, store)
    else:
        run_all(JOBS, store)
        assert len(store.runs()) == 2


@pytest.mark.parametrize("damage", [a_pipe, a_newer_format, one_bit, half])
def test_a_damaged_phase_is_named_and_the_others_are_read(
    store: Store, damage: Callable[[Path], None]
) -> None:
    """The report has the other network, and the phase counts as not done; asked for, it is refused."""
    path = store.root / "phases" / HALF / "phase.json"
    damage(path)
    with pytest.warns(DamagedFileWarning, match=str(path)):
        (study,) = read([store])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedFileWarning)
        assert [each.name for each in study.measurements] == ["dense dense"]
    for refused in (store.record, store.load):
        with pytest.raises(BoxwoodError, match=str(path)):
            refused(HALF)
    assert store.load(DENSE).facts["test"]["total"] == 360


def test_a_phase_that_comes_before_itself_is_refused(store: Store) -> None:
    """The history of a phase ends, whatever a record says."""
    path = store.root / "phases" / HALF / "phase.json"
    record = json.loads(path.read_text())
    del record["seal"]
    path.write_text(json.dumps({**record, "parent": HALF}))
    with pytest.raises(BoxwoodError, match="it comes before itself"):
        history(store, HALF)


def test_what_is_being_written_is_read_by_nobody(store: Store) -> None:
    """A note that was being written when its process was killed is no run, and gc takes it away."""
    whole = (store.root / "runs" / f"{HALF}.json").read_bytes()
    for name, content in ((f"{UNFINISHED}1-{HALF}.json", whole), (f"{UNFINISHED}x.json", b"{")):
        (store.root / "runs" / name).write_bytes(content)
    assert len(store.runs()) == 2
    assert collect_garbage(store) == len(whole) + 1
    assert sorted(path.stem for path in (store.root / "runs").iterdir()) == sorted([DENSE, HALF])


def test_gc_leaves_what_another_process_is_making(store: Store) -> None:
    """While its key is locked, an unfinished phase or snapshot stays; then it goes."""
    key = "0123456789abcdef0123"
    folder = store.root / "phases" / f"{UNFINISHED}77-{key}"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"123")
    snapshot = store.root / "partial" / f"{UNFINISHED}77-{key}.safetensors"
    snapshot.parent.mkdir()
    snapshot.write_bytes(b"12345")
    with store.lock(key) as mine:
        assert mine
        assert collect_garbage(store) == 0
        assert folder.exists()
        assert snapshot.exists()
    assert collect_garbage(store) == 8
    assert not folder.exists()
    assert not snapshot.exists()


def test_gc_deletes_what_no_run_wants_and_nothing_else(store: Store, tmp_path: Path) -> None:
    """The phases of a run whose note is gone, a link whose target stays; no stranger's file."""
    (store.root / "runs" / f"{HALF}.json").unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (store.root / "phases" / ("0" * 20)).symlink_to(tmp_path / "mine")
    (store.root / "phases" / "thesis.txt").write_text("mine too")
    assert collect_garbage(store) > 0
    left = {path.name for path in (store.root / "phases").iterdir()}
    assert left == {*JOBS[0].chain, "thesis.txt"}
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_gc_keeps_all_phases_while_a_note_is_damaged(store: Store) -> None:
    """Nobody knows what the note wanted."""
    half(store.root / "runs" / f"{HALF}.json")
    with pytest.warns(DamagedFileWarning, match="Until then no finished phase is deleted"):
        assert collect_garbage(store) == 0
    assert set(store.phases()) == {*JOBS[0].chain, *JOBS[1].chain}


def test_a_run_that_is_noted_while_gc_waits_keeps_its_phases(store: Store) -> None:
    """Gc looks at the notes only when nobody can note a run any more."""
    note = store.root / "runs" / f"{HALF}.json"
    text = note.read_bytes()
    note.unlink()
    with store.noting():
        gc = threading.Thread(target=collect_garbage, args=(Store(store.root),))
        gc.start()
        note.write_bytes(text)
    gc.join(timeout=60)
    assert store.has(HALF)


def test_a_lock_that_is_never_let_go_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noting a run ends with an error that names the lock; waiting for a phase says for what."""
    monkeypatch.setattr(store_module, "_PATIENCE", 0.1)
    with store.noting(), pytest.raises(BoxwoodError, match=r"lock .*notes.lock to be free.*fuser"):
        store.note_run("0" * 20, {"name": "a"})
    monkeypatch.setattr(runner, "_TELL_AFTER", 0.0)
    shutil.rmtree(store.root / "phases" / HALF)
    lock = store.lock(HALF)
    assert lock.__enter__()
    released = threading.Timer(1.0, lambda: lock.__exit__(None, None, None))
    released.start()
    with pytest.warns(UserWarning, match=f"fuser .*{HALF}.lock"):
        run_all(JOBS, store)
    assert store.has(HALF)


def training(store: Store) -> dict[str, torch.Tensor]:
    """Train for some steps with a snapshot at each of them; return the weights."""
    training = Training(steps=6, batch=60, optimizer=SGD(lr=0.05, momentum=0.9), watch_every=2)
    job = Job(START, (Train(training=training),))
    run_all([job], store, runner.RunSettings(snapshot_every=0))
    return dict(store.load(job.chain[-1]).weights)


def test_a_snapshot_that_does_not_fit_costs_no_training(tmp_path: Path) -> None:
    """It is warned of, and the result is that of an undisturbed training."""
    store = Store(tmp_path / "full")
    store.root.mkdir()
    (store.root / "partial").write_text("in the way, as a full disk is")
    with pytest.warns(UserWarning, match="The training goes on without a new snapshot"):
        found = training(store)
    wanted = training(Store(tmp_path / "calm"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("damage", [a_pipe, one_bit, half])
def test_a_damaged_snapshot_counts_as_none(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """It is named, and the phase begins again."""
    store = Store(tmp_path)
    kept = StoredCheckpoints(store, HALF, 0)
    kept.save(Snapshot({"a": torch.ones(300)}, {"step": 3}))
    assert kept.load().facts == {"step": 3}
    path = tmp_path / "partial" / f"{HALF}.safetensors"
    damage(path)
    with pytest.warns(DamagedFileWarning, match=f"{path}.*its phase begins again"):
        assert kept.load() is None


def test_a_start_that_means_something_else_builds_nothing(store: Store) -> None:
    """A note that was changed names another start than the phases have."""
    path = store.root / "runs" / f"{HALF}.json"
    note = json.loads(path.read_text())
    del note["seal"]
    path.write_text(json.dumps({**note, "genesis": {**note["genesis"], "seed": 1}}))
    words = ["runs", "latency", "--store", str(store.root), "--only", "half*"]
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, BoxwoodError)
    assert "the file that defines it has changed since" in str(refused)


def test_one_damaged_state_costs_one_measurement(store: Store) -> None:
    """The other networks are measured."""
    pytest.importorskip("llvmlite")
    path = store.root / "phases" / HALF / "state.safetensors"
    one_bit(path)
    words = ["runs", "latency", "--store", str(store.root), "--turns", "1"]
    with pytest.warns(DamagedFileWarning, match=f"{path}.*its bytes are not those"):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert set(json.loads((store.root / "latency.json").read_text())["networks"]) == {DENSE}


def test_a_snapshot_of_a_newer_boxwood_is_refused(store: Store, monkeypatch) -> None:
    """It is not thrown away: the newer one can go on from it."""
    monkeypatch.setattr(store_module, "FORMAT", 3)
    store.save_snapshot(HALF, Snapshot({}, {}))
    monkeypatch.undo()
    with pytest.raises(BoxwoodError, match=r"format 2, got format 3 in .*partial"):
        store.snapshot(HALF)


def test_a_store_of_an_older_boxwood_says_that_it_must_be_run_again(store: Store) -> None:
    """Its classes had other names; nothing of it is deleted, and nothing is taken for damaged."""
    (note,) = [path for path in (store.root / "runs").glob("*.json") if path.stem == HALF]
    old = json.loads(note.read_text())
    note.write_text(json.dumps({k: v for k, v in old.items() if k not in ("format", "seal")}))
    wanted = "format 2, got format 1 .* which an older Boxwood wrote; run the experiment again"
    with pytest.warns(DamagedFileWarning, match=wanted):
        store.runs()
    with pytest.raises(BoxwoodError, match=wanted):
        run_all(JOBS, store)
    assert note.exists()


def test_the_rest_of_a_phase_is_no_obstacle(store: Store) -> None:
    """A folder that lost its record is made anew."""
    (store.root / "phases" / HALF / "phase.json").unlink()
    run_all(JOBS, store)
    assert store.load(HALF).facts["test"]["total"] == 360
