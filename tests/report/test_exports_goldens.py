"""What other trackers are given, read back through their own readers."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from boxwood._internal.report.exports import to_mlflow, to_tensorboard, to_wandb, tracked
from boxwood._internal.report.page.store_reader import Run, read
from boxwood._internal.runs.store import Store
from boxwood.errors import MissingDependency


@pytest.fixture
def run(empty: Store, hand: SimpleNamespace) -> Run:
    phases = [
        (hand.train(), hand.trained(3), None),
        (hand.measure("a"), hand.measured(950), None),
        (hand.train("again"), hand.trained(2, start=0.8), None),
        (hand.measure("b"), hand.measured(960, (48, 9)), (48, 9)),
    ]
    hand.note(empty, "a/b: <odd>", 0, phases)
    return read([empty])[0].runs[0]


def test_steps_run_through_all_trainings(run: Run) -> None:
    """Two trainings of 3 and 2 epochs are steps 1 to 5; measurements stand where they were made."""
    found = tracked(run)
    steps, values = zip(*found.metrics["train/validation"], strict=True)
    assert (steps, values) == ((1, 2, 3, 4, 5), pytest.approx((0.5, 0.6, 0.7, 0.8, 0.9)))
    assert found.metrics["measure/test"] == [(3, 0.95), (5, 0.96)]
    assert found.metrics["measure/kept_fraction"] == [(3, 1.0), (5, 0.5)]
    assert found.folder == f"a_b_odd_seed_0-{run.key[:8]}"
    assert [step for step, _ in found.by_step()] == [1, 2, 3, 4, 5]


def test_tensorboard_reads_back_what_was_written(run: Run, tmp_path: Path) -> None:
    """Every scalar is in the event file, as float32."""
    pytest.importorskip("tensorboard")
    to_tensorboard([run], tmp_path / "out")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "out").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    found = tracked(run)
    assert set(events.Tags()["scalars"]) == set(found.metrics)
    for name, series in found.metrics.items():
        assert [(e.step, e.value) for e in events.Scalars(name)] == [
            (step, pytest.approx(value)) for step, value in series
        ]


@pytest.mark.filterwarnings("ignore")  # those of the clients' own code
def test_mlflow_reads_back_what_was_written(run: Run, tmp_path: Path) -> None:
    """The run is there under its experiment with its settings and its last values."""
    mlflow = pytest.importorskip("mlflow")
    to_mlflow([run], tmp_path)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    assert experiment.name == "lenet_300_100 on digits"
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["measure/test"] == 0.96
    assert found.data.params["key"] == run.key


@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline(run: Run, tmp_path: Path) -> None:
    """One offline run appears in the folder; its file holds the name of the run."""
    pytest.importorskip("wandb")
    to_wandb([run], tmp_path)
    (file,) = tmp_path.rglob("*.wandb")
    assert "offline-run" in file.parent.name
    assert b"measure/test" in file.read_bytes()


@pytest.mark.parametrize(
    ("export", "package"),
    [(to_tensorboard, "tensorboard"), (to_mlflow, "mlflow"), (to_wandb, "wandb")],
)
def test_a_missing_client_is_named(
    export: object, package: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package the error says which extra brings it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"pip install 'boxwood\[{package}\]'"):
        export([run], tmp_path)  # type: ignore[operator]
