"""Tables of what a network costs and how good it is: for people with rich, for programs as dicts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from boxwood._internal.report.summary_rows import SummaryRow
from boxwood.errors import InvalidInput

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class LayerRow(Protocol):
    """What the layer table reads of a layer; counts are for one example."""

    @property
    def name(self) -> str:
        """Dotted name of the layer."""

    @property
    def kind(self) -> str:
        """Such as Conv2d or Linear."""

    @property
    def weights(self) -> int:
        """Number of weights before pruning, at least 1."""

    @property
    def kept(self) -> int:
        """Number of weights that the mask keeps."""

    @property
    def multiply_adds(self) -> int:
        """Of the dense layer, at least 1."""

    @property
    def effective_multiply_adds(self) -> int:
        """Of the kept weights alone."""

    @property
    def output_activity(self) -> float:
        """Fraction of activations that leave the layer and are not zero, in [0, 1]."""

    @property
    def han_flops_kept(self) -> float:
        """Fraction of kept weights times that of non-zero inputs, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class LayerTotal:
    """The row below the layers.

    Args:
        name: Always "total".
        weights: Sum over the layers.
        kept: Sum over the layers.
        multiply_adds: Sum over the layers.
        effective_multiply_adds: Sum over the layers.
        han_flops_kept: Mean over the layers, weighted by multiply-adds.
    """

    name: str
    weights: int
    kept: int
    multiply_adds: int
    effective_multiply_adds: int
    han_flops_kept: float


def total(rows: Sequence[LayerRow]) -> LayerTotal:
    """Sum the layers, as the paper does.

    Args:
        rows: One for each layer.

    Raises:
        InvalidInput: If there is no layer.

    Example:
        >>> from types import SimpleNamespace as Row
        >>> fc1 = Row(weights=900, kept=90, multiply_adds=900, effective_multiply_adds=90, han_flops_kept=0.1)
        >>> fc2 = Row(weights=100, kept=60, multiply_adds=100, effective_multiply_adds=60, han_flops_kept=0.3)
        >>> total([fc1, fc2]).kept, round(total([fc1, fc2]).han_flops_kept, 3)
        (150, 0.12)

    Source: Han et al. (2015), tables 2 to 5. Differs from the paper: there is no activity, whose
    weights in the paper's total are the numbers of outputs after the pooling.
    """
    if not rows:
        raise InvalidInput(
            "Expected at least one layer to add up, got none; count a network that has linear or "
            "convolution layers."
        )
    multiply_adds = sum(row.multiply_adds for row in rows)
    return LayerTotal(
        name="total",
        weights=sum(row.weights for row in rows),
        kept=sum(row.kept for row in rows),
        multiply_adds=multiply_adds,
        effective_multiply_adds=sum(row.effective_multiply_adds for row in rows),
        han_flops_kept=sum(row.han_flops_kept * row.multiply_adds for row in rows) / multiply_adds,
    )


def layer_table(rows: Sequence[LayerRow]) -> Table:
    """Han's table: one row for each layer, then their total.

    The last column is what remains when work on zero weights and on zero inputs is both skipped.

    Args:
        rows: One for each layer, in the order in which they run.

    Raises:
        InvalidInput: If there is no layer.

    Example:
        >>> from types import SimpleNamespace as Row
        >>> fc = Row(name="fc", kind="Linear", weights=30_000, kept=2_700, multiply_adds=30_000,
        ...     effective_multiply_adds=2_700, output_activity=0.65, han_flops_kept=0.04)
        >>> render(layer_table([fc])).splitlines()[4].split()
        ['fc', 'Linear', '30.0K', '30.0K', '65.0', '9.0', '4.0']

    Source: Han et al. (2015), tables 2 to 5. Differs from the paper: multiply-adds where it has
    FLOP, which are twice as many.
    """
    table = _table(
        ("layer", "kind"),
        ("weights", "multiply-\nadds", "activation\n%", "kept\n%", "multiply-adds\nkept %"),
    )
    for row in rows:
        # Text, because rich would read a name with brackets as markup.
        table.add_row(
            Text(row.name),
            Text(row.kind),
            *_counts(row),
            _percent(row.output_activity),
            *_kept(row),
        )
    table.add_section()
    sums = total(rows)
    table.add_row(sums.name, "", *_counts(sums), "", *_kept(sums), style="bold")
    return table


