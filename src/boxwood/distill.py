"""Distillation: losses, teachers and ensembles."""

from boxwood._internal.distill.encodings import Float16, Float32, LogitEncoding, TopK
from boxwood._internal.distill.ensembles import arithmetic_mean, geometric_mean
from boxwood._internal.distill.feature_distillation import FeatureDistillation
from boxwood._internal.distill.losses import (
    Distillation,
    TeacherTargets,
    feature_matching,
    logit_matching,
    soft_cross_entropy,
)
from boxwood._internal.recipes.teacher_student import with_teacher
from boxwood._internal.recipes.teachers import PastNetwork, Teacher, TeacherSource, TrainedNetworks

__all__ = [
    "Distillation",
    "FeatureDistillation",
    "Float16",
    "Float32",
    "LogitEncoding",
    "PastNetwork",
    "Teacher",
    "TeacherSource",
    "TeacherTargets",
    "TopK",
    "TrainedNetworks",
    "arithmetic_mean",
    "feature_matching",
    "geometric_mean",
    "logit_matching",
    "soft_cross_entropy",
    "with_teacher",
]
