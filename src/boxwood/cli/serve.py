"""``boxwood serve``: the report of a store, renewed while runs go on."""

import threading
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from boxwood.cli.report import Judge, Latency, Only, Stores, Title, Without, asked
from boxwood.core.errors import BoxwoodError
from boxwood.report.page.build import page
from boxwood.runs.latency import FILE as LATENCY

_HOST = "127.0.0.1"


def serve(
    stores: Stores,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 8000,
    title: Title = "",
    only: Only = None,
    without: Without = None,
    judge: Judge = None,
    latency: Latency = None,
) -> None:
    """Serve the report of a store on this machine alone, and renew it while runs go on.

    Example: boxwood serve runs
    """
    about = asked(stores, title, only, without, judge, latency)
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
        BoxwoodError: a store is missing, or the port is taken.
    """
    for store in stores:
        if not store.is_dir():
            raise BoxwoodError(
                f"Expected a store at {store}, got no such folder; give one, or run something."
            )
    cache = _Cache(stores, build)

    class Handler(BaseHTTPRequestHandler):
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
            body = text.encode()
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
        return ThreadingHTTPServer((_HOST, port), Handler)
    except OSError as error:
        raise BoxwoodError(
            f"Expected port {port} to be free, got {error.strerror}; give another --port, or 0."
        ) from error


def version(stores: list[Path]) -> str:
    """Number of phases, runs and files of times, and the age of the last: it changes when they do."""
    seen = [
        entry.stat().st_mtime_ns
        for store in stores
        for entry in (*store.glob("phases/[!.]*"), *store.glob("runs/[!.]*"), *store.glob(LATENCY))
    ]
    return f"{len(seen)}-{max(seen, default=0)}"


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
            text = f'<meta charset="utf-8"><meta http-equiv="refresh" content="3"><p>{escape(str(error))}'
            return 200, "text/html", text
