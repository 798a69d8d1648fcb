"""The command line's entry: commands, errors and exit codes."""

import inspect
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

import boxwood
from boxwood._internal.cli import (
    bench,
    cite,
    compare,
    compile,  # noqa: A004 - the command's name
    compress,
    demo,
    evaluate,
    heal,
    pack,
    plan,
    prune,
    report,
    run,
    runs,
    serve,
    shrink,
)
from boxwood._internal.cli.terminal import Stopped, say, settle
from boxwood.errors import BoxwoodError

_STOPPED = 130  # as shells have it: 128 and the number of the signal

app = typer.Typer(
    name="boxwood",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"boxwood {boxwood.__version__}")
        raise typer.Exit


@app.callback()
def boxwood_(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Prune neural networks: make them smaller and faster, and measure what that costs."""


app.command()(bench.bench)
app.command()(compile.compile)
app.command()(compress.compress)
app.command()(compare.compare)
app.command()(demo.demo)
app.command()(evaluate.evaluate)
app.command()(heal.heal)
app.command()(plan.plan)
app.command()(run.run)
app.command()(shrink.shrink)
app.command()(prune.prune)
app.command()(pack.pack)
app.command()(pack.unpack)
app.command()(pack.info)
app.command()(report.report)
app.command()(serve.serve)
app.command()(cite.cite)
app.add_typer(runs.app, name="runs")


def _unwrap_help(commands: Iterable[typer.models.CommandInfo]) -> None:
    """Join the lines of each paragraph of a help text: a terminal breaks them at its own width."""
    for each in commands:
        paragraphs = inspect.cleandoc(getattr(each.callback, "__doc__", None) or "").split("\n\n")
        each.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


_unwrap_help(app.registered_commands)
_unwrap_help(runs.app.registered_commands)


def main() -> None:
    """Run a command: exit code 0 when it is done, 2 for bad input, 130 when interrupted."""
    settle()
    try:
        app()
    except BoxwoodError as error:
        say(f"boxwood: {error}", error=True)
        sys.exit(2)
    except OSError as error:  # of the system, such as a full disk under the output
        say(
            f"boxwood: Expected to read and write, got {error}; check it, and run again.",
            error=True,
        )
        sys.exit(2)
    except Stopped as stop:
        say(f"boxwood: stopped. {stop}", error=True)
        sys.exit(_STOPPED)
    except (KeyboardInterrupt, SystemExit) as ended:  # typer makes the one into the other
        if isinstance(ended, SystemExit) and ended.code != _STOPPED:
            raise
        say("boxwood: stopped.", error=True)
        sys.exit(_STOPPED)
