"""The navigation: ``folder/*`` is every page of a folder, its ``index.md`` first, then by title."""

import re
from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Write out what the navigation of ``mkdocs.yml`` shortens."""
    docs = Path(config.docs_dir)
    written = []
    for entry in config.nav:
        ((title, value),) = entry.items()
        if isinstance(value, str) and value.endswith("/*"):
            pages = sorted((docs / value[:-2]).glob("*.md"), key=_place)
            value = [page.relative_to(docs).as_posix() for page in pages]
        if value:
            written.append({title: value})
    config.nav = written
    return config


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
