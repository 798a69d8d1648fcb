"""The command line's entry: commands, errors and exit codes."""

import sys
import warnings

import typer

from boxwood.cli import (
    bench,
    cite,
    compile,  # noqa: A004 - the command's name
    demo,
    pack,
    plan,
    prune,
    report,
    run,
    runs,
    serve,
    shrink,
)
from boxwood.core.errors import BoxwoodError

app = typer.Typer(
    name="boxwood",
    help="Prune neural networks: smaller, faster, and of known accuracy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(bench.bench)
app.command()(compile.compile)
app.command()(demo.demo)
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


def main() -> None:
    """Run a command: exit code 0 when it is done, 2 for bad input, 130 when interrupted."""
    warnings.showwarning = _tell
    try:
        app()
    except BoxwoodError as error:
        print(f"boxwood: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("boxwood: stopped; run the same command again to go on.", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _tell(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as an error is shown: what it says, not where the code stands that says it."""
    print(f"boxwood: warning: {message}", file=sys.stderr)  # noqa: T201
