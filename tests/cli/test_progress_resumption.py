"""Progress in pipes is a line per phase, and Ctrl-C loses nothing and says so."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from boxwood._internal.cli import main
from boxwood._internal.cli.narration import Narration, narrated
from boxwood._internal.cli.progress import bar, byte_bar, titled_bar
from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.report.tables import human_seconds
from boxwood._internal.runs.runner import RunSettings, jobs_of, run_all
from boxwood._internal.runs.store import Store
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100

LINE = re.compile(
    r"boxwood: (\d+) of (\d+) phases done: (dense|pruned) / seed \d, [^,]+, in [\d.]+ s"
    r"(; about [^;]+ left)?"
)
RUN = """
from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.settings import Training
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.zoo.lenet import lenet_300_100

def recipe(epochs=1):
    training = Training(epochs=epochs, batch=60, optimizer=SGD(lr=0.1))
    return Experiment(model=Call.of(lenet_300_100, inputs=64), data=digits,
        branches=(("dense", (Train(training=training), Measure())),))
"""


def experiment(epochs: int = 1) -> Experiment:
    training = Training(epochs=epochs, batch=60, optimizer=SGD(lr=0.1))
    pruned = (Train(training=training), Prune(sparsity=0.5), Train(training=training), Measure())
    return Experiment(
        model=Call.of(lenet_300_100, inputs=64),
        data=digits,
        branches=(("dense", (Train(training=training), Measure())), ("pruned", pruned)),
    )


def test_each_phase_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted up to all of them, in words, without control characters; again, all are done already."""
    jobs, store = jobs_of(experiment(), [0]), Store(tmp_path)
    with narrated(jobs, store) as watch:
        run_all(jobs, store, RunSettings(watcher=watch))
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "boxwood: 6 phases"
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    assert [int(each[1]) for each in found] == [1, 2, 3, 4, 5, 6]
    assert "; about" not in lines[-1]
    with narrated(jobs, store) as watch:
        run_all(jobs, store, RunSettings(watcher=watch))
    assert capsys.readouterr().err == "boxwood: 6 phases, 6 of them done already\n"


def test_the_time_that_is_left_is_that_of_phases_alike(tmp_path: Path) -> None:
    """Trainings take what trainings took; two workers take half of it."""
    store = Store(tmp_path)
    some, all_ = jobs_of(experiment(), [0]), jobs_of(experiment(), [0, 1, 2])
    run_all(some, store)
    took = {
        key: float(store.record(key)["provenance"]["seconds"]) for job in some for key in job.chain
    }
    dense, pruned = (job.chain for job in some)
    # Of each seed: two trainings, of one title, two measurements, a pruning and a start.
    training = (took[dense[1]] + took[pruned[3]]) / 2
    measuring = (took[dense[2]] + took[pruned[4]]) / 2
    whole = 2 * (2 * training + 2 * measuring + took[pruned[2]] + took[dense[0]])
    for workers in (1, 2):
        said = Narration(all_, store, workers=workers)._rest()
        assert said == f"; about {whole / workers:.1f} s left"


def test_longer_trainings_take_longer(tmp_path: Path) -> None:
    """A title that was never done takes what its epochs took elsewhere."""
    store = Store(tmp_path)
    (short, _), (long, _) = (jobs_of(experiment(epochs), [0]) for epochs in (1, 40))
    run_all([short], store)
    start, training, measuring = (
        float(store.record(key)["provenance"]["seconds"]) for key in short.chain
    )
    narration = Narration([short, long], store, workers=1)
    assert start > 0
    assert narration._rest() == f"; about {human_seconds(40 * training + measuring)} left"


def test_long_phases_are_told_of_in_between(tmp_path: Path) -> None:
    """After half a minute of silence, with the time that is left by the speed so far."""
    now = [0.0]
    (job, _), store = jobs_of(experiment(), [0]), Store(tmp_path)
    narration = Narration([job], store, workers=1, clock=lambda: now[0])
    narration.watch(job, 1, 100, 1000)
    now[0] = 29.0
    assert not narration.reminder()
    narration.watch(job, 1, 400, 1000)
    now[0] = 30.0
    (said,) = narration.reminder()
    assert said.startswith(
        "0 of 3 phases done: dense / seed 0, Train 1 epochs, 400 of 1,000 steps; "
    )
    assert said.endswith("; about 1 min 00 s of it left")
    now[0] = 59.0
    assert not narration.reminder()


