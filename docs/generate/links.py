"""Links that lead out of ``docs/``: they work in a checkout, and on the site too.

Pictures and pages of ``experiments/results`` are copied into the site. Other files of the repository
are not on it, so such a link becomes the path of the file, as code.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(((?:\.\./)+[^)\s#]+)(#[^)\s]*)?\)")
COPIED = ("experiments/results/", ".png", ".svg", ".html")

_copied: set[str] = set()


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures and pages of results that documents link to."""
    root = Path(config.docs_dir).parent
    _copied.clear()
    for page in files.documentation_pages():
        text = Path(page.abs_src_path).read_text(encoding="utf-8")
        for each in LINK.finditer(text):
            path = outside(page.src_uri, each[3])
            if path and path.startswith(COPIED[0]) and path.endswith(COPIED[1:]):
                _copied.add(path)
    for path in sorted(_copied):
        source = str(root / path)
        files.append(File.generated(config, _on_site(path), abs_src_path=source))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links that lead out of the documents lead to the copies, or name the file."""
    root = Path(config.docs_dir).parent

    def replaced(found: re.Match[str]) -> str:
        path = outside(page.file.src_uri, found[3])
        if path is None:
            return found[0]
        if path in _copied:
            depth = page.file.src_uri.count("/")
            return f"{found[1]}[{found[2]}]({'../' * depth}{_on_site(path)})"
        if not (root / path).exists():
            return found[0]  # MkDocs says that it is not there
        return f"{found[2]} (`{path}`)" if found[2].strip("`") != path else f"`{path}`"

    return LINK.sub(replaced, markdown)


def outside(page: str, link: str) -> str | None:
    """Return the path in the repository of a link that leads out of the documents; else None.

    Args:
        page: path of the page in ``docs/``.
        link: the link, relative to the page.

    Example:
        >>> outside("methods/a.md", "../../examples/compress.py")
        'examples/compress.py'
        >>> outside("methods/a.md", "../format.md")
    """
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith(("docs/", "../")) else path


def _on_site(path: str) -> str:
    return "results/" + posixpath.basename(path)
