"""The page in a real browser: it stays silent, asks for nothing, and shows what the store holds.

Skipped where playwright or Chromium is not installed.
"""

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boxwood._internal.report.page.build import Report, page
from boxwood._internal.runs import latency
from boxwood._internal.runs.store import Store

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("vl_convert")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
WAIT = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(Report(stores=(store.root,))), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address; whatever the console says or the page asks for fails the test."""
    said: list[str] = []
    contexts = []

    def open_(address: str, *, ready: bool = True, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        opened = context.new_page()
        opened.on("console", lambda message: said.append(f"console: {message.text}"))
        opened.on("pageerror", lambda error: said.append(f"error: {error}"))
        opened.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))  # fmt: skip
        opened.on("request", lambda request: request.url.startswith(address) or said.append(f"request: {request.url}"))  # fmt: skip
        opened.goto(address)
        if ready:
            opened.wait_for_selector("html[data-ready]", timeout=WAIT)
        return opened

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def chart(opened: Any, title: str) -> Any:
    return opened.locator("figure.chart", has=opened.get_by_role("heading", name=title, exact=True))


def redrawn(figure: Any, act: Callable[[], Any]) -> None:
    """Act, and wait until the figure has been drawn again."""
    view = figure.locator(".view")
    before = view.get_attribute("data-drawn")
    act()
    for _ in range(600):
        if view.get_attribute("data-drawn") != before:
            return
        figure.page.wait_for_timeout(50)
    raise AssertionError(f"not drawn again after {before}")


def texts(figure: Any) -> list[str]:
    return [text for text in figure.locator(".view svg text").all_text_contents() if text]


def dots(figure: Any) -> Any:
    """Marks of the networks' means: the last group of points that is drawn."""
    return figure.locator(".view svg g.mark-symbol").last.locator("path")


def test_it_opens_in_silence_with_every_chart(visit: Callable[..., Any], file: Path) -> None:
    """Nothing in the console, no request but for the file itself, a drawing in every figure."""
    opened = visit(file.as_uri())
    figures = opened.locator("figure.chart")
    assert figures.count() >= 4
    for index in range(figures.count()):
        assert figures.nth(index).locator(".view svg").count() == 1
        assert texts(figures.nth(index))


def test_the_table_shows_the_store(visit: Callable[..., Any], file: Path) -> None:
    """The mean over seeds of 955 + 2 · seed right answers of 1000 is 95.90 %, sd 0.32 points."""
    opened = visit(file.as_uri())
    row = opened.locator("table tr", has=opened.get_by_role("cell", name="pruned round-2", exact=True)).first  # fmt: skip
    cells = row.locator("td").all_text_contents()
    assert cells[:5] == ["pruned round-2", "5", "24.56 %", "95.90 %", "0.32"]
    assert cells[8] == "−0.50"


def test_pointing_at_a_network_names_it_and_its_keys(
    visit: Callable[..., Any], file: Path, store: Store
) -> None:
    """The tooltip of a point has the network, its interval, and keys that are in the store."""
    opened = visit(file.as_uri())
    figure = chart(opened, "Accuracy against cost")
    assert dots(figure).count() == 7
    figure.scroll_into_view_if_needed()
    dots(figure).first.hover(force=True)
    tip = opened.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    said = tip.inner_text()
    assert "dense" in said
    assert "96.40 %" in said
    known = {path.name[:8] for path in (store.root / "phases").iterdir()}
    assert len([word for word in said.split() if word in known]) == 5


def test_controls_change_the_view(visit: Callable[..., Any], file: Path) -> None:
    """Axes, range, front and lines follow their controls."""
    opened = visit(file.as_uri())
    figure = chart(opened, "Accuracy against cost")
    assert "weights remaining" in texts(figure)
    redrawn(figure, lambda: figure.get_by_label("Horizontal").select_option(label="bytes on disk, index included"))  # fmt: skip
    assert "bytes on disk, index included" in texts(figure)
    redrawn(figure, lambda: figure.get_by_label("Vertical").select_option(label="validation accuracy"))  # fmt: skip
    assert "validation accuracy" in texts(figure)
    near = texts(figure)
    redrawn(
        figure, lambda: figure.get_by_label(re.compile("^Range")).select_option(label="everything")
    )
    assert texts(figure) != near
    redrawn(figure, lambda: figure.get_by_role("checkbox", name="by chance").uncheck())
    assert dots(figure).count() == 4
    redrawn(figure, lambda: figure.get_by_role("checkbox", name="by chance").check())
    assert dots(figure).count() == 7