def test_bars_are_lines_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every ten seconds, with the time that is left; short work says nothing, and neither does JSON."""
    now = [0.0]
    monkeypatch.setattr("boxwood._internal.cli.progress.time.monotonic", lambda: now[0])
    for quiet in (False, True):
        with bar("blocks", quiet=quiet) as tell:
            for block in range(24):
                now[0] += 4
                if tell is not None:
                    tell(block + 1, 24)
        with byte_bar(quiet=quiet) as watch:
            for done, seconds in ((1_000_000, 1), (2_500_000, 30), (3_000_000, 1)):
                now[0] += seconds
                watch("packing", done, 5_000_000)
            now[0] += 30
            watch("reading", 4_000_000, 0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "boxwood: blocks: 3 of 24; about 1 min 24 s left"
    assert lines[7:] == [
        "boxwood: blocks: 24 of 24; about 0.0 s left",
        "boxwood: packing: 2.50 MB of 5.00 MB; about 31.0 s left",
        "boxwood: reading: 4.00 MB",
    ]


def test_workers_are_told_of_and_stopped(tmp_path: Path, forks) -> None:
    """In a pipe; after Ctrl-C nobody works on, nothing is lost, and the same command goes on."""
    (tmp_path / "mine.py").write_text(RUN)
    words = ("--set", "epochs=3000", "--store", "store", "--workers", "2", "--seeds", "2")
    running = forks.start("run", "mine.py:recipe", *words, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while running.stderr.count("\n") < 2:  # the second line: a start is done
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait() == 130
    text = running.stderr
    lines = text.splitlines(keepends=True)[:2]
    assert "\x1b" not in text
    assert "\r" not in text
    assert "Traceback" not in text
    assert lines[0] == "boxwood: 6 phases\n"
    assert LINE.fullmatch(lines[1].rstrip())
    assert text.splitlines()[-1] == (
        "boxwood: stopped. Nothing is lost: finished phases are in store, and a training under way "
        "goes on from its last snapshot, one every 30 s. Run the same command again to go on."
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("workers are left")


@pytest.mark.parametrize(
    ("words", "where", "said"),
    [
        (("run", "boxwood._internal.cli.demo:experiment", "--store", "s"), "boxwood._internal.report.experiments.run_all",
         "Nothing is lost: finished phases are in s"),
        (("run", "boxwood._internal.cli.demo:experiment", "--store", "s", "--workers", "2"),
         "boxwood._internal.report.experiments.run_in_processes", "Nothing is lost: finished phases are in s"),
        (("demo", "--store", "s", "--json"), "boxwood._internal.report.experiments.run_all", "Nothing is lost"),
        (("prune", "in", "--sparsity", "0.5", "--out", "o"), "boxwood._internal.cli.prune.prune_checkpoint",
         "What is finished is kept in o; run the same command again to resume."),
        (("pack", "in", "--out", "o"), "boxwood._internal.cli.pack._convert", ""),
    ],
)  # fmt: skip
def test_ctrl_c_says_how_to_go_on(
    words: tuple[str, ...],
    where: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And ends with 130, as shells expect."""
    import torch
    from safetensors.torch import save_file

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    save_file({"w": torch.eye(8)}, tmp_path / "in" / "model.safetensors")
    monkeypatch.setattr(where, stop)
    monkeypatch.setattr(sys, "argv", ["boxwood", *words])
    monkeypatch.setattr(main, "settle", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"boxwood: stopped. {said}".rstrip())


def test_what_is_taken_up_again_counts_from_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first call is what was done before; the time that is left follows from what came after."""
    now = [0.0]
    monkeypatch.setattr("boxwood._internal.cli.progress.time.monotonic", lambda: now[0])
    with titled_bar(quiet=False) as show:
        show("heal", 900, 1000)
        now[0] += 20
        show("heal, loss 3.1", 910, 1000)
    assert capsys.readouterr().err == (
        "boxwood: heal, loss 3.1: 910 of 1000; about 3 min 00 s left\n"
    )
