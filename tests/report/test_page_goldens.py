"""The page as a file: what is in it, how it is written, and that text stays text."""

import csv
import json
import re
import zlib
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.report.page.build import Report, articles, page, to_json, write_csv
from boxwood._internal.report.page.document import tables_of
from boxwood._internal.report.page.pictures import pairs
from boxwood._internal.report.page.render import script_json
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.report.png import grey_uri
from boxwood._internal.report.study import Finding
from boxwood._internal.runs import latency
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError, MissingDependency

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single' <b>bold</b>",
    "</style></title><img src=x onerror=alert(2)>",
    "\u202egnirts tfel ot thgir\u202c",
    "x" * 300,
    "{{ 7 * 7 }} ${7*7} =cmd()",
    "line\nbreak \u2028 \x00 end",
)


class Tags(HTMLParser):
    """Counts elements, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.links: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag == "img":
            self.images.append(dict(attrs)["alt"] or "")
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "srcset") and v]


def tags(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    return parser


@pytest.fixture(scope="session")
def text(store: Store) -> str:
    pytest.importorskip("vl_convert")
    return page(Report(stores=(store.root,)))


def test_the_page_is_one_small_file_that_asks_for_nothing(text: str) -> None:
    """No link leaves the file, its policy forbids every request, and it is under 3 MB."""
    assert all(link.startswith(("#", "data:")) for link in tags(text).links)
    assert "default-src 'none'" in text
    assert "connect-src" not in text
    assert len(text.encode()) < 3_000_000


def test_the_same_store_gives_the_same_page(text: str, store: Store) -> None:
    """A report holds no clock and no chance."""
    assert page(Report(stores=(store.root,))) == text


def test_every_figure_has_an_alternative_and_its_numbers(text: str) -> None:
    """Each chart has a label for those who cannot see it and a table beside it."""
    figures = re.findall(r'<figure class="chart".*?</figure>', text, re.DOTALL)
    assert len(figures) >= 4
    for figure in figures:
        (label,) = re.findall(r'role="img" aria-label="([^"]+)"', figure)
        assert len(label) > 20
        assert "<table" in figure
    images = tags(text).images
    assert len(images) > 4
    assert all(image.startswith("Mask of") for image in images)


def test_numbers_carry_keys_that_are_in_the_store(store: Store) -> None:
    """Every row of every table that measures something names phases that exist."""
    (found,) = articles(Report(stores=(store.root,)))
    known = {path.name[:8] for path in (store.root / "phases").iterdir()}
    checked = 0
    for table in tables_of(found):
        names = {column.name for column in table.columns}
        if not names & {"key", "keys"}:
            assert table.name in ("environment", "rules", "sources")
            continue
        for row in table.rows:
            keys = str(row.get("keys") or row.get("key")).split()
            assert keys
            assert {key[:8] for key in keys} <= known
            checked += 1
    assert checked > 50


def test_json_and_csv_hold_the_exact_numbers(store: Store, tmp_path: Path) -> None:
    """What is shown rounded is written exactly: 0.955 + 0.002 · seed has mean 0.959."""
    made = articles(Report(stores=(store.root,)))
    (study,) = to_json(made)["studies"]
    (row,) = [r for r in study["tables"]["accuracy"] if r["network"] == "pruned round-2"]
    assert row["test"] == pytest.approx(0.959, abs=1e-12)
    assert row["difference"] == pytest.approx(-0.005, abs=1e-12)
    assert json.loads(json.dumps(study)) == study
    write_csv(made, tmp_path / "tables")
    with (tmp_path / "tables" / "study-1-accuracy.csv").open() as file:
        rows = {r["network"]: r for r in csv.DictReader(file)}
    assert float(rows["pruned round-2"]["test"]) == row["test"]
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {
        f"study-1-{table.name}" for table in tables_of(made[0])
    }


def test_hostile_text_stays_text(empty: Store, hand: SimpleNamespace) -> None:
    """Names with markup, quotes, templates, directions and 300 letters add no element."""
    pytest.importorskip("vl_convert")
    ways: dict[str, dict[str, list[float]]] = {}
    for name in ("plain", *HOSTILE):
        odd = {"is": f"mine:{name}", "label": name, "note": name}
        tries = {"layer": name, "update": 0, "kept": [1], "drop": [0.1], "reward": [0.2]}
        phases = [
            (odd, {name: 1.5, "rows": [{name: 1.0, "at": 0}, {name: 2.0, "at": 1}]}, None),
            ({**odd, "searches": name}, {"episodes": [tries]}, None),
            (hand.measure(name), hand.measured(900), None),
        ]
        key = hand.note(empty, name, 0, phases)[-1]
        ways.setdefault(key, {})[name] = [1.0]
    latency.write(latency.Timings({"processor": HOSTILE[0]}, ways), empty.root / latency.FILE)
    made = page(Report(stores=(empty.root,), title=HOSTILE[0]))
    seen = tags(made).seen
    assert (seen["script"], seen.get("b", 0)) == (made.count("<script"), 0)
    assert "alert(1)</script>" not in made
    assert seen.get("img", 0) == 0
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made
    assert "{{ 7 * 7 }}" in made


def test_formulas_in_csv_are_text(empty: Store, hand: SimpleNamespace, tmp_path: Path) -> None:
    """A name that a spreadsheet would run begins with an apostrophe in the file."""
    hand.note(empty, "=cmd()", 0, [(hand.measure(""), hand.measured(9), None)])
    write_csv(articles(Report(stores=(empty.root,))), tmp_path)
    assert "'=cmd()" in (tmp_path / "study-1-accuracy.csv").read_text()


def test_files_of_tables_stay_in_their_folder(
    empty: Store, hand: SimpleNamespace, tmp_path: Path
) -> None:
    """The name of a fact cannot lead a table's file out of the folder that was given."""
    rows = [{"at": 0, "x": 1.0}, {"at": 1, "x": 2.0}]
    hand.note(empty, "a", 0, [({"is": "m:../../K", "label": ""}, {"../../../x": rows}, None)])
    written = write_csv(articles(Report(stores=(empty.root,))), tmp_path / "csv")
    assert all(path.parent == tmp_path / "csv" for path in written)
    assert tmp_path / "csv" / "study-1-facts-1-k-x.csv" in written


