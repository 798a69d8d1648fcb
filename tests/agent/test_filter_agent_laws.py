"""Laws of try-and-learn: the reward, the gradient, the tries, and what they are compared with."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from boxwood._internal.agent.environment import InProcesses, Tries, tries_of
from boxwood._internal.agent.policy import FilterPolicy
from boxwood._internal.agent.reinforce import draw, surrogate, whitened
from boxwood._internal.agent.reward import accuracy_term, efficiency_term, reward
from boxwood._internal.agent.search import Agent, TryAndLearn, Update, best_rewarded, thresholded
from boxwood._internal.data.digits import digits
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.oneshot import apply_masks_
from boxwood._internal.recipes.phases.prune_units import kept_under, masks_of
from boxwood._internal.recipes.phases.search_filters import FirstExamples, Recovery
from boxwood._internal.train.optimizers import SGD, Adam
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.cifar_nets import small_resnet, small_vgg
from boxwood.errors import BoxwoodError

DROPS = st.floats(-100, 100)
BOUNDS = st.floats(0.01, 100)
FILTERS = st.integers(2, 512)
IMAGE = torch.zeros(1, 1, 8, 8)


@given(DROPS, BOUNDS, FILTERS)
def test_keeping_everything_is_worth_nothing(drop, bound, filters):
    """The all-ones action has reward 0, whatever its accuracy."""
    assert reward(drop, bound, filters, filters) == 0


@given(DROPS, BOUNDS, FILTERS, st.data())
def test_efficiency_counts_for_or_against_as_the_drop_is_within_the_bound(
    drop, bound, filters, data
):
    """Removing more is worth more within the bound, less beyond it, and nothing at it."""
    kept = data.draw(st.integers(1, filters - 1))
    fewer, more = reward(drop, bound, filters, kept), reward(drop, bound, filters, kept + 1)
    margin = bound - drop
    assert (fewer > more) == (margin > 0)
    assert (fewer < more) == (margin < 0)


def test_the_accuracy_term_is_not_clipped():
    """ψ falls without limit, and passes 1 where the smaller network is better."""
    assert accuracy_term(21.0, 0.5) == -41
    assert accuracy_term(-1.0, 2.0) == 1.5
    assert efficiency_term(16, 2) == pytest.approx(np.log(8))


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_not_positive_is_refused(bound):
    """No drop can be measured in units of nothing."""
    with pytest.raises(BoxwoodError, match="Expected a drop bound above 0 percentage points"):
        TryAndLearn(bound=bound)


@pytest.mark.parametrize(
    "settings",
    [{"tries": 1}, {"updates": 0}, {"certainty": 0.4}, {"certainty": 1.1}, {"lr": 0.0}],
    ids=str,
)
def test_numbers_of_a_search_out_of_range_are_refused(settings):
    """One try cannot be compared, and no update cannot learn."""
    with pytest.raises(BoxwoodError, match="Expected tries >= 2, updates >= 1"):
        TryAndLearn(bound=1.0, **settings)


def _worth(action: torch.Tensor) -> float:
    """Reward an action on a toy of four filters, of which two matter together."""
    drop = 8.0 * (1 - float(action[0] & action[2])) + 0.5 * float(~action[1])
    return reward(drop, 2.0, 4, max(1, int(action.sum())))


def test_the_gradient_summed_over_all_actions_is_that_of_the_expected_reward():
    """Weighted by its probability, the estimate of every action adds up to the exact gradient."""
    logits = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64, requires_grad=True)
    expected, estimated = torch.zeros((), dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for bits in itertools.product((False, True), repeat=4):
        action = torch.tensor(bits)
        chance = torch.where(action, logits.sigmoid(), (-logits).sigmoid()).prod()
        expected = expected + chance * _worth(action)
        part = surrogate(logits, action[None], torch.tensor([_worth(action)], dtype=torch.float64))
        estimated -= chance.detach() * torch.autograd.grad(part, logits)[0]
    exact = torch.autograd.grad(expected, logits)[0]
    assert torch.allclose(estimated, exact, rtol=1e-12, atol=1e-14)


def test_the_estimate_from_draws_agrees_with_the_exact_gradient():
    """The mean over 20,000 tries lies within four standard errors, filter by filter."""
    # The third filter is all but certain, so that no action keeps nothing and none is mended.
    logits = torch.tensor([0.3, -0.7, 30.0, 0.2], dtype=torch.float64, requires_grad=True)
    expected = torch.zeros((), dtype=torch.float64)
    for bits in itertools.product((False, True), repeat=4):
        action = torch.tensor(bits)
        chance = torch.where(action, logits.sigmoid(), (-logits).sigmoid()).prod()
        expected = expected + chance * _worth(action)
    exact = torch.autograd.grad(expected, logits)[0]
    actions = draw(logits.detach().sigmoid(), 20_000, torch.Generator().manual_seed(0))
    rewards = torch.tensor([_worth(action) for action in actions], dtype=torch.float64)
    parts = rewards[:, None] * (actions.double() - logits.detach().sigmoid())
    mean = -torch.autograd.grad(surrogate(logits, actions, rewards), logits)[0]
    assert torch.allclose(mean, parts.mean(0), rtol=1e-9, atol=1e-12)
    error = parts.std(0) / len(parts) ** 0.5
    assert ((mean - exact).abs() <= 4 * error + 1e-9).all()


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=9), st.integers(1, 9))
def test_whitened_rewards_forget_scale_and_place(rewards, scale):
    """Mean 0, deviation 1 or all zeros, and the same after any shift and positive scale."""
    given_ = torch.tensor(rewards, dtype=torch.float64)
    white = whitened(given_)
    assert abs(float(white.mean())) < 1e-9
    assert float(white.std(correction=0)) == pytest.approx(float(len(set(rewards)) > 1))
    assert torch.allclose(whitened(scale * given_ + 7), white, atol=1e-9)


@pytest.mark.parametrize(("filters", "columns"), [(1, 1), (1, 17), (3, 9), (16, 16), (64, 576)])
def test_the_policy_takes_layers_of_every_size(filters, columns):
    """A logit for each filter, from one filter of one weight on; every parameter learns."""
    policy = FilterPolicy(filters, columns)
    logits = policy(torch.randn(filters, columns, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (filters,)
    assert sum(isinstance(m, nn.Conv2d) for m in policy.modules()) == 4 * (columns > 16)
    assert policy(torch.zeros(filters, columns)).isfinite().all()


def _search(assess, **settings) -> Agent:
    agent = Agent(torch.eye(4), TryAndLearn(bound=1.0, lr=0.01, **settings), seed=1)
    while not agent.finished:
        agent.step_(assess)
    return agent


def test_equal_actions_are_tried_once():
    """Nothing that was assessed is assessed again, in the same update or a later one."""
    asked = []

    def assess(actions):
        asked.extend(map(tuple, (action.tolist() for action in actions)))
        return [0.0] * len(actions)

    agent = _search(assess, updates=20, certainty=1.0, tries=8)
    assert len(asked) == len(set(asked)) <= 15
    assert {tuple(c == "1" for c in text) for u in agent.updates for text in u.tried} == set(asked)


def test_a_search_ends_when_the_agent_is_certain_or_the_cap_is_met():
    """It goes on while probabilities are near one half, even if the action has long been the same."""
    done = _search(lambda actions: [0.0] * len(actions), updates=200, certainty=0.95)
    certainties = [update.certainty for update in done.updates]
    assert len(certainties) < 200
    assert certainties[-1] > 0.95
    assert all(each <= 0.95 for each in certainties[:-1])
    assert certainties[-1] == pytest.approx(float(_sure(done)))
    capped = _search(lambda actions: [0.0] * len(actions), updates=5, certainty=0.95)
    assert len(capped.updates) == 5


@torch.no_grad()
def _sure(agent: Agent) -> torch.Tensor:
    q = agent.policy(agent.picture).sigmoid()
    return torch.maximum(q, 1 - q).mean()


def test_the_bound_decides_how_many_filters_stay():
    """With filters of all importances, a bound of 8 points removes more than one of 0.5."""
    kept = {0.5: 0, 8.0: 0}
    for seed in range(3):
        chance = torch.Generator().manual_seed(seed)
        importance = 4 * torch.rand(16, generator=chance).square()
        picture = torch.randn(16, 20, generator=chance) * importance[:, None]

        def assess(actions, importance=importance):
            gone = [~action for action in actions]
            return [float(importance[g].sum() * (1 + 3 * g.float().mean())) for g in gone]

        for bound in kept:
            agent = Agent(picture, TryAndLearn(bound=bound), seed=seed)
            while not agent.finished:
                agent.step_(assess)
            (drop,) = assess([agent.action])
            assert drop < bound + 0.5
            kept[bound] += int(agent.action.sum())
    assert kept[8.0] < kept[0.5] - 3


def test_keeping_everything_costs_nothing_with_any_recovery():
    """p* is measured after the same recovery as every try, down to the last example."""
    data = digits()
    recover = Recovery(data.train, Training(steps=3, batch=50, optimizer=SGD(lr=0.1)), 1, seed=0)
    torch.manual_seed(0)
    net = small_vgg(widths=(4, 4)).eval()
    tries = tries_of(net, IMAGE, "conv1.weight", FirstExamples(data.validation, 200), tune_=recover)
    assert tries.drop(torch.ones(4, dtype=torch.bool)) == 0


@pytest.mark.parametrize("make", [small_vgg, small_resnet])
def test_channels_last_and_fused_steps_change_a_try_only_by_rounding(make):
    """A try in the fast layout, with fused steps, ends in the network of the plain one."""
    data = digits()
    outputs = []
    for layout, fused in ((torch.contiguous_format, False), (torch.channels_last, True)):
        torch.manual_seed(0)
        net = make(widths=(6, 6, 8, 8)).eval().to(memory_format=layout)
        training = Training(steps=4, batch=50, optimizer=Adam(lr=5e-4, fused=fused))
        recover = Recovery(data.train, training, 1, seed=0)
        images = data.validation.take(torch.arange(50))[0]
        layer = find_units(net, IMAGE).groups[-1].name
        measured = []

        def worth(model, images=images, measured=measured):
            with torch.no_grad():
                measured.append(model.eval()(images))
            return 0.0

        tries = tries_of(net, IMAGE, layer, worth, tune_=recover)
        action = torch.arange(len(tries.filters)) % 3 > 0
        tries.drop(action)
        outputs.append(measured)
    for plain, fast in zip(*outputs, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


def test_without_a_loss_the_smallest_layer_is_best_and_with_a_great_one_the_largest():
    """An agent that never loses accuracy keeps one filter; one that always loses it keeps all."""
    free = _search(lambda actions: [0.0] * len(actions), updates=150, certainty=1.0)
    assert int(free.action.sum()) == 1
    dear = _search(
        lambda actions: [90.0 * float((~a).sum()) for a in actions], updates=150, certainty=1.0
    )
    assert dear.action.all()


def test_the_two_final_actions():
    """The threshold looks at the policy, the best reward at the tries; both keep something."""
    updates = [Update(("011", "100"), (0.0, 0.0), (0.1, 0.4), "111")]
    logits = torch.tensor([-1.0, -0.5, -2.0])
    assert thresholded(logits, updates).tolist() == [False, True, False]
    assert best_rewarded(logits, updates).tolist() == [True, False, False]
    assert best_rewarded(logits, ()).all()


def _tries(net: nn.Module, group: int) -> Tries:
    layer = find_units(net.eval(), IMAGE).groups[group].name
    return tries_of(net, IMAGE, layer, _score, tune_=_nothing)


def _nothing(model: nn.Module) -> None:
    assert not model.training


def _score(model: nn.Module) -> float:
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        return float(model.double()(x).square().mean())


@pytest.mark.parametrize("make", [small_vgg, small_resnet])
def test_a_try_computes_what_the_masked_network_computes(make):
    """For random actions of every group, residual streams included, small and masked agree."""
    torch.manual_seed(0)
    net = make(widths=(4, 4, 6, 6) if make is small_vgg else (4, 6, 8))
    chance = torch.Generator().manual_seed(0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for group in range(len(find_units(net.eval(), IMAGE).groups)):
        tries = _tries(net, group)
        actions = draw(torch.full((len(tries.filters),), 0.5), 3, chance)
        for action in actions:
            masked = make(widths=(4, 4, 6, 6) if make is small_vgg else (4, 6, 8)).eval()
            masked.load_state_dict(before)
            masks = masks_of(tries.selection(action))
            apply_masks_(masked, masks)
            assert tries.drop(action) == pytest.approx(
                100 * (tries.best - _score(masked)), abs=1e-9
            )
            assert (kept_under(tries.units, masks) == tries.selection(action).kept).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_tries_in_processes_are_the_same_tries(quick_processes):
    """Two processes give the drops that one gives, in their order."""
    torch.manual_seed(0)
    tries = _tries(small_vgg(widths=(4, 4)), 1)
    actions = list(draw(torch.full((4,), 0.5), 5, torch.Generator().manual_seed(0)))
    with InProcesses(tries, 2) as many:
        assert many.drops(actions) == tries.drops(actions)
    with pytest.raises(BoxwoodError, match="Expected at least one process, got 0"):
        InProcesses(tries, 0)


def test_masks_of_single_weights_are_not_taken_for_units():
    """A mask that takes one weight away is refused, not forgotten."""
    found = find_units(small_vgg(widths=(4, 4)), IMAGE)
    mask = torch.ones(4, 1, 3, 3, dtype=torch.bool)
    mask[0, 0, 0, 0] = False
    with pytest.raises(BoxwoodError, match="Expected masks that take whole units away"):
        kept_under(found, {"conv1.weight": mask})
