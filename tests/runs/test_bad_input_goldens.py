"""Bad input to runs and the command: one paragraph, the thing at fault, the way out, exit code 2."""

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Experiment, Genesis
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.rewind import Rewind
from boxwood._internal.runs.chain import keys
from boxwood._internal.runs.runner import jobs_of, run_all, run_recipe
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


START = Genesis(model=net, data=digits)
HALF = (Prune(sparsity=0.5),)


def starting_from(path) -> Experiment:
    return Experiment(model=net, data=digits, branches=(("a", HALF),), checkpoint=str(path))


def attempt(path, tmp_path):
    run_all(jobs_of(starting_from(path), range(1)), Store(tmp_path / "store"))


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path):
    """Nothing executable is read."""
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(
        BoxwoodError, match=r"got a pickle at .*weights.pt.*safetensors.torch.save_file"
    ):
        attempt(tmp_path / "weights.pt", tmp_path)


def test_a_truncated_checkpoint_is_named(tmp_path):
    """Half a file is no file."""
    whole = tmp_path / "weights.safetensors"
    save_file(net().state_dict(), whole)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(BoxwoodError, match=r"Expected an undamaged file at .*weights.safetensors"):
        attempt(whole, tmp_path)


def test_a_missing_checkpoint_is_named(tmp_path):
    """A path without a file says so."""
    with pytest.raises(BoxwoodError, match=r"Expected a checkpoint at .*gone"):
        attempt(tmp_path / "gone.safetensors", tmp_path)


def test_a_checkpoint_of_another_model_says_how_it_differs(tmp_path):
    """Names and shapes are both compared, and nothing is committed."""
    other = tmp_path / "other.safetensors"
    save_file({"1.weight": torch.zeros(3, 64), "extra": torch.zeros(1)}, other)
    message = r"checkpoint of another model: lacks \['1.bias'\]; has also \['extra'\]; '1.weight' of shape \(3, 64\) not \(10, 64\)"
    with pytest.raises(BoxwoodError, match=message):
        attempt(other, tmp_path)
    assert not list((tmp_path / "store").glob("phases/*"))


def test_a_good_checkpoint_is_where_the_run_starts(tmp_path):
    """The weights of the file are those of the first state."""
    weights = net().state_dict()
    save_file(weights, tmp_path / "good.safetensors")
    jobs = jobs_of(starting_from(tmp_path / "good.safetensors"), range(1))
    run_all(jobs, Store(tmp_path / "store"))
    begun = Store(tmp_path / "store").load(jobs[0].chain[0])
    assert torch.equal(begun.weights["1.weight"], weights["1.weight"])


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    """What was finished stays, what was not is not there, and the next run goes on."""
    store = Store(tmp_path / "store")

    def full(tensors, path, *rest):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("boxwood._internal.core.tensor_files.save_file", full)
    with pytest.raises(
        BoxwoodError, match=r"Expected to write into the store .*No space left.*free some space"
    ):
        run_recipe(START, HALF, store)
    assert not list((tmp_path / "store" / "phases").iterdir())
    monkeypatch.undo()
    assert run_recipe(START, HALF, store).masks["1.weight"].sum() == 320


def test_a_store_that_cannot_be_a_folder_is_refused(tmp_path):
    """A file in the way, or a place that cannot be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BoxwoodError, match="Expected to write into the store"):
        run_recipe(START, HALF, Store(tmp_path / "file"))


def test_a_damaged_phase_is_named_with_what_to_delete(tmp_path):
    """Bytes that are not those that were written are not used."""
    store = Store(tmp_path)
    run_recipe(START, HALF, store)
    state = tmp_path / "phases" / keys(START, HALF)[-1] / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-8])
    with pytest.raises(
        BoxwoodError, match=r"Expected an undamaged file at .*state.safetensors.*delete"
    ):
        run_recipe(START, HALF, store)


def test_an_unknown_label_is_refused(tmp_path):
    """Rewinding needs a phase of that name before it."""
    with pytest.raises(BoxwoodError, match=r"label of an earlier phase \(genesis\), got 'dense'"):
        run_recipe(START, (Rewind(to="dense"),), Store(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "gone.py:recipe"], "Expected a Python file at"),
        (["run", "examples"], "Expected file.py:name"),
        (["run", "boxwood._internal.cli.demo:experimant"], "did you mean 'experiment'"),
        (
            ["run", "boxwood._internal.cli.demo:experiment", "--data", "digits"],
            "Expected a parameter of",
        ),
        (
            ["run", "boxwood._internal.cli.demo:experiment", "--set", "epochs"],
            "Expected --set name=value",
        ),
        (
            ["run", "boxwood._internal.cli.demo:experiment", "--seeds", "0"],
            "Expected --seeds to be a whole number in [1,",
        ),
        (["run", "boxwood.data:digits"], "to return an Experiment"),
        (["run", "gone.json"], "Expected a recipe file at"),
        (["runs", "list", "--store", "gone"], "Expected a store at gone"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(arguments, words, tmp_path, forks):
    """One paragraph on standard error, nothing on standard output, nothing written."""
    done = forks.run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not list(tmp_path.iterdir())
