"""How every figure looks, and how it reaches the disk.

Only here does anything know matplotlib's settings and file formats. No figure goes through pyplot,
so none is left behind in a global list, and no display is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwood._internal.core.extras import extra
from boxwood._internal.core.replacing import replacing
from boxwood.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.dpi": 160,
    "font.size": 10,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "savefig.dpi": "figure",
    # Text stays text: searchable, and independent of the version of the font renderer.
    "svg.fonttype": "none",
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
    # Without a salt the SVG names its clip paths at random, and equal figures differ.
    "svg.hashsalt": "boxwood",
}

# Okabe and Ito (2008), "Color universal design", without yellow, which is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")


def look(position: int, colour: Any = None) -> dict[str, Any]:
    """Colour, marker and dashes of a line, so that lines can be told apart in grey too.

    Example:
        >>> look(0)["linestyle"], look(1)["linestyle"], look(7)["color"] == COLOURS[0]
        ('-', '--', True)
    """
    return {
        "color": COLOURS[position % len(COLOURS)] if colour is None else colour,
        "marker": _MARKERS[position % len(_MARKERS)],
        "linestyle": _DASHES[position % len(_DASHES)],
    }


def label(name: str) -> str:
    """A name for a legend.

    One leaves out labels that begin with an underscore, as compiled modules' names do
    ("_orig_mod.fc"); a space of no width in front keeps them.
    """
    return f"\u200b{name}"


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and write with Boxwood's settings, whatever the user's own are, and put those back.

    Raises:
        MissingDependency: matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> with house_style():
        ...     matplotlib.rcParams["legend.frameon"]
        False
    """
    with extra("plots", "matplotlib to draw figures with"):
        import matplotlib
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def write_figure(figure: "Figure", path: Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes.

    Both are drawn before either is written, and each appears whole under its name or not at all.

    Args:
        figure: Drawn within ``house_style``, and written within it too.
        path: Name of the files without ending; one of ``.png`` or ``.svg`` is taken off. Missing
            folders are made.

    Raises:
        InvalidInput: If the folder cannot be written.
    """
    stem = path.with_suffix("") if path.suffix in {".png", ".svg"} else path
    contents = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        content = BytesIO()
        figure.savefig(content, format=kind, metadata=metadata)
        contents[stem.with_name(f"{stem.name}.{kind}")] = content.getvalue()
    for target, data in contents.items():
        write(target, data)
    png, svg = contents
    return png, svg


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and the folders above it.

    Raises:
        InvalidInput: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder) / "tables" / "a.csv", b"1,2")
        ...     (Path(folder) / "tables" / "a.csv").read_bytes()
        b'1,2'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            new.write_bytes(content)
    except OSError as error:
        raise InvalidInput(
            f"Expected a folder that can be written for {path}, got {error.strerror}; choose "
            f"another path or change its permissions."
        ) from error
