"""Print safely: names from files, stores and networks cannot send control characters to the terminal."""

import os
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

NO_LIMIT = 100_000
"""The width, in characters, of what is no terminal."""

_KEPT = "\n\t"


def visible(text: str) -> str:
    r"""Write control characters and those that turn the direction of text as escapes.

    Example:
        >>> visible("a\x1b[31m\u202eb\n")
        'a\\x1b[31m\\u202eb\n'
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(map(_visible, text))


def say(text: str, *, error: bool = False) -> None:
    """Print a text, and a line break where it ends in none.

    Example:
        >>> say("done")
        done
    """
    stream = sys.stderr if error else sys.stdout
    stream.write(visible(text if text.endswith("\n") else text + "\n"))


class Console(rich.console.Console):
    r"""Rich's console, which reads no markup out of texts and escapes what would steer a terminal.

    Where it writes to no terminal it breaks no lines, unless ``COLUMNS`` says how long they are.

    Example:
        >>> import io
        >>> out = io.StringIO()
        >>> Console(file=out).print("[bold]\x1b]0;title\u202e")
        >>> print(out.getvalue(), end="")
        [bold]\x1b]0;title\u202e
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)
        given = "width" in settings or os.environ.get("COLUMNS", "").isdecimal()
        if not (self.is_terminal or given):
            self.width = NO_LIMIT

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Escape what comes out; the console's own codes for colours are added later."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class Stopped(Exception):  # noqa: N818 - no error: somebody wanted it
    """Somebody pressed Ctrl-C; the text says what becomes of what was done so far."""


@contextmanager
def stoppable(what: str) -> Iterator[None]:
    """Say what becomes of the work when somebody presses Ctrl-C.

    Args:
        what: sentences.

    Example:
        >>> with stoppable("Nothing is lost."):
        ...     raise KeyboardInterrupt
        Traceback (most recent call last):
        ...
        boxwood._internal.cli.terminal.Stopped: Nothing is lost.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Stopped(what) from stop


def settle() -> None:
    """Let warnings be printed like everything else, and let no character stop the printing."""
    warnings.showwarning = _show
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that knows no … is no reason to lose the result of a run.
            stream.reconfigure(errors="backslashreplace")


def _show(message: Warning | str, *_: object, **__: object) -> None:
    say(f"boxwood: warning: {message}", error=True)


def _visible(letter: str) -> str:
    kind = unicodedata.category(letter)
    if letter not in _KEPT and (kind in ("Cc", "Cs", "Zl", "Zp") or _turns(letter)):
        return letter.encode("unicode_escape", "surrogatepass").decode()
    return letter


def _turns(letter: str) -> bool:
    """Say whether a character changes the direction of its neighbours, or hides it."""
    return letter in "\u061c\u200b\u200e\u200f\u2060\ufeff" or (
        "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069"
    )
