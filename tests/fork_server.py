"""A process that has imported Boxwood, and forks for every command that a test runs.

Importing torch takes seconds, which a test that kills a command twelve times would pay twelve
times. A fork of this process is a process of its own all the same: it has its own number, memory,
locks and open files, and can be killed.

Each line of standard input asks for something, and one line of standard output answers it:

    {"entry": …, "argv": […], "cwd": …, "files": [in, out, err]}    the number of a new process
    {"wait": number}                                              its exit code; null while it runs
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import sklearn.datasets  # noqa: F401 - what the digits are read with

from boxwood._internal.cli.main import main as command
from boxwood._internal.runs.workers import main as worker


def code() -> None:
    """Run the first word as `python -c` does."""
    text = sys.argv.pop(1)
    exec(compile(text, "<test>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own


ENTRIES: dict[str, Callable[[], None]] = {"command": command, "worker": worker, "code": code}
_MODES = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)


def begin(entry: str, argv: Sequence[str], cwd: str, files: Sequence[str]) -> int:
    """Fork; the child calls an entry of Boxwood as a new process would, and ends."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        os.chdir(cwd)
        for number, (path, mode) in enumerate(zip(files, _MODES, strict=True)):
            os.dup2(os.open(path, mode, 0o600), number)
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115 - line by line, as always
        sys.argv, sys.path[0] = ["boxwood", *argv], ""
        ENTRIES[entry]()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Answer line by line, until nobody asks any more."""
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if "wait" in asked:
            ended, status = os.waitpid(asked["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = begin(**asked)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
