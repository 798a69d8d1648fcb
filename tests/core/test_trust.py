"""What a recipe file or a store names is run only where its code is trusted."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from boxwood._internal.cli.demo import experiment
from boxwood._internal.cli.main import app
from boxwood._internal.core import public_names
from boxwood._internal.core.spec import decode, encode, load
from boxwood._internal.core.trust import Trust
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Experiment, Genesis
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.runs.runner import Job, RunSettings, note
from boxwood._internal.runs.store import Store
from boxwood._internal.runs.workers import order_for, work
from boxwood.errors import BoxwoodError


@pytest.fixture
def users_file(tmp_path, monkeypatch) -> Path:
    """A file of a user that leaves a mark when it is imported, and another when its net is made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import os\nfrom pathlib import Path\nfrom torch import nn\nPath('imported').touch()\n"
        "def net():\n    Path('called').touch()\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    return tmp_path / "mine.py"


def of_users_file() -> dict:
    """An experiment with the user's network, as a recipe file says it."""
    plain = encode(Experiment(model=digits, data=digits, branches=(("a", (Prune(sparsity=0.5),)),)))
    return {**plain, "model": {"function": "mine.py:net"}}


@pytest.mark.parametrize(
    "name",
    [
        "os:system", "subprocess:run", "builtins:eval", "torch:load", "torch.hub:load",
        "boxwood._internal.core.spec:load", "boxwood._internal.core.spec:decode", "boxwood._internal.core.spec:importlib",
        "boxwood._internal.core.spec:importlib.import_module", "boxwood.recipes:Call.of",
        "boxwood._internal.zoo.lenet:nn", "boxwood._internal.data.data_paths:os.system", "boxwood._internal.data.vision:Path",
        "boxwood._internal.recipes.phase:spec.load", "boxwood._internal.cli.main:main",
        "boxwood._internal.core.replacing:replacing", "boxwood._internal.data.downloads:download_mnist",
        "boxwood._internal.report.figures:write", "boxwood._internal.runs.store:Store", "boxwood:load", "boxwood..x:y", "boxwood.runs:Store", "boxwood.files:pack_file",
        "boxwood.downloads:download_mnist",
        "mine.py:net", "../mine.py:net", "boxwood._internal.core.trust:Path",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["is", "function"])
def test_names_that_could_run_code_are_refused(name, key, users_file):
    """Neither what Boxwood imports, nor what of Boxwood could be turned against the reader."""
    with pytest.raises(BoxwoodError, match="of which nothing was run; if you trust this code"):
        decode({key: name})
    assert not (users_file.parent / "imported").exists()


def test_what_recipes_are_made_of_needs_no_trust():
    """A recipe of Boxwood's parts comes back from its file as it was."""
    assert decode(encode(experiment())) == experiment()


def test_a_named_file_is_trusted_with_what_it_defines_itself(users_file):
    """Its network is; what it imports is not; another file is not."""
    whose = Trust.of("mine.py")
    assert load("mine.py:net", whose).__name__ == "net"
    assert load(f"{users_file}:net", whose).__name__ == "net"
    for name in ("mine.py:os.system", "other.py:net", "os:system"):
        with pytest.raises(BoxwoodError, match="nothing was run"):
            load(name, whose)
    assert load("os:getcwd", Trust.of(everything=True)) is not None


def test_a_named_package_is_trusted_with_its_modules(tmp_path, monkeypatch):
    """What a module of it defines, or takes from another one of it, may be named; nothing else."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "trusted_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from trusted_package.inner.nets import net\nimport os\n")
    (package / "inner" / "nets.py").write_text("def net():\n    return 1\n")
    whose = Trust.of("trusted_package")
    assert load("trusted_package.inner.nets:net", whose) is load("trusted_package:net", whose)
    for name in ("trusted_package:os.system", "trusted_package_2:net", "os:system"):
        with pytest.raises(BoxwoodError, match="nothing was run"):
            load(name, whose)
    with pytest.raises(BoxwoodError, match="nothing was run"):
        load("trusted_package:net", Trust.of("trusted_package.inner"))
    for place in ("mine.py.d/evil.py", "mine.py.evil"):
        with pytest.raises(BoxwoodError, match="nothing was run"):
            Trust.of("mine.py").check(f"{place}:net")


@pytest.mark.parametrize("command", ["plan", "run", "cite"])
def test_a_recipe_file_imports_nothing_that_was_not_named(command, users_file):
    """Without --code or --trust the command ends before the file that it names is imported."""
    Path("recipe.json").write_text(json.dumps(of_users_file()))
    call = [command, "recipe.json"]
    refused = CliRunner().invoke(app, call)
    assert isinstance(refused.exception, BoxwoodError)
    assert "give --code mine.py, or --trust" in str(refused.exception)
    assert not Path("imported").exists()
    assert CliRunner().invoke(app, [*call, "--code", "mine.py"]).exit_code == 0
    assert Path("imported").exists()
    assert CliRunner().invoke(app, [*call, "--trust"]).exit_code == 0


def test_a_store_imports_nothing_that_was_not_named(users_file):
    """Measuring the networks of a store builds them, which needs the user's word."""
    found = decode(of_users_file(), Trust.of("mine.py"))
    Path("imported").unlink()
    Path("called").unlink(missing_ok=True)
    store = Store("runs")
    note([Job(found.genesis(0), found.branches[0][1], "a / seed 0")], store)
    for call in (["runs", "list"], ["report", "runs", "--json"], ["cite", "runs"]):
        assert CliRunner().invoke(app, call).exit_code == 0
    order = order_for([Job(found.genesis(0), found.branches[0][1], "a / seed 0")], store, RunSettings(), 1)  # fmt: skip
    assert order.code == ("mine.py",)
    with pytest.raises(BoxwoodError, match=r"'mine.py:net', of which nothing was run"):
        work(type(order)(**{**vars(order), "code": ()}))
    assert not Path("called").exists()
    work(order)  # the order says what its jobs are made of
    assert Path("called").exists()


def test_names_do_not_depend_on_how_python_was_started(tmp_path, monkeypatch):
    """Workers have the folder on their path already, and must find the keys that were noted."""
    (tmp_path / "beside_1.py").write_text("def net():\n    return 1\n")
    (tmp_path / "study_1.py").write_text("from beside_1 import net\ndef data():\n    return net\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    load("study_1.py:data")
    net = load("beside_1.py:net", Trust.of("beside_1.py"))
    assert encode(net)["function"] == "beside_1.py:net"
    assert encode(net, identity=True)["function"].startswith("beside_1.py:net#")


def test_a_start_needs_functions_and_a_number():
    """What is no start is refused before anything is built."""
    with pytest.raises(BoxwoodError, match=r"functions that return a network and data, got 'x'"):
        Genesis(model="x", data=digits)
    with pytest.raises(BoxwoodError, match="path of a checkpoint and its SHA-256 as texts, got 3"):
        Genesis(model=digits, data=digits, checkpoint=3)
    with pytest.raises(BoxwoodError, match="Expected phases in the recipe of 'a', got 'x'"):
        Experiment(model=digits, data=digits, branches=(("a", ("x",)),))
    with pytest.raises(BoxwoodError, match="Expected values that OneShot takes, got TypeError"):
        decode({"is": "boxwood.schedules:OneShot", "final": "x"})
    deep: list = []
    for _ in range(10**5):
        deep = [deep]
    with pytest.raises(BoxwoodError, match="nested too deeply"):
        decode(deep)


def test_code_that_comes_with_a_pretrained_model_is_not_run(tmp_path, monkeypatch):
    """Not even if somebody would say yes to a question of transformers; nor is a pickle read."""
    transformers = pytest.importorskip("transformers")
    from boxwood._internal.adapters.folders import load_folder
    from boxwood._internal.adapters.resident import open_config, open_tokenizer

    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append("?") or "y")
    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import PretrainedConfig\nclass Config(PretrainedConfig):\n    pass\n"
    )
    said = {"model_type": "mine", "architectures": ["GPT2Model"], "auto_map": {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Config", None]}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    for read in (open_config, open_tokenizer, load_folder):
        with pytest.raises(BoxwoodError):
            read(tmp_path)
    assert not asked
    assert not (tmp_path / "ran").exists()
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9, n_positions=8)
    model = transformers.GPT2Model(config)
    config.architectures = ["GPT2Model"]
    config.save_pretrained(tmp_path / "pickled")
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(BoxwoodError, match="Expected"):
        load_folder(tmp_path / "pickled")


DANGEROUS = {
    "ctypes", "importlib", "marshal", "multiprocessing", "pickle", "runpy", "shutil", "socket",
    "subprocess", "tempfile", "urllib", "webbrowser", "zipfile", "tarfile", "os",
}  # fmt: skip
HARMLESS = {
    "boxwood._internal.agent.environment": {
        "multiprocessing"
    },  # runs a function that was decoded already
    "boxwood._internal.core.reading": {"os"},  # opens files to read
    "boxwood._internal.data.data_paths": {"os"},  # reads the environment
    "boxwood._internal.zoo.torchvision_nets": {"importlib"},  # imports torchvision, by its own name
}


def test_what_may_be_named_has_no_way_to_run_or_delete_anything():
    """Modules that define parts of recipes import nothing that runs, deletes or fetches."""
    for module in sorted({thing.__module__ for thing in public_names._NAMES}):
        if not module.startswith("boxwood."):
            continue  # a type that is made of others, such as that of a function
        path = Path(sys.modules[module].__file__ or "")
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
        used = {name.partition(".")[0] for name in names} & DANGEROUS
        assert used <= HARMLESS.get(module, set()), module
        calls = {
            n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec", "compile", "__import__", "open"}, module
