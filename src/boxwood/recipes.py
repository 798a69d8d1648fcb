"""Recipes: functions that return a tuple of phases, for the methods of six papers and their controls."""

from boxwood._internal.core.call import Call
from boxwood._internal.recipes.at_initialisation import (
    prune_at_initialisation,
    reinitialised_weights,
    shuffled_masks,
)
from boxwood._internal.recipes.filter_agent import by_sensitivity, filter_agent, ranked
from boxwood._internal.recipes.gradual import (
    Size,
    at_the_end,
    dense_training,
    gradual_pruning,
    sparse_training,
)
from boxwood._internal.recipes.lottery_ticket import (
    continued_training,
    global_rate,
    instability,
    layerwise_rates,
    lottery_ticket,
    masked_at_start,
    noisy_ticket,
    one_shot_ticket,
    random_ticket,
    reinitialised_ticket,
    resampled_ticket,
    ticket_instability,
)
from boxwood._internal.recipes.optimal_brain_damage import optimal_brain_damage
from boxwood._internal.recipes.phase import Genesis, Phase, Recipe, State, World
from boxwood._internal.recipes.specialists import generalist, specialists
from boxwood._internal.recipes.structural import slimming, structural
from boxwood._internal.recipes.teacher_student import student, trained_teacher
from boxwood._internal.recipes.three_step import (
    alternating,
    dense,
    iterative,
    one_shot,
    reinitialised,
)

__all__ = [
    "Call",
    "Genesis",
    "Phase",
    "Recipe",
    "Size",
    "State",
    "World",
    "alternating",
    "at_the_end",
    "by_sensitivity",
    "continued_training",
    "dense",
    "dense_training",
    "filter_agent",
    "generalist",
    "global_rate",
    "gradual_pruning",
    "instability",
    "iterative",
    "layerwise_rates",
    "lottery_ticket",
    "masked_at_start",
    "noisy_ticket",
    "one_shot",
    "one_shot_ticket",
    "optimal_brain_damage",
    "prune_at_initialisation",
    "random_ticket",
    "ranked",
    "reinitialised",
    "reinitialised_ticket",
    "reinitialised_weights",
    "resampled_ticket",
    "shuffled_masks",
    "slimming",
    "sparse_training",
    "specialists",
    "structural",
    "student",
    "ticket_instability",
    "trained_teacher",
]
