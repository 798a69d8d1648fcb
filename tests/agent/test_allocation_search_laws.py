"""AMC: the budget holds in every episode, the agent learns as DDPG does, and it finds what pays."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boxwood import find_masks
from boxwood._internal.agent.allocation_search import _Learner, _Tour
from boxwood._internal.core.masks import Masks
from boxwood.allocation import DDPG, amc
from boxwood.errors import InvalidInput


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 20), nn.Linear(20, 5))


@given(
    st.lists(st.floats(1, 100), min_size=1, max_size=6),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.floats(0, 1),
    st.floats(0.1, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_every_episode_saves_enough(
    costs: list[float], wanted: list[float], part: float, most: float
) -> None:
    """Whatever the actor wants, actions are in range and the sum of savings reaches the target."""
    weights = {f"{i}": torch.zeros(4, 3 + i) for i in range(len(costs))}
    prices = dict(zip(weights, costs, strict=True))
    target = part * most
    answers = iter(wanted)
    states, actions = _Tour.of(weights, prices, target, most).walk(lambda _: next(answers))
    assert all(0 <= a <= most for a in actions)
    saved = sum(a * c for a, c in zip(actions, costs, strict=True))
    assert saved >= target * sum(costs) * (1 - 1e-9)
    assert len(states) == len(actions) + 1
    assert float(states.min()) >= 0
    assert float(states.max()) <= 1 + 1e-6


def test_an_update_is_that_of_ddpg() -> None:
    """Critic towards the baseline-free reward plus the target's value, actor up the critic."""
    agent = DDPG(hidden=8, batch=4, actor_rate=0.01, critic_rate=0.02, follow=0.1)
    torch.manual_seed(0)
    learner = _Learner(3, agent, torch.Generator().manual_seed(5))
    states = torch.rand(3, 3)
    learner.remember(states, [0.3, 0.6], reward=2.0)
    actor, critic = copy.deepcopy(learner._actor), copy.deepcopy(learner._critic)
    slow_actor, slow_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    learner.learn_(0.5)

    chosen = torch.randint(2, (4,), generator=torch.Generator().manual_seed(5)).tolist()
    rows, after = states[chosen], states[[i + 1 for i in chosen]]
    taken = torch.tensor([[0.3, 0.6][i] for i in chosen]).view(4, 1)
    go_on = torch.tensor([1.0 - i for i in chosen]).view(4, 1)  # the second is the last
    following = slow_critic(torch.cat((after, slow_actor(after).sigmoid()), 1)).detach()
    wanted = 2.0 - 0.5 + go_on * following
    by_critic = torch.optim.Adam(critic.parameters(), lr=0.02)
    (critic(torch.cat((rows, taken), 1)) - wanted).pow(2).mean().backward()
    by_critic.step()
    by_actor = torch.optim.Adam(actor.parameters(), lr=0.01)
    (-critic(torch.cat((rows, actor(rows).sigmoid()), 1)).mean()).backward()
    by_actor.step()
    pairs = [(learner._critic, critic), (learner._actor, actor)]
    for target, before, net in ((learner._critic_target, slow_critic, critic), (learner._actor_target, slow_actor, actor)):  # fmt: skip
        for mine, old, new in zip(target.parameters(), before.parameters(), net.parameters(), strict=True):  # fmt: skip
            torch.testing.assert_close(mine, 0.9 * old + 0.1 * new)
    for mine, other in pairs:
        for one, two in zip(mine.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two)


def reward(masks: Masks) -> float:
    """The last layer is worth most for each of its weights, the middle one least."""
    worth: dict[str, float] = {"0.weight": 1.0, "1.weight": 0.2, "2.weight": 3.0}
    return sum(worth[name] * float(mask.float().mean()) for name, mask in masks.items())


def test_the_agent_finds_what_pays_and_repeats_itself() -> None:
    """The cheap layer is pruned; the best of all episodes is returned; a seed is a result."""
    net = network()
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    quick = DDPG(hidden=32, actor_rate=1e-3, critic_rate=1e-2, follow=0.05)
    found = amc(net, 0.5, reward, episodes=120, warm_up=40, agent=quick)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())
    assert found.reward == max(found.rewards)
    assert len(found.rewards) == 120
    masks = find_masks(net, None, allocation=found.allocation)
    assert reward(masks) == pytest.approx(found.reward)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) <= 0.5 * total + 3
    assert masks["1.weight"].float().mean() < masks["2.weight"].float().mean()
    later = sum(found.rewards[-20:]) / 20
    assert later > sum(found.rewards[:20]) / 20 + 1
    again = amc(net, 0.5, reward, episodes=20, warm_up=20, agent=quick)
    assert again.rewards == found.rewards[:20]
    other = amc(net, 0.5, reward, episodes=20, warm_up=20, agent=quick, seed=1)
    assert other.rewards != again.rewards


def test_costs_other_than_weights() -> None:
    """Where one layer costs nearly all, it has to go."""
    costs = {"0.weight": 98.0, "1.weight": 1.0, "2.weight": 1.0}
    found = amc(network(), 0.8, reward, episodes=5, warm_up=5, costs=costs)
    assert dict(found.allocation.sparsities)["0.weight"] > 0.79


def test_bad_settings_are_refused() -> None:
    """Ranges, and costs that lack a layer."""
    net = network()
    with pytest.raises(InvalidInput, match=r"Expected sparsity in \[0, 0.95\]"):
        amc(net, 0.99, reward)
    with pytest.raises(InvalidInput, match=r"Expected costs of every tensor .* none of '1.weight'"):
        amc(net, 0.5, reward, costs={"0.weight": 1.0})