def summary_table(rows: Sequence[SummaryRow]) -> Table:
    """One row for each network: how good it is, what is left of it, and what it cost to make.

    Absolute numbers come first and the ratio to the dense network below them, in words, because
    a bare "90 % compression" does not say whether 90 % were kept or removed.

    Args:
        rows: One for each network, the dense original first.

    Example:
        >>> from boxwood._internal.report.statistics import Interval
        >>> ticket = SummaryRow(name="ticket", seeds=5, sparsity=0.917,
        ...     accuracy=Interval(estimate=0.982, low=0.98, high=0.984, n=5, method="Student t"),
        ...     parameters=266_610, nonzero=22_218, multiply_adds=22_180, dense_multiply_adds=266_200,
        ...     bytes=122_200, dense_bytes=1_066_440, epochs=240, seconds=961)
        >>> "12.0x fewer" in render(summary_table([ticket]))
        True

    Source: Blalock et al. (2020), "What is the state of neural network pruning?"
    """
    table = _table(
        ("network",),
        ("n", "accuracy", "sparsity", "parameters", "multiply-\nadds", "on disk", "training"),
    )
    table.leading = 1
    for row in rows:
        table.add_row(
            Text(row.name),
            str(row.seeds),
            f"{row.accuracy:.1%}".replace(" [", "\n[").replace(" (", "\n("),
            f"{_percent(row.sparsity)} %",
            human(row.nonzero) + _than(row.parameters, row.nonzero),
            human(row.multiply_adds) + _than(row.dense_multiply_adds, row.multiply_adds),
            human_bytes(row.bytes) + _than(row.dense_bytes, row.bytes),
            f"{row.epochs:g} epoch{'' if row.epochs == 1 else 's'}\n{human_seconds(row.seconds)}",
        )
    return table


def to_json_rows(rows: Sequence["DataclassInstance"]) -> list[dict[str, Any]]:
    """The rows of either table as plain dicts with exact numbers.

    Args:
        rows: Layers, with their ``total`` where it is wanted, or networks of the summary.

    Example:
        >>> from boxwood._internal.report.statistics import Interval
        >>> to_json_rows([Interval(estimate=0.5, low=None, high=None, n=1, method="Student t")])
        [{'estimate': 0.5, 'low': None, 'high': None, 'n': 1, 'method': 'Student t', 'level': 0.95}]
    """
    return [asdict(row) for row in rows]


def render(table: Table, width: int = 120) -> str:
    """The table as plain text without colour, for files and tests.

    Args:
        table: One of those above.
        width: Of a line, in characters.

    Example:
        >>> print(render(Table("network", "seeds", box=None, pad_edge=False)))
        network  seeds
        <BLANKLINE>
    """
    text = StringIO()
    # Names are data: nothing in them is markup.
    console = Console(
        file=text, width=width, color_system=None, force_terminal=False, force_jupyter=False,
        markup=False, emoji=False,
    )  # fmt: skip
    console.print(table)
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def human(count: int) -> str:
    """A count with three or four digits: thousands with one decimal, more with two.

    Example:
        >>> human(812), human(266_200), human(1_230_000), human(999_999)
        ('812', '266.2K', '1.23M', '1.00M')
    """
    return _scaled(count, ("", "K", "M", "G", "T"))


def human_bytes(count: int) -> str:
    """A size in decimal units.

    Example:
        >>> human_bytes(512), human_bytes(44_100)
        ('512 B', '44.1 kB')
    """
    return _scaled(count, (" B", " kB", " MB", " GB", " TB"))


def human_seconds(seconds: float) -> str:
    """A duration with its two largest units.

    Example:
        >>> human_seconds(12.34), human_seconds(250), human_seconds(3_900)
        ('12.3 s', '4 min 10 s', '1 h 05 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min"


def _table(names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header in names:
        table.add_column(header, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right", overflow="fold")
    return table


def _counts(row: LayerRow | LayerTotal) -> tuple[str, str]:
    return human(row.weights), human(row.multiply_adds)


def _kept(row: LayerRow | LayerTotal) -> tuple[str, str]:
    return _percent(row.kept / row.weights), _percent(row.han_flops_kept)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _than(dense: int, now: int) -> str:
    if now == dense:
        return ""
    if now == 0:
        return "\nnone left"
    ratio, word = (dense / now, "fewer") if now < dense else (now / dense, "more")
    return f"\n{ratio:.{1 if ratio >= 2 else 2}f}x {word}"


def _scaled(value: int, units: Sequence[str]) -> str:
    text = ""
    for power, unit in enumerate(units):
        number = f"{value / 1000**power:.{min(power, 2)}f}"
        text = number + unit
        # Decided after rounding, or 999,999 would be 1000.0K.
        if float(number) < 1000:
            break
    return text
