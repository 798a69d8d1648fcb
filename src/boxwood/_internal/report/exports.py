"""The metrics of runs for other trackers, through their own clients; nothing leaves the machine."""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from boxwood._internal.core.extras import extra
from boxwood._internal.report.page.metrics import LOSS, SIZES, TEST, VALIDATION
from boxwood._internal.report.page.store_reader import Run, short

_EXPORTED = (TEST, VALIDATION, LOSS.test, LOSS.validation, *SIZES)
"""What is written of a measured network."""


@dataclass(frozen=True)
class Tracked:
    """One run as trackers see it.

    Args:
        name: of the run.
        key: of its last phase.
        settings: what was asked for, as text.
        metrics: value of each metric by step; a step is one row of a training's history.
    """

    name: str
    key: str
    settings: Mapping[str, str]
    metrics: Mapping[str, Sequence[tuple[int, float]]]

    @property
    def folder(self) -> str:
        """A name that every file system takes."""
        return f"{re.sub(r'[^A-Za-z0-9._=-]+', '_', self.name)[:80]}-{self.key[:8]}"

    def by_step(self) -> Iterator[tuple[int, dict[str, float]]]:
        """All metrics of each step, in order."""
        steps: dict[int, dict[str, float]] = {}
        for name, series in self.metrics.items():
            for step, value in series:
                steps.setdefault(step, {})[name] = value
        yield from sorted(steps.items())


def tracked(run: Run) -> Tracked:
    """Flatten a run: histories one after another, measurements at the step that they follow."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    networks = {each.key: each for each in run.measurements}
    step = 0
    for phase in run.steps:
        for row in phase.facts.get("history", ()):
            step += 1
            for name, value in row.items():
                if name not in ("epoch", "step") and isinstance(value, int | float):
                    metrics.setdefault(f"train/{name}", []).append((step, float(value)))
        if (network := networks.get(phase.key)) is not None:
            for metric in _EXPORTED:
                if (value := metric.of(network)) is not None:
                    metrics.setdefault(f"measure/{metric.name}", []).append((step, value))
    settings = {
        "model": short(run.genesis.get("model")),
        "data": short(run.genesis.get("data")),
        "seed": str(run.seed),
        "branch": run.branch,
        "key": run.key,
    }
    settings |= {f"phase_{i:02}": short(phase.spec) for i, phase in enumerate(run.steps, 1)}
    return Tracked(run.name or run.key, run.key, settings, metrics)


def to_tensorboard(runs: Sequence[Run], folder: Path) -> None:
    """Write an event file for each run, for ``tensorboard --logdir FOLDER``.

    Raises:
        MissingDependency: tensorboard is not installed.
    """
    _client("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for each in map(tracked, runs):
        with SummaryWriter(str(folder / each.folder)) as writer:
            # Four spaces make it a block of text, in which nothing is markup.
            lines = "\n".join(f"    {name}: {value}" for name, value in each.settings.items())
            writer.add_text("settings", lines)
            for name, series in each.metrics.items():
                for step, value in series:
                    writer.add_scalar(name, value, step)


def to_mlflow(runs: Sequence[Run], folder: Path) -> None:
    """Write an experiment for each network and data set, for ``mlflow ui`` on the folder's database.

    Raises:
        MissingDependency: mlflow is not installed.
    """
    mlflow = _client("mlflow")
    from mlflow.entities import Metric, Param

    folder.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    for each in map(tracked, runs):
        name = f"{each.settings['model']} on {each.settings['data']}"
        known = client.get_experiment_by_name(name)
        place = (folder / "artifacts").resolve().as_uri()
        experiment = known.experiment_id if known else client.create_experiment(name, place)
        made = client.create_run(experiment, run_name=each.name).info.run_id
        client.log_batch(made, params=[Param(k, v[:500]) for k, v in each.settings.items()])
        found = [
            Metric(name, value, 0, step)
            for name, series in each.metrics.items()
            for step, value in series
        ]
        for start in range(0, len(found), 1000):  # as many as one batch may hold
            client.log_batch(made, metrics=found[start : start + 1000])
        client.set_terminated(made)


def to_wandb(runs: Sequence[Run], folder: Path) -> None:
    """Write offline runs, which ``wandb sync`` uploads if that is wanted.

    Raises:
        MissingDependency: wandb is not installed.
    """
    wandb = _client("wandb")
    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
    for each in map(tracked, runs):
        with wandb.init(
            project="boxwood",
            name=each.name,
            id=each.key,
            dir=folder,
            mode="offline",
            config=dict(each.settings),
            settings=quiet,
        ) as run:
            for step, values in each.by_step():
                run.log(values, step=step)
    wandb.teardown()  # its own process writes the files, and is waited for here


def _client(name: str) -> ModuleType:
    with extra(name, f"the package {name} to export with"):
        return importlib.import_module(name)
