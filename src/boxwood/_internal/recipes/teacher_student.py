"""A student learns what its teachers know: Hinton, Vinyals and Dean (2015)."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from boxwood._internal.data.splits import Splits
from boxwood._internal.distill.ensembles import Mean, geometric
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.recipes.phase import Recipe
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.shift_bias import ShiftBias
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.teachers import Teacher, Trained
from boxwood._internal.train.settings import Training


def trained(train: Training) -> Recipe:
    """Train, with labels alone or as ``train`` says, and measure: a teacher, or a control.

    Example:
        >>> from boxwood._internal.train.optimizers import SGD
        >>> [type(p).__name__ for p in trained(Training(epochs=1, batch=60, optimizer=SGD(lr=0.1)))]
        ['Train', 'Measure']
    """
    return (Train(training=train, label="trained"), Measure())


def teacher(
    model: Callable[[], nn.Module],
    train: Training,
    *,
    data: Callable[[], Splits] | None = None,
    members: int = 1,
    mean: Mean = geometric,
) -> Teacher:
    """Describe a teacher, or an ensemble of them, that a run of its own trains.

    Args:
        model: returns a new network.
        train: how it is trained.
        data: what it learns from; by default what the student does.
        members: how many networks, each with a seed of its own.
        mean: `arithmetic` or `geometric`.

    Example:
        >>> from boxwood._internal.train.optimizers import SGD
        >>> from boxwood._internal.zoo.wide_nets import wide_net
        >>> teacher(wide_net, Training(epochs=1, batch=60, optimizer=SGD(lr=0.1)), members=10).who.members
        10

    Source: Hinton, Vinyals and Dean (2015), sections 3 and 4.
    """
    return Teacher(
        who=Trained(model=model, recipe=trained(train), data=data, members=members, mean=mean)
    )


def student(
    train: Training,
    teacher: Teacher,
    loss: Distillation,
    *,
    shift: ShiftBias | None = None,
) -> Recipe:
    """Distil into the network of the run, and measure; with ``shift`` also before the shift.

    Args:
        train: how the student is trained.
        teacher: who teaches.
        loss: temperature, and the weights of teacher and labels.
        shift: corrects the biases of classes that the transfer set lacks.

    Example:
        >>> from boxwood._internal.recipes.teachers import Past
        >>> from boxwood._internal.train.optimizers import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> recipe = student(training, Teacher(who=Past("genesis")), Distillation(temperature=20.0))
        >>> [type(phase).__name__ for phase in recipe]
        ['Train', 'Measure']

    Source: Hinton, Vinyals and Dean (2015), sections 2 and 3.
    """
    return shifted(replace(train, teacher=teacher, loss=loss), shift)


def shifted(train: Training, shift: ShiftBias | None) -> Recipe:
    """Train, measure, and correct biases if asked to: for students and their controls alike.

    Example:
        >>> from boxwood._internal.train.optimizers import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(p).__name__ for p in shifted(training, ShiftBias(classes=(3,), shifts=(0.0, 1.0)))]
        ['Train', 'Measure', 'ShiftBias', 'Measure']
    """
    if shift is None:
        return trained(train)
    before = Measure(by_class=True, label="before")
    return (
        Train(training=train, label="trained"),
        before,
        shift,
        Measure(by_class=True, label="after"),
    )
