r"""Formulas between dollars become MathML, which browsers draw without any program or network.

``$\tfrac12 h w^2$`` within a sentence; ``$$`` on lines of their own around a large one.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Replace what the extension ``arithmatex`` has marked."""
    content = INLINE.sub(lambda found: mathml(found[1], "inline"), content)
    return BLOCK.sub(lambda found: mathml(found[1], "block"), content)


def mathml(formula: str, display: str) -> str:
    """Return the MathML of a formula in TeX.

    Example:
        >>> mathml("w^2", "inline")
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><msup><mi>w</mi><mn>2</mn></msup></mrow></math>'
    """
    return convert(html.unescape(formula).strip(), display=display)
