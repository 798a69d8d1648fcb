"""The server: this machine alone, one page, new when the store is."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from types import SimpleNamespace

import pytest

from boxwood.cli.serve import open_server, version
from boxwood.core.errors import BoxwoodError
from boxwood.runs.store import Store


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
