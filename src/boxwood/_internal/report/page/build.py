"""Turn stores into the page, and into the same tables as JSON and CSV."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwood._internal.core.replacing import write_whole
from boxwood._internal.report.page.article import article
from boxwood._internal.report.page.comparison import compare
from boxwood._internal.report.page.document import Article, Table, tables_of
from boxwood._internal.report.page.render import render
from boxwood._internal.report.page.store_reader import Study, read
from boxwood._internal.report.page.summary import Judge
from boxwood._internal.runs import latency
from boxwood._internal.runs.latency import Timings
from boxwood._internal.runs.store import Store


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is to be reported.

    Args:
        stores: folders of finished phases.
        title: of the page; made from the studies where it is empty.
        only: patterns of run names, or of studies such as ``"lenet_5 on mnist"``; none takes all.
        without: the same, to leave out.
        judge: turns the measurements of a study into verdicts.
        latencies: files of measured times, as well as those in the stores.
        compare: two recipes or networks to compare seed by seed.
    """

    stores: tuple[Path, ...]
    title: str = ""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    judge: Judge | None = None
    latencies: tuple[Path, ...] = ()
    compare: tuple[str, str] | None = None

    def studies(self) -> tuple[Study, ...]:
        """Read the stores."""
        return read([Store(path) for path in self.stores], only=self.only, without=self.without)

    def timings(self) -> Timings:
        """Read what was measured; of a network that two files have, the later one counts.

        Raises:
            InvalidInput: a file is damaged, or two were measured with different machines or settings.
        """
        ours_in = [path / latency.FILE for path in self.stores]
        paths = [*filter(Path.exists, ours_in), *self.latencies]
        found = [latency.read(path) for path in paths]
        ours = [n for n, each in enumerate(found) if latency.ENGINE in each.ways and each.about]
        for n in ours[1:]:
            latency.check_alike(found[ours[0]].about, found[n].about, paths[n])
        networks: dict[str, dict[str, Sequence[float]]] = {}
        for each in found:
            for key, ways in each.networks.items():
                networks.setdefault(key, {}).update(ways)
        about = found[ours[0]].about if ours else {}
        return Timings(about, networks)


def articles(report: Report) -> tuple[Article, ...]:
    """Describe every study of a report."""
    studies = report.studies()
    timings = report.timings()
    compared = None if report.compare is None else compare(studies, *report.compare)
    return tuple(
        article(
            study,
            name=f"study-{index}",
            together=studies,
            judge=report.judge,
            timings=timings,
            compared=compared if compared is not None and compared.study is study else None,
        )
        for index, study in enumerate(studies, 1)
    )


def page(report: Report, *, live: bool = False) -> str:
    """Make the page of a report as HTML; the same stores give the same page.

    Raises:
        InvalidInput: there is no store or no run.
        MissingDependency: the charts' library is not installed.
    """
    found = articles(report)
    several = len(found) > 1
    title = report.title or (
        f"{len(found)} studies of {_names(report)}" if several else found[0].title
    )
    return render(
        found,
        title=title,
        subtitle="; ".join(each.title for each in found) if several else found[0].subtitle,
        stores=_names(report),
        live=live,
    )


def _names(report: Report) -> str:
    return ", ".join(path.resolve().name for path in report.stores)


def to_json(found: Sequence[Article]) -> dict[str, Any]:
    """All tables of some articles, with exact numbers."""
    return {
        "studies": [
            {
                "title": each.title,
                "subtitle": each.subtitle,
                "tables": {table.name: [dict(row) for row in table.rows] for table in tables_of(each)},
            }
            for each in found
        ]
    }  # fmt: skip


def write_csv(found: Sequence[Article], folder: Path) -> list[Path]:
    """Write every table as ``STUDY-TABLE.csv``, with exact numbers; return the files.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    written = []
    for each in found:
        for table in tables_of(each):
            path = folder / f"{each.name}-{table.name}.csv"
            write_whole(path, _csv(table).encode())
            written.append(path)
    return written


def json_text(value: Any) -> str:
    """JSON with an end of line."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _csv(table: Table) -> str:
    text = io.StringIO()
    names = [column.name for column in table.columns]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row.get(name)) for name in names} for row in table.rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula is quoted; numbers stay exact."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
