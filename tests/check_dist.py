"""Build the wheel and the source distribution, and check both as users get them: ``make dist``.

In an environment of its own for every Python from 3.11 to 3.13 that is on the machine: the wheel
without extras, then the extras that the first steps of the README need.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = "engine,digits"
WITHOUT = """
import sys, warnings
warnings.simplefilter("error")
import boxwood, torch
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
small = boxwood.shrink(net, torch.randn(1, 8), keep=0.5)
boxwood.prune_(small, 0.5)
assert small[0].out_features == 8
assert not {"llvmlite", "sklearn", "transformers"} & set(sys.modules)
try:
    import llvmlite
except ModuleNotFoundError:
    try:
        boxwood.compile(net, torch.randn(1, 8))
    except boxwood.errors.MissingDependency as error:
        assert "boxwood[engine]" in str(error), error
    else:
        raise AssertionError("Expected MissingDependency without the extra.")
"""
WITH = """
import boxwood, torch
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
boxwood.prune_(net, 0.9)
x = torch.randn(3, 8)
torch.testing.assert_close(boxwood.compile(net, x)(x), net(x))
boxwood.data.digits()
"""


def build(out: Path) -> tuple[Path, Path]:
    """Build both files, the wheel from the source distribution, and return their paths."""
    shutil.rmtree(out, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """The wheel has all of ``src/boxwood`` and nothing else; the source has the wheel's and tests."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        names = archive.namelist()
    listed = subprocess.run(
        ["git", "ls-files", "src/boxwood"], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    source = {name.removeprefix("src/") for name in listed.stdout.split()}
    assert inside == source, f"only in one of wheel and repository: {sorted(inside ^ source)}"
    assert any(name.endswith("licenses/LICENSE") for name in names), "the wheel has no licence"
    with tarfile.open(sdist) as archive_:
        packed = {name.partition("/")[2] for name in archive_.getnames()}
    wanted = {"README.md", "LICENSE", "pyproject.toml", "tests/check_dist.py"}
    missing = (wanted | {f"src/{name}" for name in source}) - packed
    assert not missing, f"the source distribution lacks {sorted(missing)}"


def check_installed(python: str, wheel: Path) -> None:
    """Install the wheel in a fresh environment, use it, and do so again with extras."""
    with tempfile.TemporaryDirectory() as folder:
        _run(python, "-m", "venv", folder)
        inner = Path(folder, "bin", "python")
        for what, script in ((str(wheel), WITHOUT), (f"{wheel}[{EXTRAS}]", WITH)):
            _run(inner, "-m", "pip", "install", "--quiet", what)
            _run(inner, "-m", "pip", "check")
            _run(inner, "-c", script, cwd=folder)
            _run(Path(folder, "bin", "boxwood"), "--version", cwd=folder)


def interpreter(version: str) -> str | None:
    """Return the Python of a version; None where there is none, or only a name that runs nothing."""
    python = shutil.which(f"python{version}")
    if python is None:
        return None
    asked = "import sys; print(*sys.version_info[:2], sep='.')"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return python if done.stdout.strip() == version else None


def _run(*command: object, cwd: object = None) -> None:
    subprocess.run([str(each) for each in command], cwd=cwd, check=True)


def main() -> None:
    """Build, check, and say what was checked and what could not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--only-contents", action="store_true", help="install nothing")
    given = parser.parse_args()
    wheel, sdist = build(given.out)
    check_contents(wheel, sdist)
    done, missing = [], []
    for version in () if given.only_contents else VERSIONS:
        python = interpreter(version)
        if python is None:
            missing.append(version)
            continue
        check_installed(python, wheel)
        done.append(version)
    sys.stdout.write(
        f"{wheel.name} and {sdist.name}: contents checked; installed and used on Python "
        f"{', '.join(done) or 'none'}; not checked on {', '.join(missing) or 'none'}.\n"
    )


if __name__ == "__main__":
    main()
