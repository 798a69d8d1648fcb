"""One version, wherever it is asked for."""

import subprocess
import sys
from importlib.metadata import version

from typer.testing import CliRunner

import boxwood
from boxwood._internal.cli.main import app


def test_importing_warns_of_nothing() -> None:
    """Neither the library nor the command line, whatever else is installed."""
    command = [sys.executable, "-W", "error", "-c", "import boxwood._internal.cli.main"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_version() -> None:
    assert boxwood.__version__ == version("boxwood")
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"boxwood {boxwood.__version__}\n")
