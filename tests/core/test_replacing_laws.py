"""Files that take their name whole: nobody else's name meanwhile, and the permissions of any file."""

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from boxwood._internal.core.replacing import (
    replacing,
    replacing_folder,
    unfinished,
    write_whole,
)
from boxwood._internal.distill.cached_logits import Shards
from boxwood._internal.files.mask_files import write_with_masks
from boxwood._internal.files.packed import pack_file
from boxwood._internal.files.streaming import prune_checkpoint
from boxwood._internal.graph.record import record_of, save_shrunken
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.phase import State
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.runs import latency
from boxwood._internal.runs.store import Store
from boxwood._internal.train.snapshots import Snapshot


def write_all(folder: Path) -> None:
    """Write one of everything that Boxwood writes without a network of the user's."""
    weights = {"w": torch.eye(64)}
    store = Store(folder / "store")
    store.commit("0" * 20, State(weights, {"w": torch.eye(64).bool()}, {}), {"spec": {}})
    store.note_run("0" * 20, {"name": "a"})
    store.save_snapshot("1" * 20, Snapshot(weights, {}))
    Shards(folder / "answers").write(1, weights)
    latency.write(latency.Timings(), folder / "latency.json")
    write_whole(folder / "report" / "page.html", b"<p>")
    write_with_masks(folder / "masked.safetensors", weights, {"w": torch.eye(64).bool()})
    pack_file(folder / "masked.safetensors", folder / "packed.safetensors")
    prune_checkpoint(folder / "masked.safetensors", folder / "pruned", 0.5)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    selection = select_units(find_units(net, torch.ones(1, 4)), 0.5)
    save_shrunken(shrink(net, selection), record_of(net, selection), folder / "small.safetensors")
    with replacing_folder(folder / "new") as new:
        save_file(weights, new / "w.safetensors")


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077], indirect=True, ids=oct)
def test_everything_has_the_permissions_of_a_new_file(tmp_path: Path, umask: int) -> None:
    """Whoever may read a folder may read what Boxwood wrote there, and nobody else may."""
    made = tmp_path / "made"
    made.mkdir()
    write_all(made)
    for path in made.rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_many_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    """Threads that write the same file at the same time: what is there is always what one wrote."""
    path, seen, failed = tmp_path / "a.json", [], []

    def work(number: int) -> None:
        try:
            for turn in range(40):
                with replacing(path) as new, new.open("w") as file:
                    for each in range(50):
                        file.write(json.dumps([number, turn, each]) + "\n")
                        file.flush()
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                seen.append(len(lines) == 50 and len({tuple(line[:2]) for line in lines}) == 1)
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(seen)
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_names_do_not_depend_on_the_process(tmp_path: Path, monkeypatch) -> None:
    """Two containers whose processes have one number write side by side."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert unfinished(tmp_path / "a") != unfinished(tmp_path / "a")


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch) -> None:
    """A name that is taken already is refused, whatever it is."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.setattr(
        "boxwood._internal.core.replacing.unfinished", lambda path: tmp_path / "link"
    )
    with pytest.raises(FileExistsError), replacing(tmp_path / "a"):
        pass
    assert not (tmp_path / "target").exists()
