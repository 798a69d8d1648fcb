"""The navigation: ``folder/*`` is every page of a folder, in the order of its ``index.md``.

Pages that the index does not link to come last, by their titles.
"""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\]\(([\w.-]+\.md)")


def on_config(config: Any) -> Any:
    """Write out what the navigation of ``mkdocs.yml`` shortens."""
    config.nav = written(config.nav, Path(config.docs_dir))
    return config


def written(nav: list[Any], docs: Path) -> list[Any]:
    """Return the navigation with every page in it; a folder without pages is left out."""
    found = []
    for entry in nav:
        if isinstance(entry, str):
            found.append(entry)
            continue
        ((title, value),) = entry.items()
        if isinstance(value, list):
            value = written(value, docs)
        elif value.endswith("/*"):
            value = [page.relative_to(docs).as_posix() for page in ordered(docs / value[:-2])]
        if value:
            found.append({title: value})
    return found


def ordered(folder: Path) -> list[Path]:
    """Return the pages of a folder: its index, what that links to in order, then the others."""
    index = next((p for n in ("index.md", "README.md") if (p := folder / n).exists()), None)
    linked = LINK.findall(index.read_text(encoding="utf-8")) if index else []

    def place(page: Path) -> tuple[bool, int, str]:
        number = linked.index(page.name) if page.name in linked else len(linked)
        return page != index, number, title_of(page)

    return sorted(folder.glob("*.md"), key=place)


def title_of(page: Path) -> str:
    """Return the first heading of a page, or the name of its file.

    Example:
        >>> import tempfile
        >>> page = Path(tempfile.mkdtemp()) / "a.md"
        >>> _ = page.write_text("# Masks")
        >>> title_of(page)
        'Masks'
    """
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else page.stem