def test_everything_can_be_done_with_the_keyboard(visit: Callable[..., Any], file: Path) -> None:
    """Tab reaches the skip link first, then every control; arrows and space work them."""
    opened = visit(file.as_uri())
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    figure = chart(opened, "Accuracy against cost")
    figure.get_by_label("Horizontal").focus()
    redrawn(figure, lambda: opened.keyboard.press("ArrowDown"))
    assert "multiply-adds per example" in texts(figure)
    figure.get_by_role("checkbox", name="by chance").focus()
    redrawn(figure, lambda: opened.keyboard.press("Space"))
    assert dots(figure).count() == 4
    reached = opened.evaluate(
        "[...document.querySelectorAll('main select, main input, main button, main summary')]"
        ".filter(e => e.tabIndex < 0).length"
    )
    assert reached == 0


def test_a_pick_changes_chart_table_and_pictures(visit: Callable[..., Any], file: Path) -> None:
    """Choosing a network shows its layers and its masks, and no other's."""
    opened = visit(file.as_uri())
    layers = chart(opened, "What each layer kept")
    layers.locator("summary").click()
    select = opened.locator("select[data-pick=network]")
    redrawn(layers, lambda: select.select_option(label="pruned round-1"))
    visible = layers.locator("tbody tr:visible")
    assert visible.locator("td:first-child").all_text_contents() == ["pruned round-1"] * 2
    assert visible.first.locator("td").all_text_contents()[2:6] == ["Linear", "96", "48", "50.00 %"]
    pictures = opened.locator(".gallery figure:visible")
    before = pictures.count()
    assert before > 0
    opened.locator("select[data-pick=pruned]").select_option(label="by chance round-3, seed 0")
    assert pictures.count() == before
    assert all(name == "by chance round-3, seed 0" for name in pictures.evaluate_all("l => l.map(e => e.dataset.picked)"))  # fmt: skip


def test_long_tables_open_and_columns_sort(visit: Callable[..., Any], file: Path) -> None:
    """A table that is kept as text becomes rows when it is opened; a header sorts by value."""
    opened = visit(file.as_uri())
    weights = chart(opened, "Weights before and after")
    weights.locator("summary").click()
    rows = weights.locator("tbody tr")
    rows.first.wait_for(timeout=WAIT)  # opening is told to the page a moment later
    assert rows.count() == 41 * 2 * 2
    cost = opened.locator("details.data", has_text="Size, arithmetic and training")
    table = cost.locator("table") if cost.count() else opened.locator("table", has=opened.get_by_role("button", name="on disk"))  # fmt: skip
    head = table.get_by_role("button", name="on disk")
    head.click()
    exact = [float(v) for v in table.locator("tbody tr td:nth-child(7)").evaluate_all("l => l.map(e => e.dataset.v)")]  # fmt: skip
    assert exact == sorted(exact)
    assert len(set(exact)) == 4
    head.click()
    assert table.locator("th[aria-sort=descending]").count() == 1


