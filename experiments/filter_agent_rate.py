"""Choose the learning rate of the filter agent by whole searches, simulated on measured drops.

    python experiments/filter_agent_rate.py conv2.weight

A search that tries networks takes a minute; to compare rates takes many searches. So this measures
random actions on one layer of a trained `conv_net` of a seed that no study uses, fits what an action
costs, and lets agents search the fit. It prints, for each bound and rate, the mean reward of what is
carried out, its standard error, and the number of different tries, which is what a search costs.

The fit is linear in log(drop + 2): one weight for each filter, and powers of the fraction that is
kept. What it leaves over is added as noise that belongs to the action, so that a search can also be
misled. CPU time: 2 minutes for a layer of 16 filters.
"""

import argparse
import zlib
from statistics import fmean, stdev

import numpy as np
import torch
from filter_agent import conv_net
from numpy.typing import NDArray
from torch import Tensor

from boxwood.agent import Agent, FirstExamples, Recovery, TryAndLearn, reward, tries_of
from boxwood.phases import SearchFilters
from boxwood.training import train_

SEED = 100
RATES = (3e-4, 6e-4, 1e-3, 2e-3)
BOUNDS = (4.0, 8.0)
SHIFT = 2.0  # points, so that the logarithm of a small gain is defined


class Fitted:
    """What an action costs, as far as random actions say."""

    def __init__(self, actions: Tensor, drops: list[float]) -> None:
        features, wanted = _features(actions), np.log(np.maximum(drops, 0.1 - SHIFT) + SHIFT)
        learn = np.arange(len(actions)) % 4 != 0
        left_out = wanted - features @ _ridge(features[learn], wanted[learn])
        self.share = 1 - float(left_out[~learn].var() / wanted[~learn].var())
        self.spread = float(left_out[~learn].std())
        self._weights = _ridge(features, wanted)

    def drop(self, action: Tensor) -> float:
        """Percentage points; the same action always costs the same."""
        chance = np.random.default_rng(zlib.crc32(action.numpy().tobytes()))
        said = float((_features(action[None]) @ self._weights)[0])
        return float(np.exp(said + self.spread * chance.standard_normal()) - SHIFT)


def _features(actions: Tensor) -> NDArray[np.float64]:
    kept = actions.double().numpy()
    share = kept.mean(1, keepdims=True)
    return np.hstack([np.ones_like(share), kept, share**2, share**3, 1 / (share + 0.05)])


def _ridge(features: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    square = features.T @ features + np.eye(features.shape[1])
    return np.linalg.solve(square, features.T @ wanted)


def measured(layer: str, count: int) -> tuple[Tensor, Fitted]:
    """Train the network, try random actions on one layer; what an agent looks at, and the fit."""
    experiment = conv_net()
    recipe = dict(experiment.branches)["agent b=4"]
    search = next(phase for phase in recipe if isinstance(phase, SearchFilters))
    torch.manual_seed(SEED)
    net, data = experiment.model(), experiment.data()
    train_(net, data.train, recipe[0].training, seed=SEED)
    tries = tries_of(
        net.eval(),
        data.train.take(torch.tensor([0]))[0],
        layer,
        FirstExamples(data.validation, search.examples),
        tune_=Recovery(data.train, search.recover, search.statistics, SEED),
    )
    chance = torch.Generator().manual_seed(SEED)
    keeping = 0.3 + 0.65 * torch.rand(count, 1, generator=chance)
    actions = torch.rand(count, len(tries.filters), generator=chance) < keeping
    actions[~actions.any(1), 0] = True
    return tries.picture, Fitted(actions, tries.drops(list(actions)))


def searched(
    picture: Tensor, fitted: Fitted, how: TryAndLearn, seed: int
) -> tuple[float, int, float]:
    """Search once: the reward of what is carried out, filters kept, and the different tries."""
    agent = Agent(picture, how, seed=seed)
    while not agent.finished:
        agent.step_(lambda actions: [fitted.drop(action) for action in actions])
    action = agent.action
    kept = int(action.sum())
    tried = {text for update in agent.updates for text in update.tried}
    return reward(fitted.drop(action), how.bound, len(action), kept), kept, len(tried)


def main() -> None:
    """Measure, fit, and print a row for each bound and rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layer", help="conv1.weight to conv4.weight")
    parser.add_argument("--tries", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    picture, fitted = measured(given.layer, given.tries)
    print(f"{given.layer}: the fit explains {fitted.share:.0%} of the variance of tries left out")
    for bound in BOUNDS:
        for rate in RATES:
            how = TryAndLearn(bound=bound, lr=rate)
            rewards, kept, tried = zip(
                *(searched(picture, fitted, how, seed) for seed in range(given.seeds)), strict=True
            )
            error = stdev(rewards) / len(rewards) ** 0.5
            print(
                f"b = {bound:g}, rate {rate:g}: reward {fmean(rewards):.3f} ± {error:.3f}, "
                f"{fmean(kept):.1f} filters kept, {fmean(tried):.0f} tries",
                flush=True,
            )


if __name__ == "__main__":
    main()
