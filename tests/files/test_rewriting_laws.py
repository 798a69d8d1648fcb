"""A rewritten copy has new values where they were written, and the old bytes everywhere else."""

import json
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from boxwood._internal.files.checkpoint import open_checkpoint
from boxwood._internal.files.mask_files import load_masks
from boxwood._internal.files.rewriting import read_tensor, rewritten_copy
from boxwood.errors import BoxwoodError

SHAPES = ((3, 5), (4,), (2, 3, 1), (1, 1))
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def checkpoint(folder: Path, shards: int = 2) -> dict[str, torch.Tensor]:
    """Write tensors of several types to several files, with texts and a stranger beside them."""
    folder.mkdir()
    tensors = {
        f"w{place}": torch.randn(shape).to(TYPES[place]) for place, shape in enumerate(SHAPES)
    } | {"steps": torch.tensor([7])}
    where = {}
    for shard in range(shards):
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, folder / f"m-{shard}.safetensors", {"format": "pt"})
        where |= dict.fromkeys(part, f"m-{shard}.safetensors")
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text("{}")
    (folder / "run.py").write_text("print()")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return tensors


@settings(max_examples=25)
@given(chosen=st.sets(st.sampled_from(range(4)), min_size=1), shards=st.integers(1, 3), seed=st.integers(0, 99))  # fmt: skip
def test_new_where_written_and_old_everywhere_else(
    chosen: set[int], shards: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any choice of tensors and any cut into shards; masks come back, and texts are there."""
    at = tmp_path_factory.mktemp("rewritten")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = checkpoint(at / "in", shards)
        masks = {f"w{place}": torch.rand(SHAPES[place]) < 0.5 for place in chosen}
    opened = open_checkpoint(at / "in")
    stored = {tensor.name: tensor for tensor in opened.tensors()}
    assert all(torch.equal(read_tensor(stored[name]), value) for name, value in before.items())
    untouched = {path.name: path.read_bytes() for path in (at / "in").glob("*.*")}
    with rewritten_copy(at / "in", opened, at / "out", {n: stored[n] for n in masks}) as copy:
        for name, mask in masks.items():
            copy.write(name, before[name].double().masked_fill(~mask, 0), mask)
        assert not (at / "out").exists()
    assert untouched == {path.name: path.read_bytes() for path in (at / "in").glob("*.*")}
    after = {}
    for shard in range(shards):
        after |= load_file(at / "out" / f"m-{shard}.safetensors")
    for name, value in before.items():
        wanted = value.masked_fill(~masks[name], 0) if name in masks else value
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], wanted)
    found = load_masks(at / "out")
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    names = {path.name for path in (at / "out").iterdir()}
    assert names == {*untouched, "masks", "1_Pooling"} - {"run.py"}
    assert (at / "out" / "1_Pooling" / "config.json").read_text() == "{}"


def test_nothing_half_written(tmp_path: Path) -> None:
    """An error on the way, or a tensor that was never written, leaves no folder and no trace."""
    tensors = checkpoint(tmp_path / "in")
    opened = open_checkpoint(tmp_path / "in")
    masked = {t.name: t for t in opened.tensors() if t.name in ("w0", "w1")}
    ones = torch.ones(3, 5, dtype=torch.bool)

    def fails() -> None:
        with rewritten_copy(tmp_path / "in", opened, tmp_path / "out", masked) as copy:
            copy.write("w0", tensors["w0"], ones)

    def wrong() -> None:
        with rewritten_copy(tmp_path / "in", opened, tmp_path / "out", masked) as copy:
            copy.write("w0", tensors["w0"].T, ones)

    with pytest.raises(BoxwoodError, match="every masked tensor to be written, got no 'w1'"):
        fails()
    with pytest.raises(BoxwoodError, match=r"'w0' of shape \(3, 5\), got \(5, 3\)"):
        wrong()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(BoxwoodError, match="a new or an empty folder, got one that holds"):
        fails()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_kill_leaves_no_folder_of_that_name(tmp_path: Path, forks) -> None:
    """What a killed process leaves is hidden and named as unfinished, and nobody trips over it."""
    tensors = checkpoint(tmp_path / "in")
    code = (
        "import os, signal, sys, torch; from pathlib import Path\n"
        "from boxwood._internal.files.checkpoint import open_checkpoint\n"
        "from boxwood._internal.files.rewriting import rewritten_copy\n"
        "at = Path(sys.argv[1]); opened = open_checkpoint(at / 'in')\n"
        "masked = {t.name: t for t in opened.tensors() if t.name in ('w0', 'w1')}\n"
        "with rewritten_copy(at / 'in', opened, at / 'out', masked) as copy:\n"
        "    copy.write('w1', torch.zeros(4), torch.zeros(4, dtype=torch.bool))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert forks.start(code, tmp_path, entry="code").wait() == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[1:] == ["in"]
    assert left[0].startswith(".new-")
    opened = open_checkpoint(tmp_path / "in")
    masked = {t.name: t for t in opened.tensors() if t.name == "w0"}
    with rewritten_copy(tmp_path / "in", opened, tmp_path / "out", masked) as copy:
        copy.write("w0", tensors["w0"], torch.ones(3, 5, dtype=torch.bool))
    assert (tmp_path / "out" / "m-0.safetensors").exists()