def test_a_phone_needs_no_sideways_scrolling(visit: Callable[..., Any], file: Path) -> None:
    """At 390 pixels nothing is wider than the screen; wide tables scroll within themselves."""
    opened = visit(file.as_uri(), viewport={"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390


def test_dark_and_print_follow_the_reader(visit: Callable[..., Any], file: Path) -> None:
    """Colours of page and charts change with the scheme; paper is light and has no controls."""
    opened = visit(file.as_uri(), color_scheme="dark")
    dark = "getComputedStyle(document.documentElement).backgroundColor"
    line = "getComputedStyle(document.querySelector('.view svg g.mark-symbol path[fill]')).fill"
    assert opened.evaluate(dark) == "rgb(20, 24, 27)"
    blue = opened.evaluate(line)
    opened.emulate_media(color_scheme="light")
    assert opened.evaluate(dark) == "rgb(255, 255, 255)"
    assert opened.evaluate(line) != blue
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.evaluate(dark) == "rgb(255, 255, 255)"
    assert not opened.locator(".controls").first.is_visible()


def test_without_scripts_the_tables_are_there(visit: Callable[..., Any], file: Path) -> None:
    """A reader who runs no scripts is told so and has the numbers."""
    opened = visit(file.as_uri(), ready=False, java_script_enabled=False)
    assert opened.locator("header noscript p").is_visible()
    assert opened.get_by_role("cell", name="pruned round-2", exact=True).first.is_visible()
    assert not opened.locator(".controls").first.is_visible()


def test_searches_times_and_perplexities_can_be_looked_at(
    visit: Callable[..., Any], empty: Store, hand: SimpleNamespace, tmp_path: Path
) -> None:
    """An agent's layers, a measured axis, and a closer view that ends above the dense network."""
    times = {}
    for seed in range(2):
        layers = [{"kind": "Embedding"}]
        for name, kept, loss in (("dense", (96, 18), 4.0), ("near", (48, 9), 4.01), ("far", (9, 2), 9.0)):  # fmt: skip
            found = {"correct": 9, "total": 10, "loss": loss + 0.01 * seed}
            facts = hand.measured(9, kept) | {"test": found, "validation": found, "layers": layers}
            tries = [{"layer": f"conv{i % 2}", "update": i // 2, "kept": [9 - i, 8 - i], "drop": [0.0, 1.0], "reward": [1.0, 2.0]} for i in range(8)]  # fmt: skip
            agent = ({"is": "m:Agent", "of": name}, {"episodes": tries, "sparsity": 0.5}, kept)
            key = hand.note(empty, name, seed, [agent, (hand.measure(""), facts, kept)])[-1]
            times[key] = {"dense": [2.0, 2.0], "torch": [2.0, 2.0], "engine": [1.0, 1.5]}
    latency.write(latency.Timings({"batch": 1}, times), empty.root / latency.FILE)
    path = tmp_path / "report.html"
    path.write_text(page(Report(stores=(empty.root,))), encoding="utf-8")
    opened = visit(path.as_uri())
    figure = chart(opened, "Perplexity against cost")
    near = [float(t) for t in texts(figure) if re.fullmatch(r"[0-9.]+", t)]
    assert 55 < max(near) <= 69  # dense has 54.9, and the far one 8,144
    redrawn(figure, lambda: figure.get_by_label(re.compile("^Range")).select_option(label="everything"))  # fmt: skip
    assert "8k" in texts(figure)
    redrawn(figure, lambda: figure.get_by_label("Horizontal").select_option(label="measured latency per example in engine (ms)"))  # fmt: skip
    assert "measured latency per example in engine (ms)" in texts(figure)
    assert dots(figure).count() == 3
    agents = chart(opened, "What the agent tried")
    assert "reward" in texts(agents)
    redrawn(agents, lambda: agents.get_by_label(re.compile("^Layer")).select_option(label="conv1"))
    redrawn(agents, lambda: agents.get_by_label(re.compile("^Shown")).select_option(label="kept"))
    assert "units kept of the layer" in texts(agents)
    assert agents.locator(".view svg g.mark-symbol path").count() == 4 * 2


def test_hostile_names_do_nothing(
    visit: Callable[..., Any], empty: Store, hand: SimpleNamespace, tmp_path: Path
) -> None:
    """Markup in names is text in titles, tables, legends, tooltips and options alike."""
    names = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "'\"><b>x", "\u202ereversed", "y" * 400)  # fmt: skip
    for name in names:
        phases = [
            (hand.train(), hand.trained(), None),
            (hand.prune(0.5), {"sparsity": 0.5}, (48, 9)),
            (hand.measure(""), hand.measured(900, (48, 9)), (48, 9)),
        ]
        hand.note(empty, name, 0, [({**hand.train(name), "order": name}, hand.trained(), None), *phases[1:]])  # fmt: skip
    path = tmp_path / "report.html"
    path.write_text(page(Report(stores=(empty.root,), title=names[0])), encoding="utf-8")
    opened = visit(path.as_uri())
    assert opened.title() == names[0]
    assert opened.locator("main b, main img[src=x]").count() == 0
    assert opened.get_by_role("cell", name=names[0], exact=True).count() > 0
    assert opened.evaluate("document.documentElement.scrollWidth") == 1280
    dots(chart(opened, "Accuracy against cost")).first.hover(force=True)
    opened.locator("#vg-tooltip-element").wait_for(state="visible")
    assert opened.locator("#vg-tooltip-element img, #vg-tooltip-element b").count() == 0


def test_a_served_page_follows_the_store(
    visit: Callable[..., Any], empty: Store, hand: SimpleNamespace
) -> None:
    """When a run ends the page shows it by itself, and keeps the reader's choices."""
    from boxwood._internal.cli.serve import open_server

    hand.fill(empty, seeds=[0])
    with open_server([empty.root], lambda: page(Report(stores=(empty.root,)), live=True)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            opened = visit(f"http://127.0.0.1:{server.server_port}/")
            figure = chart(opened, "Accuracy against cost")
            redrawn(figure, lambda: figure.get_by_label("Horizontal").select_option(index=2))
            redrawn(figure, lambda: figure.get_by_role("checkbox", name="by chance").uncheck())
            assert "seed 0" in opened.locator("header.page").inner_text()
            hand.fill(empty, seeds=[1])
            opened.get_by_text("seeds 0, 1").first.wait_for(timeout=WAIT)
            opened.wait_for_selector("html[data-ready]", timeout=WAIT)
            figure = chart(opened, "Accuracy against cost")
            assert figure.get_by_label("Horizontal").input_value() == "2"
            assert not figure.get_by_role("checkbox", name="by chance").is_checked()
            assert dots(figure).count() == 4
        finally:
            opened.close()
            server.shutdown()
            thread.join()
