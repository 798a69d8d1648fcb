"""One version, wherever it is asked for."""

from importlib.metadata import version

from typer.testing import CliRunner

import boxwood
from boxwood.cli.main import app


def test_the_version() -> None:
    assert boxwood.__version__ == version("boxwood")
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"boxwood {boxwood.__version__}\n")
