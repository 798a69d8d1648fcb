"""An actor and a critic that search the sparsity of every layer: AutoML for model compression."""

import glob
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from boxwood._internal.core.allocation import ByName
from boxwood._internal.core.arguments import check_network
from boxwood._internal.core.generators import own_random_numbers
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.core.seeds import generator_for, seed_for
from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood.errors import InvalidInput, NoEffect


class AllocationSearch(NamedTuple):
    """The result of a search for sparsities.

    Args:
        allocation: the best of all episodes.
        reward: its measured reward.
        rewards: of every episode, in order.
    """

    allocation: ByName
    reward: float
    rewards: list[float]


@dataclass(frozen=True, kw_only=True)
class DDPG:
    """Settings of the agent: deep deterministic policy gradients.

    Args:
        hidden: units of both hidden layers of actor and critic.
        actor_rate, critic_rate: learning rates of Adam.
        follow: fraction by which the target networks move at each update, in (0, 1].
        batch: transitions of an update.
        memory: number of stored transitions.
        noise: σ of the truncated normal noise on an action, while warming up.
        noise_decay: factor on σ at every episode after the warm-up.
        baseline: decay of the moving average of rewards, in [0, 1).

    Example:
        >>> DDPG().hidden
        300

    Source: He et al. (2018), section 3.2 and 4, and the authors' code for what it leaves open.
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    follow: float = 0.01
    batch: int = 64
    memory: int = 2000
    noise: float = 0.5
    noise_decay: float = 0.95
    baseline: float = 0.95


def amc(
    model: nn.Module,
    sparsity: float,
    measure: Callable[[Masks], float],
    *,
    episodes: int = 400,
    warm_up: int = 100,
    most: float = 0.95,
    costs: Mapping[str, float] | None = None,
    layers: Layers = linear_and_conv,
    agent: DDPG = DDPG(),
    seed: int = 0,
    **settings: Any,
) -> AllocationSearch:
    """Search the sparsity of every layer with an agent that is rewarded for accuracy.

    In an episode the agent visits the layers in order. At layer t it observes the layer's index,
    its shape and cost, the cost saved so far, the cost still to come, and its last action, each
    scaled to [0, 1]. Its action is the layer's sparsity, in [0, ``most``], raised if the remaining
    layers could otherwise not save enough. At the end the network is pruned with these sparsities
    and ``settings``. All transitions get the reward ``measure(masks)`` minus a moving average of
    rewards.

    Args:
        model: a trained network, which is not changed.
        sparsity: least fraction of all costs to save, in [0, ``most``].
        measure: function from masks to a number, higher is better, such as the validation accuracy
            of a copy under these masks; the negative error in the paper.
        episodes: at least 1; the paper takes 400.
        warm_up: episodes before the agent learns, with constant noise.
        most: the highest sparsity of a layer, in [0, 1).
        costs: cost of each tensor, such as its multiply-adds; a layer saves its sparsity times
            this. The number of weights by default.
        layers: the parameters that are pruned, in the order in which the agent sees them.
        agent: see `DDPG`.
        seed: of the agent's weights, its noise and its batches.
        settings: criterion, granularity, loss, batches, as for `boxwood.find_masks`.

    Returns:
        The best allocation, its reward, and those of all episodes.

    Raises:
        InvalidInput: a setting is out of range, or ``costs`` lacks a tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        >>> dense_second = lambda masks: float(masks["1.weight"].float().mean())
        >>> found = amc(net, 0.4, dense_second, episodes=30, warm_up=10)
        >>> masks = find_masks(net, None, allocation=found.allocation)
        >>> int(masks["0.weight"].sum()) < int(masks["1.weight"].sum())
        True

    Source: He, Lin, Liu, Wang, Li and Han (2018), section 3 and algorithm 1.
    Differs from the paper: layers are pruned by any criterion, and not repaired by least squares;
    what a layer saves does not depend on the layer before it.
    """
    check_network(model)
    check_sparsity(most, "most")
    if not 0 <= sparsity <= most or episodes < 1 or warm_up < 0:
        raise InvalidInput(
            f"Expected sparsity in [0, {most}], episodes >= 1 and warm_up >= 0, got {sparsity}, "
            f"{episodes} and {warm_up}; correct them."
        )
    weights = layers(model)
    missing = [name for name in weights if costs is not None and name not in costs]
    if missing:
        raise InvalidInput(
            f"Expected costs of every tensor of layers=, got none of {missing[0]!r}; give them all."
        )
    prices = {name: float((costs or {}).get(name, w.numel())) for name, w in weights.items()}
    tour = _Tour.of(weights, prices, sparsity, most)
    best: tuple[float, tuple[tuple[str, float], ...]] = (-math.inf, ())
    rewards: list[float] = []
    with own_random_numbers((), seed=seed_for(seed, "amc")):
        learner = _Learner(tour.features.shape[1] + 3, agent, generator_for(seed, "amc/noise"))
        average: float | None = None
        for episode in range(episodes):
            sigma = agent.noise * agent.noise_decay ** max(0, episode - warm_up)
            states, actions = tour.walk(lambda state, s=sigma: learner.act(state, s))  # type: ignore[misc]
            rows = tuple((glob.escape(n), a) for n, a in zip(weights, actions, strict=True))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoEffect)  # an episode may prune next to nothing
                masks = find_masks(model, None, allocation=ByName(rows), layers=layers, **settings)
            reward = float(measure(masks))
            rewards.append(reward)
            best = max(best, (reward, rows), key=lambda pair: pair[0])
            learner.remember(states, actions, reward)
            average = reward if average is None else agent.baseline * average + (1 - agent.baseline) * reward  # fmt: skip
            if episode >= warm_up:
                for _ in actions:
                    learner.learn_(average)
    return AllocationSearch(ByName(best[1]), best[0], rewards)


@dataclass(frozen=True)
class _Tour:
    """The layers that an agent goes through, and what it sees of them."""

    features: Tensor
    costs: list[float]
    sparsity: float
    most: float

    @classmethod
    def of(
        cls,
        weights: Mapping[str, Tensor],
        prices: Mapping[str, float],
        sparsity: float,
        most: float,
    ) -> "_Tour":
        rows = [
            (float(t), float(w.shape[0]), float(w.shape[1] if w.dim() > 1 else 1), float(w[0].numel()), prices[n])
            for t, (n, w) in enumerate(weights.items())
        ]  # fmt: skip
        raw = torch.tensor(rows)
        low, high = raw.amin(0), raw.amax(0)
        scaled = (raw - low) / torch.where(high > low, high - low, 1)
        return cls(scaled, [prices[name] for name in weights], sparsity, most)

    def walk(self, act: Callable[[Tensor], float]) -> tuple[Tensor, list[float]]:
        """Choose all actions; return what was seen before each, and after the last."""
        whole, saved, last = sum(self.costs), 0.0, 0.0
        states, actions = [], []
        for t, cost in enumerate(self.costs):
            rest = sum(self.costs[t + 1 :])
            states.append(torch.cat((self.features[t], torch.tensor([saved / whole, rest / whole, last]))))  # fmt: skip
            needed = (self.sparsity * whole - saved - self.most * rest) / cost
            last = min(max(act(states[-1]), needed, 0.0), self.most)
            saved += last * cost
            actions.append(last)
        end = torch.cat((self.features[-1], torch.tensor([saved / whole, 0.0, last])))
        return torch.stack([*states, end]), actions


class _Learner:
    """Actor and critic with their targets, and what they remember."""

    def __init__(self, inputs: int, agent: DDPG, chance: torch.Generator) -> None:
        self._agent, self._chance = agent, chance
        self._actor, self._actor_target = (_network(inputs, agent.hidden) for _ in range(2))
        self._critic, self._critic_target = (_network(inputs + 1, agent.hidden) for _ in range(2))
        self._actor_target.load_state_dict(self._actor.state_dict())
        self._critic_target.load_state_dict(self._critic.state_dict())
        self._by_actor = torch.optim.Adam(self._actor.parameters(), lr=agent.actor_rate)
        self._by_critic = torch.optim.Adam(self._critic.parameters(), lr=agent.critic_rate)
        self._memory: deque[tuple[Tensor, Tensor, float, Tensor, bool]] = deque(maxlen=agent.memory)

    def act(self, state: Tensor, sigma: float) -> float:
        """Choose an action: the actor's, with normal noise that keeps it in [0, 1]."""
        with torch.no_grad():
            mean = float(torch.sigmoid(self._actor(state)))
        while sigma > 0:
            action = mean + sigma * float(torch.randn((), generator=self._chance))
            if 0 <= action <= 1:
                return action
        return mean

    def remember(self, states: Tensor, actions: list[float], reward: float) -> None:
        """Add the transitions of an episode."""
        for t, action in enumerate(actions):
            last = t + 1 == len(actions)
            self._memory.append((states[t], torch.tensor([action]), reward, states[t + 1], last))

    def learn_(self, baseline: float) -> None:
        """Update critic and actor by one batch, and let the targets follow."""
        chosen = torch.randint(
            len(self._memory), (self._agent.batch,), generator=self._chance
        ).tolist()
        parts = zip(*(self._memory[i] for i in chosen), strict=True)
        state, action, reward, after, last = parts
        s, a, s2 = (torch.stack(list(each)) for each in (state, action, after))
        r = torch.tensor(reward).unsqueeze(1) - baseline
        more = ~torch.tensor(last).unsqueeze(1)
        with torch.no_grad():
            a2 = torch.sigmoid(self._actor_target(s2))
            wanted = r + more * self._critic_target(torch.cat((s2, a2), 1))
        error = (self._critic(torch.cat((s, a), 1)) - wanted).square().mean()
        _step(self._by_critic, error)
        value = self._critic(torch.cat((s, torch.sigmoid(self._actor(s))), 1)).mean()
        _step(self._by_actor, -value)
        with torch.no_grad():
            for target, net in (
                (self._actor_target, self._actor),
                (self._critic_target, self._critic),
            ):
                for slow, quick in zip(target.parameters(), net.parameters(), strict=True):
                    slow.lerp_(quick, self._agent.follow)


def _network(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    )  # fmt: skip


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
