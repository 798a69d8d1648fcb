"""The agent that learns which filters to remove."""

from boxwood._internal.agent.environment import tries_of
from boxwood._internal.agent.policy import FilterPolicy
from boxwood._internal.agent.reward import reward
from boxwood._internal.agent.search import Agent, TryAndLearn, best_rewarded, thresholded
from boxwood._internal.recipes.phases.search_filters import FirstExamples, Recovery

__all__ = [
    "Agent",
    "FilterPolicy",
    "FirstExamples",
    "Recovery",
    "TryAndLearn",
    "best_rewarded",
    "reward",
    "thresholded",
    "tries_of",
]
