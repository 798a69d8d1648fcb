"""The recipes with published figures: sizes and costs of the papers, and steps on made-up data."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import boxwood
from boxwood import published
from boxwood._internal.cli.main import app
from boxwood._internal.core.spec import decode, encode
from boxwood._internal.data.splits import InMemory
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.counting import count_layers, count_parameters
from boxwood._internal.recipes.phase import Experiment, PublishedFigure
from boxwood._internal.recipes.phases.prune_units import PruneUnits
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.training_cost import (
    CARDS,
    forward_cost,
    hours,
    training_costs,
)
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.runs.runner import jobs_of
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loop import train_
from boxwood._internal.zoo.cifar_nets import cifar_vgg_16, resnet_20, resnet_56, vgg_19
from boxwood._internal.zoo.torchvision_nets import deit_small, resnet_50
from boxwood.errors import BoxwoodError

pytest.importorskip("torchvision")

STUDIES: list[Callable[[], Experiment]] = [
    getattr(published, name) for name in published.__all__ if name != "PublishedFigure"
]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__)
def test_every_study_is_data_and_takes_a_step(study: Callable[[], Experiment]) -> None:
    """It can be written down, its branches differ, and each distinct first training learns."""
    experiment = study()
    assert decode(encode(experiment)) == experiment
    names = [name for name, _ in experiment.branches]
    assert names[0] == "dense"
    assert experiment.published[0].branch == "dense"
    jobs = jobs_of(experiment, [0])
    assert len({job.chain[-1] for job in jobs}) == len(jobs)
    assert experiment.shape is not None
    # A ResNet-50 takes images of any size, and is tested on small ones.
    shape = (3, 64, 64) if experiment.model is resnet_50 else experiment.shape
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    examples = InMemory(inputs, torch.tensor([0, 7]))
    (_, recipe) = experiment.branches[-1]
    network = experiment.genesis(0).build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    phase = next(phase for phase in recipe if isinstance(phase, Train))
    # The second step, as a warm-up begins at a rate of 0; what only a card needs is left out.
    training = replace(
        phase.training,
        start_at=1,
        stop_at=2,
        batch=2,
        loading=None,
        computation=Computation(),
    )
    done = train_(network, examples, training, seed=0)
    assert done.history[-1]["step"] == 2
    assert any(not torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("net", "shape", "parameters", "multiply_adds"),
    [
        (resnet_20, (3, 32, 32), 0.27e6, 41e6),
        (resnet_56, (3, 32, 32), 0.85e6, 126e6),
        (cifar_vgg_16, (3, 32, 32), 14.7e6, 313e6),
        (vgg_19, (3, 32, 32), 20.04e6, 398e6),
        (resnet_50, (3, 224, 224), 25.6e6, 4.09e9),
        (deit_small, (3, 224, 224), 22.05e6, 4.25e9),  # 4.6e9 with the products of attention
    ],
)
def test_sizes_are_those_of_the_papers(
    net: Callable[[], torch.nn.Module],
    shape: tuple[int, ...],
    parameters: float,
    multiply_adds: float,
) -> None:
    """Parameters and multiply-adds as the papers report them."""
    assert count_parameters(net()) == pytest.approx(parameters, rel=0.01)
    assert forward_cost(net, shape) == pytest.approx(multiply_adds, rel=0.01)


@pytest.mark.parametrize(
    ("study", "parameters", "multiply_adds"),
    [
        (published.cifar10_vgg_16, 0.640, 0.342),  # Li et al. (2017), table 1
        (published.cifar10_resnet_56, 0.078, 0.090),  # 9.4 and 10.4 % there
    ],
)
def test_filters_go_where_the_paper_takes_them(
    study: Callable[[], Experiment], parameters: float, multiply_adds: float
) -> None:
    """The share of parameters and of multiply-adds that pruning takes."""
    experiment = study()
    network, example = experiment.model(), torch.zeros(2, 3, 32, 32)
    prune = next(p for p in dict(experiment.branches)["filters"] if isinstance(p, PruneUnits))
    units = find_units(network, example)
    small = shrink(network, select_units(units, keep=prune.keep, protect=prune.protect))
    before, after = (count_parameters(each) for each in (network, small))
    assert 1 - after / before == pytest.approx(parameters, abs=0.004)
    before, after = (
        sum(layer.multiply_adds for layer in count_layers(each, example))
        for each in (network, small)
    )
    assert 1 - after / before == pytest.approx(multiply_adds, abs=0.0006)


def test_a_cost_is_three_passes_of_every_example_of_every_step() -> None:
    """By hand: ResNet-50 sees 256 images in each of 481,000 steps."""
    (_, dense), *_ = published.imagenet_resnet_50_gmp().branches
    costs = training_costs(dense, forward=4_000_000_000)
    assert costs == [3 * 4_000_000_000 * 256 * 481_000, 0]
    card = CARDS["a100"]
    assert hours(dense, costs, card, 0.5) == pytest.approx(costs[0] / (156e12 * 0.5) / 3600)
    (_, exact), *_ = published.cifar10_resnet_20().branches  # in float32
    costs = training_costs(exact, forward=1_000_000)
    assert hours(exact, costs, card, 1.0) == pytest.approx(costs[0] / 9.75e12 / 3600)


def test_epochs_need_the_number_of_examples() -> None:
    """They are counted where it is known, and refused where it is not."""
    from boxwood.optim import SGD
    from boxwood.recipes import one_shot
    from boxwood.training import Training

    training = Training(epochs=2, batch=4, optimizer=SGD(lr=0.1))
    recipe = one_shot(training, replace(training, start_at=1), 0.5, dead=False)
    assert training_costs(recipe, forward=10, examples=8) == [3 * 10 * 16, 0, 3 * 10 * 8, 0]
    with pytest.raises(BoxwoodError, match=r"the number of training examples for a training of 2"):
        training_costs(recipe, forward=10)


def test_plan_prints_figures_and_cost(tmp_path) -> None:
    """Next to each branch; a card that is not known is refused with the list."""
    words = ["plan", "boxwood.published:cifar10_resnet_20", "--store", str(tmp_path / "none")]
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == 0, plain.output
    assert "91.25 %, He, Zhang, Ren and Sun (2016), table 6" in plain.output
    costly = CliRunner().invoke(app, [*words, "--card", "v100", "--utilisation", "0.5"])
    assert costly.exit_code == 0, costly.output
    # 40.81 million multiply-adds, three passes, 128 images, 64,000 steps; 3.925e12 a second
    assert "1e+15" in costly.output
    assert "hours on an NVIDIA V100 at 50 %" in costly.output
    assert "0.071" in costly.output
    with pytest.raises(BoxwoodError, match=r"--card to be one of t4, v100, a100, .*, got 'abacus'"):
        CliRunner().invoke(app, [*words, "--card", "abacus"], catch_exceptions=False)


def test_a_figure_of_no_branch_is_refused() -> None:
    """It would be printed next to nothing."""
    figure = PublishedFigure("elsewhere", 0.5, "nobody")
    with pytest.raises(BoxwoodError, match=r"published figures of the branches dense, gradual"):
        replace(published.cifar10_resnet_20(), published=(figure,))
    assert boxwood.published is published
