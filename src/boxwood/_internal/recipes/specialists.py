"""A generalist, and specialists for the classes that it confuses: Hinton, Vinyals and Dean (2015).

Each specialist is a run of its own that begins with the generalist's, so processes that share a
store train different specialists at the same time, and the generalist once.
"""

from boxwood._internal.distill.specialists import ClassGroups
from boxwood._internal.recipes.phase import Recipe
from boxwood._internal.recipes.phases.consult import Consult
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.specialise import GroupClasses, Specialise
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.settings import Training
from boxwood.errors import InvalidInput


def generalist(train: Training) -> Recipe:
    """Train the network that knows all classes.

    Example:
        >>> from boxwood.optim import SGD
        >>> [type(p).__name__ for p in generalist(Training(epochs=1, batch=60, optimizer=SGD(lr=0.1)))]
        ['Train', 'Measure']
    """
    return (Train(training=train, label="generalist"), Measure(by_class=True, label="generalist"))


def specialists(before: Recipe, special: Training, *, groups: ClassGroups | int) -> Recipe:
    """Add specialists to a generalist, and ask them together.

    Args:
        before: the generalist: `generalist`, or any other recipe, also of a pruned network.
        special: how each specialist is trained, from the generalist's weights.
        groups: classes of each specialist, or the number of clusters of confused classes to look
            for.

    Raises:
        InvalidInput: there are no groups.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> recipe = specialists(generalist(training), training, groups=((0, 2, 4, 6), (5, 7, 9)))
        >>> [type(phase).__name__ for phase in recipe]
        ['Train', 'Measure', 'GroupClasses', 'Consult']
        >>> [type(phase).__name__ for phase in recipe[-1].members[1]]
        ['Train', 'Measure', 'GroupClasses', 'Specialise']

    Source: Hinton, Vinyals and Dean (2015), section 5.
    """
    count = groups if isinstance(groups, int) else len(groups)
    if count < 1:
        raise InvalidInput(
            f"Expected at least one group of classes, got {groups}; give at least one."
        )
    grouping = (
        GroupClasses(clusters=groups) if isinstance(groups, int) else GroupClasses(given=groups)
    )
    start = (*before, grouping)
    members = tuple((*start, Specialise(index=index, training=special)) for index in range(count))
    return (*start, Consult(members=members, label="together"))
