"""Pages that are files of the repository's root: written once, read in both places."""

import re
from pathlib import Path
from typing import Any

MARK = re.compile(r"<!-- file: ([A-Z]+\.md) -->")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the file where the page names it."""
    root = Path(config.docs_dir).parent
    up = "../" * page.file.src_uri.count("/")

    def text(found: re.Match[str]) -> str:
        return moved((root / found[1]).read_text(encoding="utf-8"), up)

    return MARK.sub(text, markdown)


def moved(text: str, up: str) -> str:
    """Return a text of the root with its links into ``docs/`` as a page has them.

    Example:
        >>> moved("[A](docs/a.md)", "../")
        '[A](../a.md)'
    """
    return text.replace("](docs/", f"]({up}")
