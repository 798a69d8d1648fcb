"""Killed anywhere, run again: byte for byte the undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXPERIMENT = """
from boxwood import SGD, Call, Experiment, Training, iterative
from boxwood._internal.data.digits import digits
from torch import nn

def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Dropout(0.2), nn.Linear(40, 10))

def recipe():
    training = Training(epochs=3, batch=60, optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=1e-4))
    return Experiment(model=model, data=digits, branches=(("pruned", iterative(training, training, (0.5, 0.8))),))
"""

SEARCH = """
from boxwood import SGD, Call, Experiment, Training
from boxwood._internal.agent.search import TryAndLearn
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.filter_agent import filter_agent
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.zoo.cifar_nets import small_vgg

def recipe():
    training = Training(epochs=2, batch=60, optimizer=SGD(lr=0.05, momentum=0.9))
    search = SearchFilters(layer="", search=TryAndLearn(bound=4.0, updates=30, certainty=1.0))
    agent = filter_agent(training, search, training, layers=("conv1.weight", "conv2.weight"))
    return Experiment(
        model=Call.of(small_vgg, widths=(6, 6)), data=digits, branches=(("agent", agent),)
    )
"""


def start(file: Path, store: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", "from boxwood._internal.cli.main import main; main()"]
    options = ["run", f"{file}:recipe", "--store", str(store), "--snapshot-every", "0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


@pytest.mark.parametrize(("experiment", "times"), [(EXPERIMENT, 8), (SEARCH, 4)])
def test_killed_at_random_moments_the_result_is_the_undisturbed_one(
    tmp_path, contents, experiment, times
):
    """SIGKILL at many random moments, then a run to the end: every phase has the same bytes."""
    file = tmp_path / "study.py"
    file.write_text(experiment)
    finish(start(file, tmp_path / "calm"))
    chance = random.Random(5)
    killed = 0
    for _ in range(times):
        process = start(file, tmp_path / "storm")
        # Most moments fall into the work itself, which begins once the store is there.
        deadline = time.monotonic() + 60
        while not (tmp_path / "storm" / "runs").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.6))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert killed
    finish(start(file, tmp_path / "storm"))
    assert contents(tmp_path / "storm") == contents(tmp_path / "calm")


def test_two_processes_on_one_store_share_the_work(tmp_path, contents):
    """Started together, two processes leave the phases of one, each made once."""
    file = tmp_path / "study.py"
    file.write_text(EXPERIMENT)
    both = [start(file, tmp_path / "shared") for _ in range(2)]
    for process in both:
        finish(process)
    finish(start(file, tmp_path / "alone"))
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
