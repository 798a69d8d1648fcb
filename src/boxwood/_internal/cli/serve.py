"""``boxwood serve``: the report of a store, updated while runs continue."""

import hashlib
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer

from boxwood._internal.cli import checks
from boxwood._internal.cli.report import Judge, LatencyFile, Only, Stores, Title, Without, asked
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.report.page.build import page
from boxwood._internal.report.page.render import library
from boxwood._internal.runs.latency import FILE as LATENCY
from boxwood.errors import BoxwoodError, InvalidInput

_HOST = "127.0.0.1"
_THREADS = 16
_SECONDS = 30


def serve(
    stores: Stores,
    port: Annotated[
        int,
        typer.Option(
            help="Port on this machine. 0 chooses a free one.", callback=checks.whole(0, 65535)
        ),
    ] = 8000,
    title: Title = "",
    only: Only = None,
    without: Without = None,
    judge: Judge = None,
    latency_file: LatencyFile = None,
) -> None:
    """Serve the report of a store on this machine only, and update it while runs continue.

    Example: boxwood serve runs
    """
    library()  # what every page needs, before any is asked for
    about = asked(stores, title, only, without, judge, latency_file)
    server = open_server(stores, lambda: page(about, live=True), port)
    address = f"http://{_HOST}:{server.server_port}/"
    Console(soft_wrap=True).print(
        f"{address} shows {', '.join(map(str, stores))}; stop with Ctrl-C."
    )
    with server:
        server.serve_forever()


def open_server(stores: list[Path], build: Callable[[], str], port: int = 0) -> ThreadingHTTPServer:
    """Open a server that builds the page when it is asked for and the stores have changed.

    It listens to this machine alone, and answers only requests that name this machine, so that a
    web page elsewhere cannot read the report through the reader's browser.

    Raises:
        InvalidInput: a store is missing, or the port is taken.
    """
    for store in stores:
        if not store.is_dir():
            raise InvalidInput(
                f"Expected a store at {store}, got no such folder; give one, or run something."
            )
    cache = _Cache(stores, build)

    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS  # for a request to arrive, and for an answer to leave

        def do_GET(self) -> None:
            host = self.headers.get("Host", "").partition(":")[0]
            if host not in (_HOST, "localhost"):
                self._answer(403, "text/plain", "This page is for this machine alone.")
            elif self.path == "/version":
                self._answer(200, "text/plain", version(stores))
            elif self.path == "/":
                self._answer(*cache.page())
            else:
                self._answer(404, "text/plain", "There is only one page, at /.")

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode(errors="replace")  # a file's name need not be valid text
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing: the terminal shows the address."""

    try:
        return _Server((_HOST, port), Handler)
    except OSError as error:
        raise InvalidInput(
            f"Expected port {port} to be free, got {error.strerror}; give another --port, or 0."
        ) from error


def version(stores: list[Path]) -> str:
    """Names and ages of all phases, runs and files of times, in short: it changes when they do."""
    seen = hashlib.sha256()
    for store in stores:
        for entry in sorted(
            (*store.glob("phases/[!.]*"), *store.glob("runs/[!.]*"), *store.glob(LATENCY))
        ):
            with suppress(OSError):  # gone since it was listed
                seen.update(f"{entry}\0{entry.lstat().st_mtime_ns}\0".encode(errors="replace"))
    return seen.hexdigest()[:16]


class _Server(ThreadingHTTPServer):
    """A bounded number of answers at a time; whoever goes away before the end is not reported."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(_THREADS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or hang up where all are busy."""
        if not self._free.acquire(timeout=1):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its names
        """Say what went wrong in a line, unless the reader has gone."""
        error = sys.exception()
        if not isinstance(error, OSError):
            say(f"boxwood: an answer failed: {type(error).__name__}: {error}", error=True)


class _Cache:
    """The page of the last version, made once however many ask at the same time."""

    def __init__(self, stores: list[Path], build: Callable[[], str]) -> None:
        self._stores, self._build = stores, build
        self._lock = threading.Lock()
        self._made: tuple[str, tuple[int, str, str]] | None = None

    def page(self) -> tuple[int, str, str]:
        with self._lock:
            now = version(self._stores)
            if self._made is None or self._made[0] != now:
                self._made = now, self._render()
            return self._made[1]

    def _render(self) -> tuple[int, str, str]:
        try:
            return 200, "text/html", self._build()
        except BoxwoodError as error:
            # A store in which nothing has been asked for yet gets its page when something is.
            return 200, "text/html", _sentence(str(error))
        except Exception as error:  # noqa: BLE001 - the reader gets the reason, and serving goes on
            what = f"Expected a report of the store, got {type(error).__name__}: {error}"
            way_out = "check the store and the function of --judge, or report a fault of Boxwood"
            return 500, "text/html", _sentence(f"{what}; {way_out}.")


def _sentence(text: str) -> str:
    """A page of one sentence that asks again by itself."""
    again = '<meta charset="utf-8"><meta http-equiv="refresh" content="3">'
    return f"{again}<p>{escape(text)}"
