"""``boxwood cite``: the papers for exactly what a recipe or a store uses."""

from pathlib import Path

import typer

from boxwood._internal.cli.run import Code, Data, Settings, TrustAll
from boxwood._internal.cli.target import resolve, trusted
from boxwood._internal.cli.terminal import say
from boxwood._internal.core.spec import encode
from boxwood._internal.report.citation import bibtex, papers, sources
from boxwood._internal.report.page.build import json_text
from boxwood._internal.runs.store import Store


def cite(
    target: str = typer.Argument(help="file.py:function, a recipe.json, or a store."),
    data: Data = None,
    settings: Settings = None,
    code: Code = None,
    trust: TrustAll = False,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of BibTeX."),
) -> None:
    """Print the BibTeX of exactly the methods that a recipe uses.

    Example: boxwood cite experiments/han2015.py:lenet_300_100
    """
    if Path(target).is_dir():
        runs = Store(target).runs()
        found = sources([[run["genesis"], *run["recipe"]] for run in runs])
    else:
        found = sources(encode(resolve(target, data, settings or (), trusted(code, trust))))
    if as_json:
        rows = [
            {"used": s.used, "source": s.text, "papers": [p.key for p in s.papers]} for s in found
        ]
        entries = {paper.key: paper.bibtex for paper in papers(found)}
        say(json_text({"sources": rows, "bibtex": entries}))
        return
    say(bibtex(found))
