"""The site: every public name has its place, every link leads somewhere, nothing is fetched."""

import builtins
import doctest
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import torch

import boxwood
from boxwood import errors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATE = DOCS / "generate"
DOCUMENTS = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
PUBLIC = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "src" / "boxwood").rglob("*.py")
    if "_internal" not in path.parts and path.parts[-2:] != ("integrations", "__init__.py")
)
MKDOCS = importlib.util.find_spec("mkdocs") is not None
LINK = re.compile(r"\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\(([^)\s]+)\)")


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports a program of `docs/generate` by name."""
    monkeypatch.syspath_prepend(str(GENERATE))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = {path.stem for path in GENERATE.glob("*.py")}

    def get(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield get
    for name in found:
        sys.modules.pop(name, None)


def test_every_public_module_has_one_page() -> None:
    """Its names are on it with their docstrings."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    shown = [
        name for p in pages for name in re.findall(r"^::: (\S+)$", p.read_text(), re.MULTILINE)
    ]
    assert sorted(shown) == PUBLIC


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as Python-Markdown makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    """Files are there, and so are headings."""
    for link in LINK.findall(without_code(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / unquote(file)).resolve() if file else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@pytest.mark.skipif(not MKDOCS, reason="no mkdocs on this machine: pip install 'boxwood[docs]'")
@pytest.mark.parametrize("name", sorted(path.stem for path in GENERATE.glob("*.py")))
def test_examples_of_the_programs_run(name: str, generate) -> None:
    """They are doctests."""
    module = generate(name)
    assert module.__doc__
    assert doctest.testmod(module).failed == 0


def test_every_command_is_shown_with_an_example(generate) -> None:
    """The page has a heading and a line to type for each."""
    commands = generate("commands")
    page = commands.commands()
    for name, command in commands.walked():
        assert f"## {name}\n" in page
        assert commands.examples(command), name
        assert all(each.startswith("boxwood ") for each in commands.examples(command)), name


LINE = re.compile(r"^(?: {4}|\s*\$ )?(boxwood [a-z].*)$", re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_documents_exist(path: Path, generate) -> None:
    """Each line to type names a command that is there, and options that it has."""
    known = dict(generate("commands").walked())
    for line in LINE.findall(path.read_text(encoding="utf-8")):
        typed = re.split(r"\s+#|\s*[;|]\s*", line)[0]
        words = typed.split()
        name = " ".join(words[:3]) if words[1] == "runs" and len(words) > 2 else " ".join(words[:2])
        assert name in known, typed
        options = {each for p in known[name].params for each in (*p.opts, *p.secondary_opts)}
        used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert used <= options | {"--help"}, typed


CALL = re.compile(r"(?<![\w./-])((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?=\()")
OTHERS = {"Decode", "Trainer", "explain", "replace", "speech"}  # of studies, peers, sessions


@pytest.mark.parametrize("path", sorted((DOCS / "explanation").glob("*.md")), ids=lambda p: p.name)
def test_calls_in_sentences_are_public(path: Path) -> None:
    """What a sentence says to call can be imported, or is torch's or Python's."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    called = {
        name.rpartition(".")[2]
        for c in re.findall(r"`([^`\n]+)`", text)
        for name in CALL.findall(c)
    }
    known = {*OTHERS, *dir(builtins), *dir(torch), *dir(torch.nn), *dir(torch.Tensor)}
    known |= {*dir(torch.nn.functional)}
    for module in PUBLIC:
        try:
            found = importlib.import_module(module)
        except ImportError:  # an extra is missing
            continue
        for name in getattr(found, "__all__", dir(found)):
            known |= {name, *dir(getattr(found, name))}
    assert sorted(called - known) == []


def test_every_refusal_says_what_to_do(generate) -> None:
    """Expected, got, and the way out; each kind of error is on the page."""
    refusals = generate("refusals")
    found = refusals.refusals()
    assert [each.expected for each in found if not each.do.strip()] == []
    assert [each.expected for each in found if ", got" not in each.expected] == []
    page = (DOCS / "guides" / "troubleshooting.md").read_text()
    assert refusals.MARK in page
    kinds = [
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.BoxwoodError | UserWarning)
    ]
    assert [name for name in kinds if f"`{name}`" not in page and name != "BoxwoodError"] == []


def test_messages_of_every_folder_have_an_area(generate) -> None:
    """A new folder of the code says where its messages belong."""
    areas = {folder for folders in generate("refusals").AREAS.values() for folder in folders}
    folders = {p.name for p in (ROOT / "src/boxwood/_internal").iterdir() if p.is_dir()}
    assert folders - {"__pycache__"} <= areas


def test_decisions_are_numbered_without_holes(generate) -> None:
    """Every number from 0001 to the last is that of one page."""
    folder = DOCS / "decisions"
    listed = generate("decisions").decisions(folder)
    untitled = {path.name for path in folder.glob("[0-9]*.md")} - set(listed)
    assert not untitled, "each begins with '# 0042: what was decided'"
    numbers = [number for number, _ in listed.values()]
    assert [n for n, count in Counter(numbers).items() if count > 1] == []
    assert all(name.startswith(number) for name, (number, _) in listed.items())
    assert sorted(numbers) == [f"{n:04}" for n in range(1, len(numbers) + 1)]


def test_the_picture_of_the_layers_is_true(generate) -> None:
    """It has the layers that imports are held to, and is what the program draws."""
    layers = generate("layers")
    text = (ROOT / "tests" / "test_architecture.py").read_text()
    names: dict[str, object] = {}
    exec(re.search(r"^LAYERS = \(.*?^\)$", text, re.DOTALL | re.MULTILINE)[0], names)  # noqa: S102
    assert [set(row) for row in reversed(layers.LAYERS)] == list(names["LAYERS"])
    assert layers.PICTURE.read_text() == layers.picture()


def test_one_version() -> None:
    """The package, its metadata and its citation agree."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert boxwood.__version__ == version


def test_hosted_checks_run_what_developers_run() -> None:
    """Every command of the workflow is a target of the Makefile."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = re.findall(r"- run: (.+)$", workflow, re.MULTILINE)
    assert {"make test", "make check", "make docs", "make dist"} == set(called)
    assert {each.removeprefix("make ") for each in called} <= targets


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built as ``make docs`` builds it: a warning is an error."""
    if not MKDOCS:
        pytest.skip("no mkdocs on this machine: pip install 'boxwood[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_public_name_is_on_the_site(site: Path) -> None:
    """The inventory, which other projects link by, has them all."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entered = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    missing = []
    for name in PUBLIC:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        text = Path(spec.origin).read_text()
        listed = re.search(r"^__all__ = \[(.*?)\]", text, re.DOTALL | re.MULTILINE)
        names = re.findall(r'"(\w+)"', listed[1]) if listed else re.findall(r"^class (\w+)", text, re.MULTILINE)  # fmt: skip
        missing += [each for each in names if f"{name}.{each}" not in entered]
    assert missing == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures are all on the site; links may lead out."""
    for page in site.rglob("*.html"):
        if page.parent.name == "results":  # reports of studies, which have a test of their own
            continue
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|iframe|source)\b[^>]* src=\"?(?:https?:)?//", text
        ), page
        fetched = re.findall(r"<link\b[^>]*>", text)
        assert not [tag for tag in fetched if "canonical" not in tag and "//" in tag], page
    for style in (site / "assets").rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_pages_have_what_is_made_from_the_code(site: Path) -> None:
    """Marks are replaced, formulas are drawn, and the index of the search is a script."""
    troubles = (site / "guides" / "troubleshooting.html").read_text()
    assert "Expected sparsity in [0, 1)" in troubles or "give the fraction of weights" in troubles
    assert "<math" in (site / "explanation" / "criteria.html").read_text()
    assert "boxwood compress" in (site / "reference" / "commands.html").read_text()
    assert "how structure is found" in (site / "decisions" / "index.html").read_text()
    assert (site / "search" / "search_index.js").stat().st_size > 100_000
    pages = [p for p in site.rglob("*.html") if p.parent.name != "results"]
    assert not [page for page in pages if re.search("<!-- (generated|file):", page.read_text())]


@pytest.fixture
def visit(site: Path) -> Iterator[Callable[..., Any]]:
    """Open a page from its file; what the console says or a page asks of a network is an error."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    said: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def open_(name: str, **settings: Any) -> Any:
            page = browser.new_context(**settings).new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on(
                "request",
                lambda request: (
                    request.url.startswith(("file:", "data:", "blob:")) or said.append(request.url)
                ),
            )
            page.goto(f"file://{site}/{name}")
            return page

        yield open_
        browser.close()
    assert said == []


def test_the_search_needs_no_server(visit) -> None:
    """Opened from a file, it finds a public name."""
    page = visit("index.html", viewport={"width": 1280, "height": 900})
    page.get_by_role("textbox", name="Search").fill("erdos_renyi_kernel")
    page.locator(".md-search-result__link").first.wait_for(timeout=60_000)
    addresses = page.locator(".md-search-result__link").evaluate_all("all => all.map(a => a.href)")
    assert [each for each in addresses if "reference/allocation.html" in each]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    ["index.html", "explanation/criteria.html", "guides/troubleshooting.html", "reference/criteria.html"],
)  # fmt: skip
def test_pages_fit_a_phone(name: str, scheme: str, visit) -> None:
    """Nothing but code and tables scrolls sideways, and dark pages are dark."""
    page = visit(name, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = sum(int(each) for each in re.findall(r"\d+", colour)[:3])
    assert (shade < 3 * 80) == (scheme == "dark"), colour
