"""Several workers on one store: killed ones are replaced by the others, and nothing is done twice."""

import json
import sys
import time
from dataclasses import asdict

import pytest
import torch

from boxwood._internal.cli.execute import execute
from boxwood._internal.core.call import Call
from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Linear
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.lottery_ticket import (
    layerwise_rates,
    lottery_ticket,
    reinitialised_ticket,
)
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.runs.runner import Job, RunSettings, jobs_of, run_all
from boxwood._internal.runs.store import Store
from boxwood._internal.runs.workers import order_for, run_in_processes, work
from boxwood._internal.train.optimizers import SGD, Adam
from boxwood._internal.train.settings import PolicyPruning, Training
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.errors import BoxwoodError, MissingDependency

NET = Call.of(lenet_300_100, inputs=64)


def jobs(steps: int = 20, levels: int = 2, seeds: int = 1) -> list[Job]:
    training = Training(steps=steps, batch=60, optimizer=Adam(lr=1e-3), watch_every=10)
    ticket = lottery_ticket(train=training, prune=layerwise_rates(("*", 0.3)), levels=levels)
    branches = (("ticket", ticket), ("reinit", reinitialised_ticket(ticket, levels)))
    return jobs_of(Experiment(model=NET, data=digits, branches=branches), range(seeds))


def start(forks, jobs: list[Job], store: Store, snapshot_every: float = 30.0):
    """Begin a worker; it ends when the pipe that is returned with it closes."""
    order = order_for(jobs, store, RunSettings(snapshot_every=snapshot_every), threads=1)
    worker = forks.start(entry="worker")
    pipe = worker.given.open("w")
    pipe.write(json.dumps(asdict(order)) + "\n")
    pipe.flush()
    return worker, pipe


def test_two_workers_leave_what_one_process_leaves(tmp_path, contents):
    """The store of two workers holds the phases of one process, byte for byte."""
    seen = []
    run_in_processes(
        jobs(), Store(tmp_path / "two"), workers=2, progress=lambda done, n: seen.append((done, n))
    )
    run_all(jobs(), Store(tmp_path / "one"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "two")) == seen[-1][1]


def test_a_killed_workers_phase_is_made_by_another(tmp_path, contents, forks):
    """SIGKILL in the middle of a training: a worker that waited takes its lock and its snapshot."""
    wanted = jobs(steps=600, levels=1, seeds=1)[:1]
    store = Store(tmp_path / "store")
    first, first_pipe = start(forks, wanted, store, snapshot_every=0.1)
    deadline = time.monotonic() + 60
    while not list((store.root / "partial").glob("[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    second, second_pipe = start(forks, wanted, store, snapshot_every=0.1)
    time.sleep(0.1)
    first.kill()
    interrupted = len(contents(store.root))
    assert second.wait() == 0, second.stderr
    for pipe in (first_pipe, second_pipe):  # closing a worker's earlier would end it
        pipe.close()
    assert interrupted < len(contents(store.root)) == len(wanted[0].chain)
    run_all(wanted, Store(tmp_path / "calm"))
    assert contents(store.root) == contents(tmp_path / "calm")


def test_a_worker_ends_when_its_parent_does(tmp_path, forks):
    """When the pipe from the parent closes, a worker ends although work is left."""
    worker, pipe = start(forks, jobs(steps=100_000, seeds=1), Store(tmp_path))
    pipe.close()
    assert worker.wait() == 1


def test_longest_chains_come_first(tmp_path):
    """What is started last is short, so that workers end together."""
    order = order_for(list(reversed(jobs())), Store(tmp_path), RunSettings(), threads=1)
    chains = {job.chain[-1]: job.chain for job in jobs()}
    lengths = [len(chains[key]) for key in order.runs]
    assert lengths == sorted(lengths, reverse=True)


def test_what_workers_warn_of_and_refuse_is_said_here(tmp_path):
    """A warning once, however many say it, and the message of a training that diverges."""
    policy = Gradual(schedule=Linear(final=0.5, end=20), every=5)
    short = Training(steps=10, batch=60, optimizer=SGD(lr=0.1), pruning=PolicyPruning(policy))
    wild = Training(steps=20, batch=60, optimizer=SGD(lr=1e30), watch_every=5)
    branches = (("short", (Train(training=short),)), ("bad", (Train(training=wild),)))
    wanted = jobs_of(Experiment(model=NET, data=digits, branches=branches), [0, 1])
    said = pytest.warns(UserWarning, match="after 10 steps, at a sparsity of 0.250")
    refused = pytest.raises(BoxwoodError, match=r"Expected a finite loss, .* learning rate below")
    with said as seen, refused:
        run_in_processes(
            sorted(wanted, key=lambda job: job.name.startswith("bad")), Store(tmp_path), workers=1
        )
    assert len(seen) == 1


def test_what_workers_refuse(tmp_path, monkeypatch):
    """No worker, an order that the code no longer means, a worker that dies of something else."""
    with pytest.raises(BoxwoodError, match=r"at least one worker of one thread, got workers=0"):
        run_in_processes(jobs(), Store(tmp_path), workers=0)
    store = Store(tmp_path / "changed")
    order = order_for(jobs(), store, RunSettings(), threads=torch.get_num_threads())
    for file in (store.root / "runs").iterdir():
        said = json.loads(file.read_text().replace("0.001", "0.002"))
        file.write_text(json.dumps({name: said[name] for name in said if name != "seal"}))
    with pytest.raises(BoxwoodError, match=r"the file that defines it has changed since"):
        work(order)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BoxwoodError, match=r"workers that finish, got exit codes \[1\]"):
        run_in_processes(jobs(), Store(tmp_path / "dead"), workers=1)


def test_two_tasks_of_a_ray_cluster_leave_what_one_process_leaves(tmp_path, contents):
    """A local Ray cluster of two workers holds the phases of one process, byte for byte."""
    pytest.importorskip("ray")
    from boxwood._internal.runs.ray_cluster import run_on_ray

    run_on_ray(jobs(), Store(tmp_path / "ray"), workers=2)
    run_all(jobs(), Store(tmp_path / "one"))
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    """A missing Ray is told with the extra that brings it."""
    from boxwood._internal.runs.ray_cluster import run_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"Expected Ray .*pip install 'boxwood\[ray\]'"):
        run_on_ray(jobs(), Store(tmp_path), workers=2)


def test_the_command_hands_the_work_to_workers_or_to_ray(tmp_path, monkeypatch, capsys):
    """``--workers`` and ``--ray`` choose who runs the jobs; the report is the same."""
    asked = []

    def here(jobs, store, settings, **given):
        asked.append(given)
        run_all(jobs, store, settings)

    monkeypatch.setattr("boxwood._internal.report.experiments.run_in_processes", here)
    monkeypatch.setattr("boxwood._internal.cli.execute.run_on_ray", here)
    training = Training(steps=5, batch=60, optimizer=Adam(lr=1e-3))
    branches = (("dense", (Train(training=training), Measure())),)
    experiment = Experiment(model=NET, data=digits, branches=branches)
    for number, given in enumerate(({}, {"workers": 2}, {"workers": 2, "ray": "local"})):
        folder = tmp_path / str(number)
        found = execute(experiment, store=folder, seeds=range(1), threads=1, as_json=True, **given)
        assert [each.name for each in found] == ["dense"]
    capsys.readouterr()
    assert asked == [
        {"workers": 2, "threads": 1},
        {"workers": 2, "threads": 1, "gpus": None, "address": None},
    ]
