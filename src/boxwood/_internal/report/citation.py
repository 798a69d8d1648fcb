"""Cite exactly the methods that a recipe uses, from their own docstrings."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from boxwood._internal.report.bibliography import PAPERS, Paper

_OURS = "boxwood."
_SOURCE = re.compile(
    r"^[ \t]*(?:Source|Reference)(?: of ``(?P<field>\w+)``)?:\s*(?P<text>.+?)"
    r"(?=^[ \t]*$|^[ \t]*[A-Z][\w ]*(?: ``\w+``)?:|\Z)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Source:
    """Where one part of a recipe comes from.

    Args:
        used: name of the phase, criterion, network or data set.
        text: the source as its docstring gives it, with section and equation.
        papers: those of the bibliography that the text names.
    """

    used: str
    text: str
    papers: tuple[Paper, ...]


def sources(spec: Any) -> tuple[Source, ...]:
    """Find the source of everything that an encoded spec names, each once.

    A line ``Source of ``field``: …`` counts only where that field of the spec is set, so that a
    plain training does not cite what it does not do. A user's own modules are asked if they are
    imported already; nothing of them is imported.

    Args:
        spec: what `boxwood._internal.core.spec.encode` returns, of recipes or experiments.

    Example:
        >>> [s.papers[0].key for s in sources({"is": "boxwood.phases:Rewind"})]
        ['frankle2019lottery']
    """
    found: dict[Source, None] = {}
    for target, fields in _named(spec):
        for field, text in _documented(target):
            if not field or fields.get(field):
                source = Source(target.rpartition(":")[2], text, cited(text))
                found[source] = None
    return tuple(found)


def papers(found: Iterable[Source]) -> tuple[Paper, ...]:
    """List the papers of some sources, each once, oldest first."""
    unique = {paper: None for source in found for paper in source.papers}
    return tuple(sorted(unique, key=lambda paper: (paper.year, paper.key)))


def bibtex(found: Iterable[Source]) -> str:
    """Write the papers as BibTeX, and sources without an entry as comments.

    Example:
        >>> bibtex([Source("f", "a personal note", ())])
        '% f: a personal note'
    """
    known = list(found)
    entries = [paper.bibtex for paper in papers(known)]
    entries += [f"% {source.used}: {source.text}" for source in known if not source.papers]
    return "\n\n".join(entries)


@cache
def cited(text: str) -> tuple[Paper, ...]:
    """Find the papers that a text names by arXiv number, or by authors and year.

    Example:
        >>> [p.key for p in cited("Frankle and Carbin (2019); Han et al. 2015, figure 1")]
        ['han2015learning', 'frankle2019lottery']
        >>> [p.key for p in cited("Frankle, Dziugaite, Roy and Carbin (2019, 2020)")]
        ['frankle2019stabilizing', 'frankle2020linear']
    """
    flat = " ".join(text.split())
    return tuple(paper for paper in PAPERS if _names(paper, flat))


def _names(paper: Paper, text: str) -> bool:
    if paper.arxiv and paper.arxiv in text:
        return True
    first, *rest = (re.escape(name) for name in paper.surnames)
    second = rf"(?:,? and {rest[0]}\b|, (?:\w\. )*{rest[0]}\b| et al\b)" if rest else ""
    names = re.finditer(rf"\b{first}{second}(?P<after>[^;]*)", text)
    years = {str(year) for year in (paper.year, *paper.also)}
    for match in names:
        # The first years after the names are theirs; later ones belong to the next paper.
        dates = re.search(r"\b\d{4}(?:, \d{4})*\b", re.sub(r"arXiv:\S+", "", match["after"]))
        if dates and years & set(dates[0].split(", ")):
            return True
    return False


def _named(spec: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(spec, Mapping):
        target = spec.get("is", spec.get("function"))
        if isinstance(target, str):
            yield target, spec
        for value in spec.values():
            yield from _named(value)
    elif isinstance(spec, list | tuple):
        for value in spec:
            yield from _named(value)


def _documented(target: str) -> tuple[tuple[str, str], ...]:
    """Fields and sources that a docstring has, of Boxwood or of code that is running already."""
    module, _, name = target.partition(":")
    try:
        ours = module.startswith(_OURS)
        thing: Any = importlib.import_module(module) if ours else sys.modules.get(module)
        for part in name.split("."):
            thing = getattr(thing, part)
    except (ImportError, AttributeError):
        return ()  # a store may be older or younger than this Boxwood
    return _written(inspect.getdoc(thing) or "")


@cache
def _written(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (match["field"] or "", " ".join(match["text"].split())) for match in _SOURCE.finditer(text)
    )
