"""Exactly what was used is cited."""

import sys
from types import ModuleType

import pytest

from boxwood._internal.core.call import Call
from boxwood._internal.core.spec import encode
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.three_step import iterative
from boxwood._internal.report.bibliography import PAPERS
from boxwood._internal.report.citation import bibtex, cited, papers, sources
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100

TRAINING = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))


def keys(recipe: tuple[object, ...]) -> set[str]:
    study = Experiment(
        model=Call.of(lenet_300_100, inputs=64), data=digits, branches=(("a", recipe),)
    )
    return {paper.key for paper in papers(sources(encode(study)))}


def test_plain_training_cites_its_network_and_data_alone() -> None:
    """Who only trains cites no pruning paper for it, but the network's description does."""
    assert keys((Train(training=TRAINING), Measure())) == {
        "lecun1998gradient",
        "han2015learning",
        "alpaydin1998optical",
    }
    used = {source.used for source in sources(encode((Train(training=TRAINING), Measure())))}
    assert "Train" not in used


def test_dropout_correction_is_cited_where_it_is_on() -> None:
    """The source of a setting counts when the setting is on."""
    (source,) = sources(encode(Train(training=TRAINING, correct_dropout=True)))
    assert (source.used, source.papers[0].key) == ("Train", "han2015learning")


def test_every_phase_of_the_paper_is_traced() -> None:
    """The iterative recipe names where criterion, dead units and dropout come from."""
    recipe = iterative(TRAINING, TRAINING, (0.5,))
    used = {source.used for source in sources(encode(recipe))}
    assert used == {"Train", "magnitude", "Prune"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Zhu and Gupta (2017), equation 1.", ["zhu2017prune"]),
        ("Han et al., arXiv:1506.02626, 2015, section 4.1", ["han2015learning"]),
        ("Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, 1998, section III-C", ["lecun1998gradient"]),
        ("LeCun, Denker and Solla (1990), section 2", ["lecun1990optimal"]),
        ("Evci, Gale, Menick, Castro and Elsen (2020), section 3", ["evci2020rigging"]),
        ("Evci et al. (2020)", ["evci2020rigging"]),
        ("Lee, Ajanthan and Torr (2019), equation 6", ["lee2019snip"]),
        ("Lee, Park, Mo, Ahn and Shin (2021), equation 1", ["lee2021layer"]),
        ("Molchanov, Mallya, Tyree, Frosio and Kautz (2019)", ["molchanov2019importance"]),
        ("Frantar and Alistarh (2023), algorithm 1", ["frantar2023sparsegpt"]),
        ("Zhang, Zhao, Lin et al. (2024), algorithm 1", ["zhang2024dynamic"]),
        ("Zhang, Bai, Lin, Zhao, Hou and Cannistraci (2024): RIA", ["zhang2024plug"]),
        ("Frankle and Carbin (2019), section 1; Renda, Frankle and Carbin (2020)", ["frankle2019lottery", "renda2020comparing"]),
        ("the preprocessing of torchvision's classification reference", []),
        ("Nobody and Noone (2015)", []),
        ("Han (2020)", []),
    ],
)  # fmt: skip
def test_papers_are_found_by_authors_and_year(text: str, found: list[str]) -> None:
    """A source names a paper by its first two authors or et al., with its year, or by arXiv."""
    assert [paper.key for paper in cited(text)] == found


def test_every_paper_is_found_by_its_own_name() -> None:
    """Each entry is found by its authors and year, and no two entries have one key."""
    for paper in PAPERS:
        first, *rest = paper.surnames
        text = f"{first} et al. ({paper.year})" if len(rest) > 1 else f"{' and '.join([first, *rest])} ({paper.year})"  # fmt: skip
        assert paper in cited(text)
    assert len({paper.key for paper in PAPERS}) == len(PAPERS)


def test_bibtex_has_balanced_braces() -> None:
    """Every entry can be pasted."""
    for paper in PAPERS:
        assert paper.bibtex.count("{") == paper.bibtex.count("}")
        assert f"@misc{{{paper.key}," in paper.bibtex


def test_unknown_code_is_left_alone() -> None:
    """Names of a user's files, and of what this Boxwood does not have, cite nothing."""
    assert sources([{"is": "mine.py:Phase"}, {"function": "boxwood.criteria:gone"}]) == ()
    assert bibtex(()) == ""


def test_code_that_is_running_cites_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module that has been imported is asked as Boxwood's are, and none is imported."""
    spec = {"function": "somebodys_module:net"}
    assert sources(spec) == ()
    module = ModuleType("somebodys_module")
    exec('def net():\n    """Build it.\n\n    Source: Han et al. (2015), figure 1.\n    """', vars(module))  # noqa: S102  # fmt: skip
    monkeypatch.setitem(sys.modules, "somebodys_module", module)
    (found,) = sources(spec)
    assert [paper.key for paper in found.papers] == ["han2015learning"]
