"""Killed anywhere, run again: byte for byte the undisturbed run."""

import random
import time
from pathlib import Path

import pytest

EXPERIMENT = """
from boxwood import Experiment
from boxwood.optim import SGD
from boxwood.recipes import Call, iterative
from boxwood.training import Training
from boxwood._internal.data.digits import digits
from torch import nn

def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Dropout(0.2), nn.Linear(40, 10))

def recipe():
    training = Training(epochs=2, batch=60, optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=1e-4))
    return Experiment(model=model, data=digits, branches=(("pruned", iterative(training, training, (0.5, 0.8))),))
"""

SEARCH = """
from boxwood import Experiment
from boxwood.optim import SGD
from boxwood.recipes import Call
from boxwood.training import Training
from boxwood._internal.agent.search import TryAndLearn
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.filter_agent import filter_agent
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.zoo.cifar_nets import small_vgg

def recipe():
    training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.05, momentum=0.9))
    search = SearchFilters(layer="", search=TryAndLearn(bound=4.0, updates=30, certainty=1.0))
    agent = filter_agent(training, search, training, layers=("conv1.weight", "conv2.weight"))
    return Experiment(
        model=Call.of(small_vgg, widths=(6, 6)), data=digits, branches=(("agent", agent),)
    )
"""

MODERN = """
from boxwood import Experiment
from boxwood.data import digits
from boxwood.layers import linear_and_conv
from boxwood.networks import small_resnet
from boxwood.optim import AdamW, CosineLR
from boxwood.policies import Gradual
from boxwood.recipes import Call, sparse_training
from boxwood.schedules import Cubic
from boxwood.training import EMA, Computation, CutMix, Loading, MixUp, Regularisation, Training
import torch

def transform(image):
    return image + torch.randn(image.shape) / 10

def recipe():
    training = Training(
        steps=20, batch=40, optimizer=AdamW(lr=0.01, lr_schedule=CosineLR()),
        loading=Loading(transform=transform, workers=2), mixing=(MixUp(), CutMix()), averaging=EMA(),
        computation=Computation(microbatches=2, bfloat16=True),
        regularisation=Regularisation(decay_layers=linear_and_conv),
    )
    policy = Gradual(schedule=Cubic(final=0.8, end=15), every=5)
    return Experiment(
        model=Call.of(small_resnet, widths=(4, 4)), data=digits,
        branches=(("pruned", sparse_training(train=training, policy=policy)),),
    )
"""

EVERY_STEP = ("--snapshot-every", "0")


def words(file: Path, store: Path, *more: str) -> tuple[str, ...]:
    return ("run", f"{file}:recipe", "--store", str(store), "--json", *more)


@pytest.mark.parametrize(("experiment", "times"), [(EXPERIMENT, 8), (SEARCH, 4), (MODERN, 3)])
def test_killed_at_random_moments_the_result_is_the_undisturbed_one(
    tmp_path, contents, forks, experiment, times
):
    """SIGKILL at many random moments, then a run to the end: every phase has the same bytes."""
    file = tmp_path / "study.py"
    file.write_text(experiment)
    assert forks.run(*words(file, tmp_path / "calm")).returncode == 0
    chance = random.Random(5)
    killed = 0
    for _ in range(times):
        process = forks.start(*words(file, tmp_path / "storm", *EVERY_STEP))
        # Most moments fall into the work itself, which begins once the store is there.
        deadline = time.monotonic() + 60
        while not (tmp_path / "storm" / "runs").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.6))
        killed += process.poll() is None
        process.kill()
    assert killed
    assert forks.run(*words(file, tmp_path / "storm", *EVERY_STEP)).returncode == 0
    assert contents(tmp_path / "storm") == contents(tmp_path / "calm")


def test_two_processes_on_one_store_share_the_work(tmp_path, contents, forks):
    """Started together, two processes leave the phases of one, each made once."""
    file = tmp_path / "study.py"
    file.write_text(EXPERIMENT)
    both = [forks.start(*words(file, tmp_path / "shared")) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], [process.stderr for process in both]
    assert forks.run(*words(file, tmp_path / "alone")).returncode == 0
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
