"""Measure how good the network is and how large."""

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from boxwood._internal.core import spec
from boxwood._internal.files.sizes import network_bytes
from boxwood._internal.model.counting import count_layers
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.train.answers import examine
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.metrics import accuracy_by_class, mean_iou, top_accuracy

_FEW_CLASSES = 10
"""Of this number of classes, or fewer, the five most probable say little."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure accuracy on validation and test examples, and count the remaining weights.

    The test examples decide nothing, and are used only here. With more than ten classes, top-5
    accuracy is measured as well as top-1. The answer to each example is stored too, so that
    networks can be compared over seeds and examples.

    Args:
        by_class: also record the accuracy within each class.
        overlap: also record the mean intersection over union, for segmentation.
        loss: also record its mean over each part, such as `cross_entropy`, whose exponential is the
            perplexity of a language model.
        label: a name for later phases and in reports.
    """

    revision: ClassVar[int] = 0

    by_class: bool = spec.field(False, legacy=False)
    overlap: bool = spec.field(False, legacy=False)
    loss: Loss | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Measure; the state passes through unchanged except for its facts."""
        model = world.network(state)
        test, test_answers = examine(model, world.data.test, self.loss)
        validation, validation_answers = examine(model, world.data.validation, self.loss)
        example, _ = world.data.validation.take(torch.arange(min(200, len(world.data.validation))))
        layers = count_layers(model, example.to(world.device), state.masks)
        dense_bytes, encoded_bytes = network_bytes(state.weights, state.masks)
        parameters = sum(p.numel() for p in model.parameters())
        pruned = sum(int((~mask).sum()) for mask in state.masks.values())
        facts = {
            "test": asdict(test),
            "validation": asdict(validation),
            "test_answers": test_answers.facts(),
            "validation_answers": validation_answers.facts(),
            "parameters": parameters,
            "nonzero": parameters - pruned,
            "weights": sum(layer.weights for layer in layers),
            "kept": sum(layer.kept for layer in layers),
            "multiply_adds": sum(layer.effective_multiply_adds for layer in layers),
            "dense_multiply_adds": sum(layer.multiply_adds for layer in layers),
            "bytes": encoded_bytes,
            "dense_bytes": dense_bytes,
            "layers": [asdict(layer) for layer in layers],
        }
        if world.data.classes > _FEW_CLASSES:
            for part in ("test", "validation"):
                facts[f"{part}_top5"] = asdict(top_accuracy(model, getattr(world.data, part), 5))
        if self.by_class:
            classes = world.data.classes
            for part in ("test", "validation"):
                found = accuracy_by_class(model, getattr(world.data, part), classes)
                facts[f"{part}_by_class"] = [asdict(each) for each in found]
        if self.overlap:
            for part, end in (("test", ""), ("validation", "_validation")):
                examples = getattr(world.data, part)
                facts[f"mean_iou{end}"] = mean_iou(model, examples, world.data.classes)
        return State(state.weights, state.masks, facts)
