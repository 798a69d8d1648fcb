"""Find the classes that a generalist confuses, and train specialists for them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from boxwood._internal.core import spec
from boxwood._internal.distill.ensembles import forward_of
from boxwood._internal.distill.specialists import (
    BalancedExamples,
    ClassGroups,
    confusable_classes,
    replace_output_layer_,
    specialist_weights,
)
from boxwood._internal.model.output import output_layer
from boxwood._internal.recipes.phase import State, World, load_weights_, state_of
from boxwood._internal.recipes.teachers import check_loss
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.loop import train_
from boxwood._internal.train.settings import Training
from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class GroupClasses:
    """Choose the classes of each specialist: clusters of confused classes, or given groups.

    Args:
        clusters: how many to look for in the covariance of the generalist's predictions on
            validation examples; clusters of one class are dropped.
        given: the groups themselves, instead of ``clusters``.
        label: by which `Specialise` and `Consult` find the groups.

    Raises:
        InvalidInput: not exactly one of the two is given.

    Example:
        >>> GroupClasses(given=((0, 2, 4, 6), (5, 7, 9))).label
        'groups'

    Source: Hinton, Vinyals and Dean (2015), section 5.3.
    """

    revision: ClassVar[int] = 0

    clusters: int | None = None
    given: ClassGroups | None = None
    label: str = spec.field("groups", identity=False)

    def __post_init__(self) -> None:
        if (self.clusters is None) == (self.given is None):
            raise InvalidInput(
                f"Expected either clusters or given groups, got clusters={self.clusters}, "
                f"given={self.given}; leave one of them out."
            )

    def run(self, state: State, world: World) -> State:
        """GroupClasses; the state passes through, and the facts hold the groups."""
        groups = self.given
        if groups is None:
            assert self.clusters is not None  # noqa: S101 - see above
            inputs, _ = world.data.validation.take(torch.arange(len(world.data.validation)))
            forward = forward_of(world.network(state))
            probabilities = torch.cat([forward(part).softmax(1) for part in inputs.split(1000)])
            groups = confusable_classes(probabilities, self.clusters, seed=world.seed)
        return State(state.weights, state.masks, {"groups": [list(group) for group in groups]})


@dataclass(frozen=True, kw_only=True)
class Specialise:
    """Turn the generalist into a specialist for one group, by training on half its own examples.

    The specialist has the generalist's weights but another output layer, see `specialist_weights`.
    After training, its dustbin is corrected for the oversampling. Masks are kept; that of the
    output layer is reduced like its weights, with a dense dustbin. If there is no such group, the
    state does not change.

    Args:
        index: of the group, at least 0.
        training: how it is trained; it learns from labels, not from a teacher.
        groups: label of the phase that grouped.
        label: a name for later phases.

    Raises:
        InvalidInput: the training's loss learns from a teacher.

    Source: Hinton, Vinyals and Dean (2015), section 5.2.
    """

    revision: ClassVar[int] = 0

    index: int
    training: Training
    groups: str = "groups"
    label: str = spec.field("", identity=False)

    def __post_init__(self) -> None:
        check_loss(None, self.training.loss)

    def run(self, state: State, world: World) -> State:
        """Train; the facts hold the classes and the history."""
        groups = world.earlier(self.groups).facts["groups"]
        if self.index >= len(groups):
            return State(state.weights, state.masks, {"classes": []})
        classes = tuple(groups[self.index])
        model, layer = specialist_network(world, classes)
        load_weights_(model, specialist_weights(state.weights, layer, classes))
        masks = dict(state.masks)
        if f"{layer}.weight" in masks:
            kept = masks[f"{layer}.weight"]
            masks[f"{layer}.weight"] = torch.cat([kept[list(classes)], torch.ones_like(kept[:1])])
        half = BalancedExamples.of(world.data.train, classes)
        done = train_(
            model,
            half,
            self.training,
            seed=world.seed,
            masks=masks,
            callbacks=Callbacks(checkpoints=world.checkpoints, progress=world.progress),
        )
        epochs = self.training.window(len(half)).epochs * len(half) / len(world.data.train)
        after = state_of(model, done.masks, {})
        bias = after.weights[f"{layer}.bias"].clone()
        bias[-1] += half.dustbin_shift
        facts = {"classes": list(classes), "history": done.history, "epochs": epochs}
        return State({**after.weights, f"{layer}.bias": bias}, done.masks, facts)


def specialist_network(world: World, classes: tuple[int, ...]) -> tuple[nn.Module, str]:
    """Build a network with an output per class and the dustbin, and name its output layer."""
    model = world.genesis.build()
    layer = output_layer(model, world.data.classes)
    replace_output_layer_(model, layer, len(classes) + 1)
    return model.to(world.device), layer
