"""The navigation: ``folder/*`` is every page of a folder, its ``index.md`` first, then by title."""

import re
from pathlib import Path
from typing import Any


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
            pages = sorted((docs / value[:-2]).glob("*.md"), key=_place)
            value = [page.relative_to(docs).as_posix() for page in pages]
        if value:
            found.append({title: value})
    return found


def _place(page: Path) -> tuple[bool, str]:
    return page.name not in ("index.md", "README.md"), title_of(page)


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
