"""The training loop of recipes, which can also be called alone."""

from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.loop import MakeTargets, TrainingResult, train_
from boxwood._internal.train.losses import cross_entropy, squared_error
from boxwood._internal.train.metrics import (
    Accuracy,
    Evaluation,
    accuracy,
    accuracy_by_class,
    evaluate,
    mean_iou,
    top_accuracy,
)
from boxwood._internal.train.settings import Augmentation, PolicyPruning, Regularisation, Training

__all__ = [
    "Accuracy",
    "Augmentation",
    "Callbacks",
    "Evaluation",
    "MakeTargets",
    "PolicyPruning",
    "Regularisation",
    "Training",
    "TrainingResult",
    "accuracy",
    "accuracy_by_class",
    "cross_entropy",
    "evaluate",
    "mean_iou",
    "squared_error",
    "top_accuracy",
    "train_",
]
