"""Compare two recipes seed by seed, wherever both kept the same number of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boxwood._internal.report.charts.looks import colour, tooltip
from boxwood._internal.report.charts.marks import bars, base, channel, halving, level, points
from boxwood._internal.report.page.document import Column, Figure, Table
from boxwood._internal.report.page.metrics import KEPT, Metric, percent
from boxwood._internal.report.page.networks import Network, against, better, networks, yardstick
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.statistics import PairedComparison
from boxwood.errors import InvalidInput

_SAME = 0.1
"""Two networks kept as much when what they kept differs by no more than this part of it.

Removing dead neurons takes some weights more from one recipe than from another.
"""


@dataclass(frozen=True, kw_only=True)
class ComparedPair:
    """One network of each recipe.

    Args:
        a: name of the first.
        b: name of the second.
        kept_a: fraction of weights that the first kept.
        kept_b: of the second.
        test_a: mean of the first on test, by what the study is judged by.
        test_b: of the second.
        paired: both on test, seed by seed.
        epochs_a: training up to the first.
        epochs_b: up to the second.
        keys: of both, eight digits each.
    """

    a: str
    b: str
    kept_a: float
    kept_b: float
    test_a: float
    test_b: float
    paired: PairedComparison
    epochs_a: float
    epochs_b: float
    keys: str

    @property
    def same_budget(self) -> bool:
        """Whether both were trained as long."""
        return self.epochs_a == self.epochs_b


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two recipes of one study.

    Args:
        study: the study.
        a: name of the first.
        b: name of the second.
        test: by what they are compared.
        pairs: one for each sparsity that both reach.
        alone: networks without a counterpart.
    """

    study: Study
    a: str
    b: str
    test: Metric
    pairs: tuple[ComparedPair, ...]
    alone: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Say in words what came out, and what speaks against believing it."""
        signs = [better(pair.paired, self.test) for pair in self.pairs]
        won, lost = signs.count(1), signs.count(-1)
        apart = len(self.pairs) - won - lost
        said = [f"{self.a} against {self.b}: better at {won}, worse at {lost} and"]
        said.append(f"undecided at {apart} of the {len(self.pairs)} sparsities that both reach.")
        unequal = [pair for pair in self.pairs if not pair.same_budget]
        if unequal:
            said.append(
                f"The budgets differ at {len(unequal)}: "
                + ", ".join(f"{p.epochs_a:g} and {p.epochs_b:g} epochs" for p in unequal[:3])
                + "."
            )
        if self.alone:
            said.append(f"Without a counterpart: {', '.join(self.alone)}.")
        return " ".join(said)


def compare(studies: Sequence[Study], a: str, b: str) -> Comparison:
    """Compare two recipes, or two networks, of the same study.

    Args:
        studies: where to look; the first that has both is taken.
        a: name of a recipe or of one of its networks.
        b: the same.

    Raises:
        InvalidInput: a name is unknown, or nothing of the two can be paired.
    """
    known: dict[str, None] = {}
    for study in studies:
        groups = _groups(study)
        known |= dict.fromkeys(groups)
        if a in groups and b in groups:
            return _compared(study, a, b, groups[a], groups[b])
    missing = [name for name in (a, b) if name not in known]
    if missing:
        raise InvalidInput(
            f"Expected recipes or networks of the report ({', '.join(list(known)[:12])}), got "
            f"{missing[0]!r}; correct the name."
        )
    raise InvalidInput(
        f"Expected two recipes of one study, got {a!r} and {b!r}, which have another network, other "
        f"data or no seed in common; run both on the same seeds."
    )


def comparison_table(found: Comparison) -> Table:
    """One row for each sparsity that both reach; differences are on test."""
    test = found.test
    rows = [
        {
            "a": pair.a, "b": pair.b, "kept_fraction": pair.kept_a, "kept_b": pair.kept_b,
            "test_a": pair.test_a, "test_b": pair.test_b,
            "difference": pair.paired.difference.estimate,
            "low": pair.paired.difference.low, "high": pair.paired.difference.high,
            "seeds": pair.paired.difference.n,
            "wins": pair.paired.wins, "losses": pair.paired.losses,
            "p_paired": pair.paired.t_p, "p_sign": pair.paired.sign_p,
            "epochs_a": pair.epochs_a, "epochs_b": pair.epochs_b, "keys": pair.keys,
        }
        for pair in found.pairs
    ]  # fmt: skip
    return Table(
        "comparison",
        f"{test.title} at the same sparsity, paired by seed".capitalize(),
        (
            Column("a", "a"),
            Column("b", "b"),
            Column("kept_fraction", "kept a", percent, number=True),
            Column("kept_b", "kept b", percent, number=True),
            Column("test_a", "a", test.show, number=True),
            Column("test_b", "b", test.show, number=True),
            Column("difference", "a − b", test.change, number=True),
            Column("low", "from", test.change, number=True),
            Column("high", "to", test.change, number=True),
            Column("seeds", "seeds", number=True),
            Column("wins", "won", number=True),
            Column("losses", "lost", number=True),
            Column("p_paired", "p (t)", "{:.2g}".format, number=True),
            Column("p_sign", "p (sign, a better)", "{:.2g}".format, number=True),
            Column("epochs_a", "epochs a", "{:g}".format, number=True),
            Column("epochs_b", "epochs b", "{:g}".format, number=True),
            Column("keys", "keys"),
        ),
        rows,
    )


def comparison_figure(found: Comparison) -> Figure:
    """Draw the difference at each sparsity with its interval; on which side the first is better is said."""
    table, test = comparison_table(found), found.test
    scale = 100 if test.unit else 1
    rows = [
        {
            **{name: row[name] for name in ("a", "b", "kept_fraction", "seeds", "keys")},
            "series": "difference", "said": test.change(row["difference"]),
            **{n: None if row[n] is None else scale * row[n] for n in ("difference", "low", "high")},
        }
        for row in table.rows
    ]  # fmt: skip
    title = f"{test.unit} of {test.title}".removeprefix(" of ")
    plain = {"color": {"value": colour(0)}}
    said = tooltip(
        ("a", "a"), ("b", "b"), ("said", test.unit or "difference"), ("seeds", "seeds"), ("keys", "keys")
    )  # fmt: skip
    placed = sorted({row["kept_fraction"] for row in rows}, reverse=True)
    x = halving("kept_fraction", "weights remaining", placed)
    x["axis"]["values"] = placed
    y = channel("difference", title, "+~r", zero=True)
    spec = {
        **base(rows),
        "height": 260,
        "encoding": {"x": x},
        "layer": [
            level(0, "zero"),
            {**bars(plain), "transform": [{"filter": "isValid(datum.low)"}]},
            points({"y": y, **plain, "tooltip": said}, 90),
        ],
    }
    return Figure(
        name="comparison",
        title=f"{found.a} − {found.b}",
        text=(
            f"Difference of {test.title}: means over seeds with 95 % intervals; "
            f"{'below' if test.lower else 'above'} the dashed line the first is better."
        ),
        alternative=found.summary,
        spec=spec,
        table=table,
    )


def _groups(study: Study) -> dict[str, list[Network]]:
    groups: dict[str, list[Network]] = {}
    for network in networks(study):
        names = {network.members[0].branch, network.curve, network.name}
        for name in names:
            groups.setdefault(name, []).append(network)
    return groups


def _compared(
    study: Study, a: str, b: str, ours: Sequence[Network], theirs: Sequence[Network]
) -> Comparison:
    pairs, used = [], set()
    test = yardstick(networks(study)).test
    for mine in ours:
        other = _nearest(mine, theirs)
        paired = None if other is None else against(mine, other, test)
        if other is None or paired is None:
            continue
        used |= {mine.name, other.name}
        pairs.append(
            ComparedPair(
                a=mine.name,
                b=other.name,
                kept_a=mine.mean(KEPT) or 0.0,
                kept_b=other.mean(KEPT) or 0.0,
                test_a=mine.mean(test) or 0.0,
                test_b=other.mean(test) or 0.0,
                paired=paired,
                epochs_a=float(mine.members[0].epochs),
                epochs_b=float(other.members[0].epochs),
                keys=f"{mine.keys} {other.keys}",
            )
        )
    if not pairs:
        raise InvalidInput(
            f"Expected networks of {a!r} and {b!r} that kept the same number of weights on the "
            f"same seeds, got none; prune both to the same sparsities."
        )
    alone = [each.name for each in (*ours, *theirs) if each.name not in used]
    return Comparison(study=study, a=a, b=b, test=test, pairs=tuple(pairs), alone=tuple(alone))


def _nearest(mine: Network, theirs: Sequence[Network]) -> Network | None:
    kept = mine.mean(KEPT)
    placed: Mapping[str, tuple[float, Network]] = {
        each.name: (abs(other - kept), each)
        for each in theirs
        if kept is not None and (other := each.mean(KEPT)) is not None
    }
    if not placed or kept is None:
        return None
    gap, nearest = min(placed.values(), key=lambda pair: pair[0])
    return nearest if gap <= _SAME * kept or len(theirs) == 1 else None
