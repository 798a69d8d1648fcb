"""The server: this machine alone, one page, new when the store is."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from types import SimpleNamespace

import pytest

from boxwood._internal.cli.serve import open_server, version
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError


@pytest.fixture
def served(empty: Store, hand: SimpleNamespace) -> Iterator[SimpleNamespace]:
    hand.fill(empty, seeds=[0])
    built: list[str] = []

    def build() -> str:
        built.append(version([empty.root]))
        return f"page {len(built)}"

    with open_server([empty.root], build) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def get(path: str, host: str = "127.0.0.1") -> tuple[int, str]:
            connection = HTTPConnection("127.0.0.1", server.server_port)
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            found = answer.status, answer.read().decode()
            connection.close()
            return found

        yield SimpleNamespace(get=get, built=built, store=empty, address=server.server_address)
        server.shutdown()
        thread.join()


def test_it_listens_to_this_machine_alone(served: SimpleNamespace) -> None:
    """The socket is bound to loopback, and a page under another name gets nothing."""
    assert served.address[0] == "127.0.0.1"
    assert served.get("/", host="evil.example")[0] == 403
    assert served.get("/../etc/passwd")[0] == 404


def test_the_page_is_built_once_for_each_state_of_the_store(
    served: SimpleNamespace, hand: SimpleNamespace
) -> None:
    """Asking again changes nothing; a new phase changes the version and the page."""
    assert [served.get("/")[1] for _ in range(3)] == ["page 1"] * 3
    before = served.get("/version")
    hand.fill(served.store, seeds=[1])
    assert served.get("/version") != before
    assert served.get("/")[1] == "page 2"


def test_a_store_without_runs_waits_for_them(empty: Store) -> None:
    """Nothing to report yet is a page that says so and asks again, not a failure."""
    empty.root.mkdir()
    with open_server([empty.root], _nothing) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        connection = HTTPConnection("127.0.0.1", server.server_port)
        connection.request("GET", "/")
        assert "no &lt;runs&gt; yet" in connection.getresponse().read().decode()
        connection.close()
        thread.join()


def _nothing() -> str:
    raise BoxwoodError("no <runs> yet")


def test_a_missing_store_and_a_taken_port_say_so(empty: Store) -> None:
    """Both errors name what is wrong."""
    with pytest.raises(BoxwoodError, match="got no such folder"):
        open_server([empty.root], _nothing)
    empty.root.mkdir()
    with (
        open_server([empty.root], _nothing) as server,
        pytest.raises(BoxwoodError, match=r"Expected port \d+ to be free"),
    ):
        open_server([empty.root], _nothing, server.server_port)


@contextmanager
def running(store: Store, build: Callable[[], str]) -> Iterator[int]:
    store.root.mkdir(exist_ok=True)
    with open_server([store.root], build) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_fault_is_a_page_that_says_so(empty: Store) -> None:
    """Whatever reading a store raises, the reader gets a sentence and not an empty answer."""

    def build() -> str:
        raise KeyError("<chain> in \udce2")  # as Python reads a file's name that is no UTF-8

    with running(empty, build) as port:
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 500
        assert "got KeyError: &#x27;&lt;chain&gt; in" in answer.read().decode()
        connection.close()


def test_readers_that_go_away_are_not_reported(
    empty: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """A connection that is dropped in the middle of the page prints nothing."""
    sent = threading.Event()

    def build() -> str:
        sent.wait(10)
        return "page" * 1_000_000

    with running(empty, build) as port:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as reader:
                reader.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                # Closing at once and with what is unread makes the server's writing fail.
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sent.set()
    assert capfd.readouterr() == ("", "")


def test_silent_readers_are_hung_up_on(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects and says nothing holds a thread for a while, and no more than there are."""
    monkeypatch.setattr("boxwood._internal.cli.serve._SECONDS", 0.2)
    monkeypatch.setattr("boxwood._internal.cli.serve._THREADS", 2)
    with running(empty, lambda: "page") as port:
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(6)]
        for reader in silent:
            assert reader.recv(1) == b""  # closed by the server
            assert threading.active_count() <= before + 2
            reader.close()
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"page"
        connection.close()


def test_a_file_of_the_future_hides_no_change(empty: Store, hand: SimpleNamespace) -> None:
    """After a clock that jumped, later phases still make a new version."""
    hand.fill(empty, seeds=[0])
    oldest = next((empty.root / "phases").iterdir())
    os.utime(oldest, (2**33, 2**33))
    before = version([empty.root])
    newest = max((empty.root / "phases").iterdir(), key=lambda path: path.name)
    os.utime(newest, (1, 1))
    assert version([empty.root]) != before
