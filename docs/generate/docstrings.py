"""Docstrings as this repository writes them, for mkdocstrings.

``Example:`` becomes a section with code, and what names a source begins a paragraph of its own.
"""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
REMARK = re.compile(r"\n*^((?:Source|Reference|Differs from)[^:\n]{0,40}:)(?= \S)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes each docstring once it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that has one."""
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    r"""Return a docstring with the names of sections that griffe knows.

    Example:
        >>> print(readable("Score.\n\nSource: LeCun (1990).\nDiffers from the paper: no bias."))
        Score.
        <BLANKLINE>
        **Source:** LeCun (1990).
        <BLANKLINE>
        **Differs from the paper:** no bias.
    """
    return REMARK.sub(r"\n\n**\1**", EXAMPLE.sub("Examples:", text))
