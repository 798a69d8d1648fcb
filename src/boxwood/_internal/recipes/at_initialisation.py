"""Pruning at initialisation: prune the untrained network, then train what is left.

The dense network is trained for as long (`boxwood.recipes.dense`), so all networks of a study have one
budget. What the criteria have in common is compared by Frankle, Dziugaite, Roy and Carbin (2021).
"""

from boxwood._internal.core.allocation import Allocation, global_
from boxwood._internal.core.call import Call
from boxwood._internal.core.criteria.gradients import snip
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.shuffles import within_layers
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import Phase, Recipe
from boxwood._internal.recipes.phases.controls import ShuffleMasks
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.rewind import Reinitialise
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.losses import Loss, cross_entropy
from boxwood._internal.train.settings import Training
from boxwood.errors import InvalidInput

_MEASURE = Measure()
_ROUNDS = 100
_TEMPERATURE = 200.0
_AT_HAND = {"weight", "mask", "name"}
"""What a criterion may ask for without seeing any example."""


def prune_at_initialisation(
    train: Training,
    sparsity: float,
    *,
    criterion: Criterion = snip,
    rounds: int | None = None,
    allocation: Allocation = global_,
    granularity: Granularity = Elements(),
    layers: Layers = linear_and_conv,
    loss: Loss | None = None,
    evidence: int = 128,
    sample: int = 0,
    measure: Phase = _MEASURE,
) -> Recipe:
    """Prune the untrained network, train it, and measure.

    Each seed has its own initial weights, its own training examples as evidence, and its own random
    numbers where the criterion is `random`.

    Args:
        train: the training of the sparse network, as long as that of the dense one.
        sparsity: fraction of zeros over the tensors of ``layers``, in [0, 1).
        criterion: `snip`, `grasp`, `synflow`, `magnitude`, `random`, or another of
            `boxwood.criteria` or your own.
        rounds: how often to score and prune; None is 100 for `synflow` and 1 for all others.
        allocation: as for `boxwood.find_masks`.
        granularity: as for `boxwood.find_masks`.
        layers: as for `boxwood.find_masks`.
        loss: for criteria that need gradients; None uses that of ``train``, and for `grasp` divides
            the outputs by 200.
        evidence: the number of training examples that such criteria see, drawn at random.
        sample: which of the seed's random samples of examples.
        measure: the phase after the training.

    Raises:
        InvalidInput: there is less than one round, or `grasp` needs a loss of its own.

    Example:
        >>> from boxwood.criteria import synflow
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=10, batch=60, optimizer=SGD(lr=0.1))
        >>> recipe = prune_at_initialisation(training, 0.9, criterion=synflow)
        >>> [type(phase).__name__ for phase in recipe], recipe[0].rounds
        (['Prune', 'Train', 'Measure'], 100)

    Source: Lee, Ajanthan and Torr (2019), algorithm 1; Wang, Zhang and Grosse (2020),
    algorithm 1; Tanaka, Kunin, Yamins and Ganguli (2020), algorithm 1.
    """
    needs = set(evidence_of(criterion)) - _AT_HAND
    flow = needs == {"flow_gradient"}
    if rounds is None:
        rounds = _ROUNDS if flow else 1
    prune = Prune(
        sparsity=sparsity, criterion=criterion, allocation=allocation, granularity=granularity,
        layers=layers, rounds=rounds,
        # Of the flow through a network only the shape of an example matters.
        loss=_loss(train, loss, needs) if needs and not flow else None,
        evidence=(1 if flow else evidence) if needs else None,
        sample=sample if needs and not flow else None,
    )  # fmt: skip
    return (prune, Train(training=train), measure)


def shuffled_masks(recipe: Recipe, *, index: int = 1) -> Recipe:
    """Train the same number of weights of each layer at random positions: the control of the choice.

    If it does as well as the recipe, only the criterion's count in each layer matters, not its
    choice of weights.

    Args:
        recipe: of `prune_at_initialisation`.
        index: which of the seed's random masks.

    Raises:
        InvalidInput: the recipe does not begin with pruning.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=10, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(phase).__name__ for phase in shuffled_masks(prune_at_initialisation(training, 0.9))]
        ['Prune', 'ShuffleMasks', 'Train', 'Measure']

    Source: Frankle, Dziugaite, Roy and Carbin (2021), the ablation that shuffles randomly.
    """
    return _then(recipe, ShuffleMasks(how=within_layers, index=index))


def reinitialised_weights(recipe: Recipe, *, index: int = 1) -> Recipe:
    """Train the same masks from fresh initial weights: the control of the values.

    Args:
        recipe: of `prune_at_initialisation`.
        index: which of the seed's initialisations; 0 is that which was pruned.

    Raises:
        InvalidInput: the recipe does not begin with pruning.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=10, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(phase).__name__ for phase in reinitialised_weights(prune_at_initialisation(training, 0.9))]
        ['Prune', 'Reinitialise', 'Train', 'Measure']

    Source: Frankle, Dziugaite, Roy and Carbin (2021), the ablation that reinitialises.
    """
    return _then(recipe, Reinitialise(index=index))


def _then(recipe: Recipe, control: Phase) -> Recipe:
    if not recipe or not isinstance(recipe[0], Prune):
        raise InvalidInput(
            f"Expected a recipe that begins with pruning, got one that begins with "
            f"{type(recipe[0]).__name__ if recipe else 'nothing'}; give what "
            f"prune_at_initialisation returns."
        )
    return (recipe[0], control, *recipe[1:])


def _loss(train: Training, given: Loss | None, needs: set[str]) -> Loss:
    if given is not None:
        return given
    if "hessian_gradient" not in needs:
        return train.loss
    call = train.loss if isinstance(train.loss, Call) else Call(train.loss)
    if call.function != cross_entropy:
        raise InvalidInput(
            "Expected a loss for GraSP whose outputs are divided by 200, got none for a training "
            "that does not take cross_entropy; give one with loss=, or loss=train.loss to divide by "
            "nothing."
        )
    settings = dict(call.settings)
    temperature = _TEMPERATURE * settings.get("temperature", 1.0)
    return Call.of(cross_entropy, **{**settings, "temperature": temperature})
