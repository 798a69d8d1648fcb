"""Recipes with a teacher: a student that is distilled, and any recipe whose trainings are taught."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from boxwood._internal.data.splits import Splits
from boxwood._internal.distill.ensembles import EnsembleMean, geometric_mean
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.recipes.phase import Phase, Recipe
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.shift_bias import ShiftBias
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.teachers import Teacher, TrainedNetworks
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.settings import Training
from boxwood.errors import InvalidInput


def trained(train: Training) -> Recipe:
    """Train, with labels alone or as ``train`` says, and measure: a teacher, or a control.

    Example:
        >>> from boxwood.optim import SGD
        >>> [type(p).__name__ for p in trained(Training(epochs=1, batch=60, optimizer=SGD(lr=0.1)))]
        ['Train', 'Measure']
    """
    return (Train(training=train, label="trained"), Measure())


def trained_teacher(
    model: Callable[[], nn.Module],
    train: Training,
    *,
    data: Callable[[], Splits] | None = None,
    members: int = 1,
    mean: EnsembleMean = geometric_mean,
) -> Teacher:
    """Describe a teacher, or an ensemble of them, that other runs train.

    Args:
        model: returns a new network.
        train: how it is trained.
        data: its training data; by default the student's.
        members: the number of networks, at least 1, each with its own seed.
        mean: `arithmetic_mean` or `geometric_mean`.

    Example:
        >>> from boxwood.optim import SGD
        >>> from boxwood.networks import wide_net
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> trained_teacher(wide_net, training, members=10).source.members
        10

    Source: Hinton, Vinyals and Dean (2015), sections 3 and 4.
    """
    return Teacher(
        source=TrainedNetworks(
            model=model, recipe=trained(train), data=data, members=members, mean=mean
        )
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
        loss: the loss, with temperature and the weights of teacher and labels.
        shift: corrects the biases of classes that the transfer set lacks.

    Example:
        >>> from boxwood.distill import PastNetwork
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> past = Teacher(source=PastNetwork("genesis"))
        >>> recipe = student(training, past, Distillation(temperature=20.0))
        >>> [type(phase).__name__ for phase in recipe]
        ['Train', 'Measure']

    Source: Hinton, Vinyals and Dean (2015), sections 2 and 3.
    """
    return with_teacher(shifted(train, shift), teacher, loss, after=None)


def shifted(train: Training, shift: ShiftBias | None) -> Recipe:
    """Train, measure, and correct biases if asked to: for students and their controls alike.

    Example:
        >>> from boxwood.optim import SGD
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


def with_teacher(
    recipe: Recipe, teacher: Teacher, loss: Loss, *, after: str | None = "dense"
) -> Recipe:
    """Give the trainings of a recipe a teacher, so that it prunes and distils at once.

    Args:
        recipe: any recipe; every `Train` after ``after`` gets the teacher and the loss.
        teacher: whose logits are learned.
        loss: such as `Distillation` or `FeatureDistillation`.
        after: label of the phase after which trainings get the teacher, usually the dense training
            whose network is the teacher; None for all trainings.

    Returns:
        The recipe, with the other phases unchanged.

    Raises:
        InvalidInput: no phase has that label, or no training follows it.

    Example:
        >>> from boxwood.distill import PastNetwork
        >>> from boxwood.recipes import one_shot
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> plain, past = one_shot(training, training, 0.9, dead=False), PastNetwork("dense")
        >>> recipe = with_teacher(plain, Teacher(source=past), Distillation())
        >>> [phase.teacher is not None for phase in recipe if isinstance(phase, Train)]
        [False, True]

    Source: Hinton, Vinyals and Dean (2015), sections 2 and 3.
    """
    labels = [phase.label for phase in recipe]
    if after is not None and after not in labels:
        raise InvalidInput(
            f"Expected a phase labelled {after!r}, got the labels {[n for n in labels if n]}; "
            f"give one of these as after=, or None to teach every training."
        )
    first = 0 if after is None else labels.index(after) + 1

    def taught_(phase: Phase) -> Phase:
        if not isinstance(phase, Train):
            return phase
        return replace(phase, teacher=teacher, training=replace(phase.training, loss=loss))

    rest = tuple(map(taught_, recipe[first:]))
    if rest == recipe[first:]:
        raise InvalidInput(
            f"Expected a training after the phase labelled {after!r}, got none without a "
            f"teacher; retrain after pruning, or give the teacher to another part of the recipe."
        )
    return recipe[:first] + rest