def test_json_in_scripts_cannot_end_them() -> None:
    """No letter that means something in HTML is left in the JSON, and it reads back the same."""
    for name in HOSTILE:
        written = str(script_json({"name": name}))
        assert not set("<>&") & set(written)
        assert json.loads(written) == {"name": name}


def test_unknown_phases_and_facts_are_shown(empty: Store, hand: SimpleNamespace) -> None:
    """Numbers, rows and accuracies that no part of the page knows appear under their own names."""
    agent = {"is": "mine:FilterAgent", "label": "", "patience": 3}
    episodes = [{"episode": i, "reward": 0.1 * i, "kept": 5 - i} for i in range(4)]
    facts = hand.measured(900) | {"top5": {"correct": 99, "total": 100}, "stopping_step": 1200}
    phases = [(agent, {"episodes": episodes, "best": {"reward": 0.3}}, None), (hand.measure(""), facts, None)]  # fmt: skip
    hand.note(empty, "agent", 0, phases)
    (made,) = articles(Report(stores=(empty.root,)))
    tables = {table.name: table for table in tables_of(made)}
    (best,) = tables["facts"].rows
    assert (best["phase"], best["fact"], best["value"]) == ("FilterAgent", "best/reward", 0.3)
    rewards = [r["value"] for r in tables["facts-1-filteragent-episodes"].rows if r["what"] == "reward"]  # fmt: skip
    assert rewards == pytest.approx([0, 0.1, 0.2, 0.3])
    (cost,) = tables["cost"].rows
    assert (cost["top5"], cost["stopping_step"]) == (0.99, 1200)


ODD = (None, -1, "text", {}, [None], [{"step": "x"}], [{"validation_loss": 1, "step": 1}, {}], {"correct": 1})  # fmt: skip
KNOWN = (
    "test",
    "validation",
    "layers",
    "kept",
    "weights",
    "history",
    "epochs",
    "curves",
    "dense",
    "sparsity",
    "multiply_adds",
    "bytes",
    "parameters",
)


def test_facts_of_any_shape_make_a_page(empty: Store, hand: SimpleNamespace) -> None:
    """Whatever another version or another's phase wrote under a known name, the rest is shown."""
    for name in KNOWN:
        for i, value in enumerate(ODD):
            strange = {"is": "mine:Odd", "label": f"{name} {i}"}
            measured = {**hand.measured(900, (9, 2)), name: value}
            phases = [
                (strange, {name: value, "sparsity": 0.5} | {name: value}, (9, 2)),
                (hand.measure(""), measured, (9, 2)),
            ]
            hand.note(empty, f"{name} {chr(97 + i)}", 0, phases)
    (made,) = articles(Report(stores=(empty.root,)))
    assert len(next(t for t in tables_of(made) if t.name == "runs").rows) == len(KNOWN) * len(ODD)
    json.dumps(to_json([made]), allow_nan=False)


