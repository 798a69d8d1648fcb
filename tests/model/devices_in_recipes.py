"""Phases of recipes with their networks on the device: see `devices_at_work.py`."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from devices_at_work import Device, Numbers
from torch import nn

import boxwood
from boxwood.agent import TryAndLearn
from boxwood.criteria import obd
from boxwood.data import Splits, from_tensors
from boxwood.distill import (
    Distillation,
    FeatureDistillation,
    PastNetwork,
    Teacher,
    TopK,
    with_teacher,
)
from boxwood.optim import SGD
from boxwood.phases import (
    Descend,
    GroupClasses,
    MeasureTeacher,
    Predict,
    Scan,
    SearchFilters,
    ShiftBias,
    Train,
)
from boxwood.recipes import (
    Genesis,
    Recipe,
    by_sensitivity,
    filter_agent,
    generalist,
    global_rate,
    instability,
    iterative,
    lottery_ticket,
    masked_at_start,
    noisy_ticket,
    one_shot,
    optimal_brain_damage,
    random_ticket,
    ranked,
    reinitialised_ticket,
    resampled_ticket,
    slimming,
    specialists,
    student,
    trained_teacher,
)
from boxwood.runs import RunSettings, Store, run_recipe
from boxwood.training import Training, cross_entropy

SHORT = Training(steps=3, batch=8, optimizer=SGD(lr=0.1))


def toy() -> Splits:
    """Make images of three classes, the same every time."""
    chance = torch.Generator().manual_seed(4)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.randn(count, 2, 4, 4, generator=chance),
            torch.randint(3, (count,), generator=chance),
        )

    return from_tensors("toy", part(60), part(20), validation=20)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1),
        nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def recipes() -> dict[str, tuple[Callable[[], nn.Module], Recipe]]:
    """Name recipes that contain all phases."""
    ticket = lottery_ticket(train=SHORT, prune=global_rate(0.4), levels=1)
    dense = Train(training=SHORT, label="dense")
    search = SearchFilters(
        layer="",
        search=TryAndLearn(bound=90.0, updates=2),
        recover=SHORT,
        statistics=1,
        examples=10,
    )
    agent = filter_agent(SHORT, search, SHORT, layers=("0.weight",))
    past = Teacher(source=PastNetwork("dense"), encoding=TopK(1, classes=3))
    teacher = trained_teacher(linear, SHORT, members=2)
    shift = ShiftBias(classes=(2,), shifts=(0.0, 1.0))
    hinted = FeatureDistillation(layers=("2",))
    on_linear: dict[str, Recipe] = {
        "reinitialised": reinitialised_ticket(ticket, 1),
        "random": random_ticket(ticket, 1),
        "resampled": resampled_ticket(ticket, 1),
        "masked at start": masked_at_start(ticket, 1),
        "noisy": noisy_ticket(ticket, 1, 0.5),
        "line": instability(SHORT, points=3),
        "iterative": iterative(SHORT, SHORT, (0.5, 0.7)),
        "optimal brain damage": optimal_brain_damage(
            SHORT, SHORT, (0.3, 0.6), loss=cross_entropy, examples=30
        ),
        "descend": (dense, Descend(loss=cross_entropy, iterations=3)),
        "predict": (dense, Predict(criterion=obd, loss=cross_entropy, sparsities=(0.5,))),
        "scan": (dense, Scan(sparsities=(0.5,))),
        "dead": one_shot(SHORT, SHORT, 0.6),
        "student": student(SHORT, teacher, Distillation(temperature=2.0), shift=shift),
        "teacher": (MeasureTeacher(teacher=teacher),),
        "top-k": with_teacher((dense, replace(dense, label="again")), past, Distillation()),
        "hinted": with_teacher(
            (dense, replace(dense, label="again")), Teacher(source=PastNetwork("dense")), hinted
        ),
        "specialists": specialists(generalist(SHORT), SHORT, groups=((0, 1), (1, 2))),
        "groups": (*generalist(SHORT), GroupClasses(clusters=2)),
    }
    on_images: dict[str, Recipe] = {
        "slimming": slimming(SHORT, SHORT, 0.5),
        "agent": agent,
        "ranked": ranked(agent),
        "by sensitivity": by_sensitivity(agent, SHORT),
    }
    return {
        **{name: (linear, recipe) for name, recipe in on_linear.items()},
        **{name: (convolutional, recipe) for name, recipe in on_images.items()},
    }


STORES: dict[Device, tempfile.TemporaryDirectory[str]] = {}  # recipes that begin alike share it


def recipe(device: Device, net: Callable[[], nn.Module], phases: Recipe) -> Numbers:
    folder = STORES.setdefault(device, tempfile.TemporaryDirectory())
    state = run_recipe(
        Genesis(model=net, data=toy), phases, Store(folder.name), RunSettings(device=device)
    )
    made = [json.loads(each.read_text()) for each in Path(folder.name).glob("phases/*/phase.json")]
    devices = {phase["provenance"].get("device", "cpu") for phase in made}
    assert devices == {str(device)}, devices
    masks = {f"mask {name}": mask for name, mask in state.masks.items()}
    return {**state.weights, **masks, "facts": repr(state.facts)}


def experiment(device: Device) -> Numbers:
    study = boxwood.Experiment(
        model=linear, data=toy, branches={"pruned": one_shot(SHORT, SHORT, 0.5)}
    )
    with tempfile.TemporaryDirectory() as folder:
        found = boxwood.run(study, store=folder, device=device)
    return {each.name: repr(each.test) for each in found}


SCENARIOS: dict[str, Callable[[Device], Numbers]] = {
    "experiment": experiment,
    **{
        f"phases: {name}": partial(recipe, net=net, phases=phases)
        for name, (net, phases) in recipes().items()
    },
}
