"""The training loop of recipes. You can also call it directly."""

from boxwood._internal.train.averaging import EMA, SWA, Averaging
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loading import Loading, Transform
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
from boxwood._internal.train.mixing import CutMix, Mixing, MixUp
from boxwood._internal.train.settings import Augmentation, PolicyPruning, Regularisation, Training

__all__ = [
    "EMA",
    "SWA",
    "Accuracy",
    "Augmentation",
    "Averaging",
    "Callbacks",
    "Computation",
    "CutMix",
    "Evaluation",
    "Loading",
    "MakeTargets",
    "MixUp",
    "Mixing",
    "PolicyPruning",
    "Regularisation",
    "Training",
    "TrainingResult",
    "Transform",
    "accuracy",
    "accuracy_by_class",
    "cross_entropy",
    "evaluate",
    "mean_iou",
    "squared_error",
    "top_accuracy",
    "train_",
]