def test_verdicts_judge_whole_seeds_alone(
    store: Store, empty: Store, hand: SimpleNamespace
) -> None:
    """A judge is given the seeds whose every run is finished, and one that fails is said to."""
    hand.fill(empty, seeds=range(3))
    hand.note(empty, "pruned", 2, [(hand.train("late"), None, None)])

    def judge(measured: tuple[object, ...]) -> tuple[Finding, ...]:
        seeds = sorted({m.seed for m in measured})  # type: ignore[attr-defined]
        return (Finding("seeds", True, str(seeds)),)

    (made,) = articles(Report(stores=(empty.root,), judge=judge))
    (table,) = [table for table in tables_of(made) if table.name == "verdicts"]
    assert [(r["status"], r["evidence"]) for r in table.rows] == [("holds", "[0, 1]")]

    def broken(measured: tuple[object, ...]) -> tuple[Finding, ...]:
        raise KeyError("another network")

    (made,) = articles(Report(stores=(store.root,), judge=broken))
    assert not [table for table in tables_of(made) if table.name == "verdicts"]


def test_masks_are_pictures_of_what_is_kept(store: Store) -> None:
    """The image of a mask, decoded, is black where the mask keeps and white elsewhere."""
    found, damaged = pairs(read([store])[0])
    assert ([p.name for p in found], damaged) == (
        ["pruned round-3, seed 0", "by chance round-3, seed 0"],
        [],
    )
    mask = found[0].masks["fc1.weight"]
    assert int(mask.sum()) == 9
    grey = np.where(mask.numpy(), 0, 255).astype(np.uint8)
    file = b64decode(grey_uri(grey).partition(",")[2])
    at = file.index(b"IDAT")
    length = int.from_bytes(file[at - 4 : at], "big")
    lines = np.frombuffer(zlib.decompress(file[at + 4 : at + 4 + length]), np.uint8)
    assert np.array_equal(lines.reshape(6, 17)[:, 1:], grey)


def test_histograms_count_every_weight_inside_the_axis(store: Store) -> None:
    """Before pruning 96 weights, at the end the 9 largest of them; the axis leaves out no more than 1."""
    (made,) = articles(Report(stores=(store.root,)))
    (table,) = [table for table in tables_of(made) if table.name == "weights"]
    mine = [
        r for r in table.rows if r["layer"] == "fc1.weight" and r["pruned"].startswith("pruned")
    ]
    counts = {what: sum(r["count"] for r in mine if r["what"] == what) for what in ("before pruning", "left at the end")}  # fmt: skip
    assert counts["before pruning"] in (95, 96)
    assert counts["left at the end"] in (8, 9)


def test_a_damaged_state_is_reported_and_the_rest_is_shown(
    empty: Store, hand: SimpleNamespace
) -> None:
    """A truncated state costs its pictures, not the report."""
    hand.fill(empty, seeds=[0])
    (run,) = [run for run in read([empty])[0].runs if run.branch == "pruned"]
    path = empty.root / "phases" / run.key / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    found, damaged = pairs(read([empty])[0])
    assert [pair.name for pair in found] == ["by chance round-3, seed 0"]
    assert len(damaged) == 1
    assert "cannot be used" in damaged[0]


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    """A folder that is a file is an error that names it, and nothing is left behind."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(BoxwoodError, match="Expected a folder that can be written"):
        write_whole(tmp_path / "file" / "page.html", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_the_charts_library_the_error_says_what_to_install(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named where the library is missing."""
    from boxwood._internal.report.page import render

    render.library.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(MissingDependency, match=r"pip install 'boxwood\[report\]'"):
        page(Report(stores=(store.root,)))
    render.library.cache_clear()


@pytest.mark.parametrize("command", ["serve", "report"])
def test_commands_that_need_the_charts_library_stop_before_they_begin(
    command: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server opens, and no store is read; tables need no charts."""
    from boxwood._internal.report.page import render

    def begun(*_: object, **__: object) -> None:
        pytest.fail("it went on without the charts' library")

    monkeypatch.setattr("boxwood._internal.cli.serve.open_server", begun)
    monkeypatch.setattr("boxwood._internal.cli.report.page", begun)
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    render.library.cache_clear()
    error = CliRunner().invoke(app, [command, str(store.root)]).exception
    assert isinstance(error, BoxwoodError)
    assert "pip install 'boxwood[report]'" in str(error)
    assert not CliRunner().invoke(app, ["report", str(store.root), "--json"]).exception
    render.library.cache_clear()
