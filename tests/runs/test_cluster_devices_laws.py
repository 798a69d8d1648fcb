"""Each worker of a study has a device of its own, on one machine and on a Ray cluster."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.core.call import Call
from boxwood._internal.runs import ray_cluster, workers
from boxwood._internal.runs.ray_cluster import run_on_ray
from boxwood._internal.runs.workers import device_of, run_in_processes
from boxwood.data import digits
from boxwood.errors import BoxwoodError
from boxwood.networks import lenet_300_100
from boxwood.optim import Adam
from boxwood.phases import Measure, Train
from boxwood.recipes import Genesis
from boxwood.runs import Job, RunSettings, Store, run_all
from boxwood.training import Training

CUDA = RunSettings(device=torch.device("cuda"))


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """Tasks that run here and now set this process's threads, which decides how sums are rounded."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch count three CUDA devices."""
    module = SimpleNamespace(device_count=lambda: 3)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)


def jobs(steps: int, seeds: int = 1) -> list[Job]:
    training = Training(steps=steps, batch=60, optimizer=Adam(lr=1e-3))
    net = Call.of(lenet_300_100, inputs=64)
    recipe = (Train(training=training), Measure())
    return [Job(Genesis(model=net, data=digits, seed=seed), recipe) for seed in range(seeds)]


@pytest.mark.usefixtures("three_gpus")
def test_workers_of_a_machine_share_out_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One each, then again from the first; all on one that is named, and on the CPU."""
    begun = []

    def start(order: workers.Order, said: object) -> Any:
        begun.append(order.device)
        done = SimpleNamespace(poll=lambda: 0, returncode=0)
        return SimpleNamespace(**vars(done), terminate=lambda: None, communicate=lambda: None)

    monkeypatch.setattr(workers, "_start", start)
    run_in_processes([], Store(tmp_path), CUDA, workers=4)
    assert begun == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    for name in ("cpu", "cuda:1"):
        assert {device_of(number, torch.device(name)) for number in range(4)} == {
            torch.device(name)
        }


def test_a_worker_makes_its_device_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever names a kind of device without a number is on the worker's own as well."""
    chosen: list[torch.device] = []
    module = SimpleNamespace(set_device=chosen.append)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    for name in ("cuda:2", "cuda", "cpu"):
        workers.work(workers.Order(store=str(tmp_path), runs=(), device=name))
    assert chosen == [torch.device("cuda:2")]


class Ray(ModuleType):
    """As much of Ray as is asked for; tasks run here and now."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        super().__init__("ray")
        self.asked: list[dict[str, Any]] = []
        self.machines = [{"Alive": True, "Resources": node} for node in nodes]
        self.exceptions = SimpleNamespace(RayTaskError=KeyError)

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return self.machines

    def remote(self, **options: Any) -> Any:
        def task(function: Any) -> Any:
            def begin(*args: Any) -> None:
                self.asked.append(options)
                function(*args)

            return SimpleNamespace(remote=begin)

        return task

    def get(self, results: list[None]) -> None:
        assert set(results) == {None}


@pytest.mark.parametrize(
    ("device", "gpus", "asked"),
    [("cuda", None, 1.0), ("cpu", None, 0.0), ("cuda", 0.5, 0.5), ("cuda", 0, 0), ("cuda:1", 0, 0)],
)
def test_tasks_of_ray_ask_for_gpus(
    device: str, gpus: float | None, asked: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as were given; by default one where the device is no CPU."""
    ray = Ray({"CPU": 4.0, "GPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    settings = RunSettings(device=torch.device(device))
    run_on_ray([], Store(tmp_path), settings, workers=2, threads=3, gpus=gpus)
    assert [(each["num_cpus"], each["num_gpus"]) for each in ray.asked] == [(3, asked)] * 2


def test_what_a_cluster_cannot_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A numbered device is refused; a task that no machine has room for is warned of."""
    monkeypatch.setitem(sys.modules, "ray", Ray({"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}))
    numbered = RunSettings(device=torch.device("cuda:1"))
    with pytest.raises(BoxwoodError, match=r"without a number, .* got cuda:1; give cuda\."):
        run_on_ray([], Store(tmp_path), numbered, workers=1)
    run_on_ray([], Store(tmp_path), CUDA, workers=1)
    with pytest.warns(UserWarning, match="has 2 CPUs and 1 GPUs, which each task asks for"):
        run_on_ray([], Store(tmp_path), CUDA, workers=1, threads=2)


def test_the_command_asks_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options go through; a device of the cluster's machines need not be here."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "boxwood._internal.cli.run.execute", lambda experiment, **given: asked.update(given)
    )
    demo = ("run", "boxwood._internal.cli.demo:experiment", "--store", str(tmp_path / "store"))
    cluster = ("--ray", "auto", "--device", "cuda")
    done = CliRunner().invoke(app, [*demo, *cluster, "--gpus-per-run", "0.5"])
    assert done.exit_code == 0, done.output
    assert (asked["ray"], asked["device"], asked["gpus"]) == ("auto", "cuda", 0.5)
    for options in (("--device", "cpu", "--ray", "auto"), ()):
        with pytest.raises(BoxwoodError, match="Expected --gpus-per-run together with --ray and"):
            CliRunner().invoke(
                app, [*demo, *options, "--gpus-per-run", "1"], catch_exceptions=False
            )


def _visible(store: str) -> None:
    """Write down which GPUs Ray shows this task; hold them until the other has written too."""
    seen = Path(store) / os.environ["CUDA_VISIBLE_DEVICES"]
    seen.touch()
    deadline = time.monotonic() + 60
    while len(list(seen.parent.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow  # a cluster of two machines, on this one: most of a minute
def test_ray_shows_each_task_a_gpu_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    """Two tasks hold different ones at the same time; Ray counts GPUs without there being any."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray_cluster, "work", lambda order: _visible(order.store))
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        (tmp_path / "store").mkdir()
        monkeypatch.setattr(
            ray_cluster, "order_for", lambda *_: SimpleNamespace(store=str(tmp_path / "store"))
        )
        run_on_ray([], Store(tmp_path / "other"), workers=2, gpus=1)
    finally:
        ray.shutdown()
    assert {each.name for each in (tmp_path / "store").iterdir()} == {"0", "1"}


@pytest.mark.slow  # a cluster of two machines, on this one: most of a minute
def test_a_killed_machines_work_is_done_by_another(tmp_path: Path, contents: Any) -> None:
    """Both machines work; one is killed in a training, and every phase is that of a calm run."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    store, wanted = Store(tmp_path / "store"), jobs(steps=3000, seeds=2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    ray.init(cluster.address, include_dashboard=False, log_to_driver=False)
    finished: list[int] = []
    killer = Thread(target=_kill, args=(cluster, lost, store, finished))
    try:
        killer.start()
        run_on_ray(wanted, store, RunSettings(snapshot_every=0.1), workers=2)
    finally:
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    assert finished[0] < len(contents(store.root))
    run_all(wanted, Store(tmp_path / "calm"))
    assert contents(store.root) == contents(tmp_path / "calm")


def _kill(cluster: Any, lost: Any, store: Store, finished: list[int]) -> None:
    """Kill a machine once both are training, and note how many phases were finished by then."""
    deadline = time.monotonic() + 100
    while len(list((store.root / "partial").glob("[!.]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    finished.append(len(list(store.phases())))
    cluster.remove_node(lost, allow_graceful=False)
