"""Draw the layers of the package: ``python docs/generate/layers.py`` writes the picture."""

from html import escape
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "pictures" / "layers.svg"
LAYERS: tuple[dict[str, str], ...] = (  # from the top; each folder with what is in it
    {"cli": "one file for each command"},
    {"compress": "the search from a limit on accuracy to a folder"},
    {"report": "tables, intervals, verdicts, pages", "adapters": "Lightning, Hugging Face"},
    {"runs": "keys, the store, the runner, workers"},
    {"recipes": "phases as frozen data, and the recipes of the papers"},
    {
        "train": "the loop, losses",
        "distill": "teachers",
        "agent": "searches that learn",
        "data": "splits",
        "zoo": "networks",
    },
    {
        "model": "masks on a network, evidence",
        "graph": "units, surgery, the check",
        "engine": "compiled networks",
        "files": "checkpoints",
    },
    {"core": "masks, criteria, granularity, allocation, schedules, policies; tensors in, tensors out"},
)  # fmt: skip
WIDTH, ROW, GAP = 960, 58, 10
STYLE = """
text { font-family: system-ui, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif; }
.name { font-size: 16px; font-weight: 600; fill: #173d2b; }
.what { font-size: 12px; fill: #2c4a3c; }
.side { font-size: 13px; fill: #6b7d74; }
"""


def picture() -> str:
    """Return the SVG: a row for each layer, a box for each folder, an arrow that points down.

    Example:
        >>> picture().count("<rect")
        17
    """
    height = len(LAYERS) * (ROW + GAP) + GAP
    shades = (
        "#f2f8f4",
        "#e9f4ed",
        "#dff0e6",
        "#d5ebde",
        "#cbe6d6",
        "#c1e1ce",
        "#b4d9c3",
        "#a5d0b7",
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The layers of boxwood: a folder imports from layers below it only</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        (
            f'<path d="M24 {GAP * 2} V{height - 26} m-6 -10 l6 10 l6 -10" fill="none" '
            'stroke="#6b7d74" stroke-width="2"/>'
        ),
        (
            f'<text class="side" transform="translate(16 {height // 2}) rotate(-90)" '
            'text-anchor="middle">imports</text>'
        ),
    ]
    for number, (layer, shade) in enumerate(zip(LAYERS, shades, strict=True)):
        top = GAP + number * (ROW + GAP)
        width = (WIDTH - 44 - GAP * len(layer)) / len(layer)
        for place, (name, what) in enumerate(layer.items()):
            left = 44 + place * (width + GAP)
            lines += [
                (
                    f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{ROW}" rx="6" '
                    f'fill="{shade}" stroke="#7fae95"/>'
                ),
                f'<text class="name" x="{left + 12:.0f}" y="{top + 24}">{name}/</text>',
                f'<text class="what" x="{left + 12:.0f}" y="{top + 44}">{escape(what)}</text>',
            ]
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
