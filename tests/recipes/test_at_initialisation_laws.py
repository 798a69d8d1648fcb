"""Laws of pruning at initialisation, on a net small enough to train in a second."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as entropy

from boxwood._internal.core.call import Call
from boxwood._internal.core.schedules import OneShot
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.core.spec import decode, encode
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.at_initialisation import (
    prune_at_initialisation,
    reinitialised_weights,
    shuffled_masks,
)
from boxwood._internal.recipes.phase import Genesis, Recipe, State, World, state_of
from boxwood._internal.recipes.three_step import dense
from boxwood._internal.runs.chain import keys
from boxwood._internal.runs.runner import Job, run_all, run_recipe
from boxwood._internal.runs.store import Store
from boxwood._internal.train.losses import cross_entropy, squared_error
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import PolicyPruning, Training
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.criteria import grasp, magnitude, random, snip, synflow
from boxwood.errors import BoxwoodError
from boxwood.phases import Predict, Prune, PruneUnits, Scan, Train
from boxwood.policies import SET, Gradual, LayerByLayer, RigL, Static

TRAINING = Training(steps=20, batch=60, optimizer=SGD(lr=0.05, momentum=0.9))
NAMES = ("fc1.weight", "fc2.weight", "fc3.weight")


def genesis(seed: int = 0) -> Genesis:
    return Genesis(model=Call.of(lenet_300_100, inputs=64), data=digits, seed=seed)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def pruned(store: Store, seed: int = 0, **settings: object) -> State:
    """The state after the first phase."""
    return run_recipe(genesis(seed), prune_at_initialisation(TRAINING, 0.9, **settings)[:1], store)


def same(one: State, other: State) -> bool:
    return all(torch.equal(one.masks[name], other.masks[name]) for name in NAMES)


@pytest.mark.parametrize("seed", [0, 1])
def test_snip_is_the_largest_sensitivities_of_a_batch_of_the_seed(store: Store, seed: int) -> None:
    """Kept are exactly the 10 % of largest ``|g w|``, g of 128 examples drawn by the seed."""
    net, train = genesis(seed).build(), digits().train
    order = torch.randperm(len(train), generator=generator_for(seed, "evidence", 0))
    inputs, targets = train.take(order[:128])
    net.eval()
    entropy(net(inputs), targets).backward()
    weights = dict(net.named_parameters())
    scores = torch.cat([(weights[name].grad * weights[name]).abs().flatten() for name in NAMES])
    kept = torch.cat([pruned(store, seed).masks[name].flatten() for name in NAMES])
    assert int(kept.sum()) == round(0.1 * len(scores))
    assert scores[kept].min() >= scores[~kept].max()


def test_each_seed_has_its_own_evidence(store: Store) -> None:
    """Another sample of examples decides otherwise, from the same initial weights."""
    assert same(pruned(store), pruned(store))
    assert not same(pruned(store), pruned(store, sample=1))


@pytest.mark.parametrize(
    "phase", [Prune(sparsity=0.5, criterion=random), PruneUnits(keep=0.5, criterion=random)]
)
def test_chance_follows_the_seed_of_the_run(store: Store, phase: Prune | PruneUnits) -> None:
    """Two seeds have two random masks that agree no more than chance has it; one has one."""
    first, second = (
        run_recipe(genesis(seed), (phase,), store).masks["fc1.weight"] for seed in (0, 1)
    )
    if isinstance(phase, PruneUnits):
        assert not torch.equal(first, second)
    else:
        assert float((first == second).float().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", [Static, SET, RigL])
def test_random_masks_of_policies_follow_the_seed_of_the_run(store: Store, kind: type) -> None:
    """Two seeds train two random sets of weights; a policy with a seed of its own trains one."""
    more = {} if kind is Static else {"until": 10}

    def first_masks(root: int, **chance: int) -> Tensor:
        training = replace(TRAINING, steps=1, pruning=PolicyPruning(kind(0.5, **more, **chance)))
        return run_recipe(genesis(root), (Train(training=training),), store).masks["fc1.weight"]

    agree = float((first_masks(0) == first_masks(1)).float().mean())
    assert agree == pytest.approx(0.5, abs=0.02)
    assert torch.equal(first_masks(0, seed=3), first_masks(1, seed=3))
    # A seed that is named has the key that it had before there was another.
    assert encode(kind(0.5, **more, seed=0), identity=True)["seed"] == 0


@pytest.mark.parametrize("phase", [
    Scan(sparsities=(0.9,), criterion=random),
    Predict(criterion=random, loss=squared_error, sparsities=(0.5,)),
    Train(training=replace(TRAINING, steps=1, pruning=PolicyPruning(Gradual(OneShot(final=0.5, at=1), every=1, criterion=random)))),
    Train(training=replace(TRAINING, steps=1, pruning=PolicyPruning(LayerByLayer(final=0.5, end=1, every=1, criterion=random)))),
])  # fmt: skip
def test_chance_in_every_phase_follows_the_seed_of_the_run(
    phase: Scan | Predict | Train,
) -> None:
    """From the very same network, two seeds of runs delete other weights."""
    started, ended = state_of(genesis(0).build(), {}, {}), []
    for seed in (0, 1):
        there = World(genesis(seed), digits(), lambda label: started)
        after = phase.run(State(started.weights, {}), there)
        ended.append(str(after.facts) + str(after.masks.get("fc1.weight")))
    assert ended[0] != ended[1]
    assert encode(phase, identity=True)["revision"] == 1


def test_a_seed_that_was_given_stays(store: Store) -> None:
    """Whoever names the seed of a criterion gets that, under the key that such runs had before."""
    phase = Prune(sparsity=0.5, criterion=Call.of(random, seed=3))
    first, second = (run_recipe(genesis(seed), (phase,), store) for seed in (0, 1))
    assert same(first, second)
    assert "revision" not in encode(phase, identity=True)
    assert "revision" not in encode(Prune(sparsity=0.5), identity=True)
    assert encode(Prune(sparsity=0.5, criterion=random), identity=True)["revision"] == 1


def test_synflow_takes_a_hundred_rounds(store: Store) -> None:
    """All layers live at a sparsity that empties one when it is reached at once."""
    recipes = [
        prune_at_initialisation(TRAINING, 0.999, criterion=synflow, rounds=rounds)
        for rounds in (None, 1)
    ]
    rounds, once = (run_recipe(genesis(), recipe[:1], store) for recipe in recipes)
    total = sum(mask.numel() for mask in rounds.masks.values())
    assert sum(int(mask.sum()) for mask in rounds.masks.values()) == round(0.001 * total)
    assert all(mask.any() for mask in rounds.masks.values())
    assert not all(mask.any() for mask in once.masks.values())


def test_rounds_go_on_from_the_masks_there_are(store: Store) -> None:
    """From half of the weights to a tenth in two rounds: first to ``sqrt(0.5 · 0.1)`` of them."""
    seen: list[float] = []

    def noting(weight: Tensor, mask: Tensor) -> Tensor:
        seen.append(float(mask.float().mean()))
        return weight.abs()

    state = run_recipe(genesis(), (Prune(sparsity=0.5),), store)
    again = Prune(sparsity=0.9, criterion=noting, rounds=2, layers=_only_first)
    world = World(genesis=genesis(), data=digits(), earlier=lambda _: state)
    after = again.run(state, world).masks["fc1.weight"]
    before = state.masks["fc1.weight"]
    density = float(before.float().mean())
    assert seen == pytest.approx([density, (density * 0.1) ** 0.5], abs=1e-3)
    assert int(after.sum()) == round(0.1 * after.numel())
    assert not (after & ~before).any()


def _only_first(model: torch.nn.Module) -> dict[str, Tensor]:
    return {"fc1.weight": model.fc1.weight}


def test_what_is_pruned_stays_zero_and_the_rest_starts_at_its_initial_values(store: Store) -> None:
    """Before training survivors have their initial values; afterwards zeros are still zeros."""
    recipe = prune_at_initialisation(TRAINING, 0.9)
    before, after = (run_recipe(genesis(), recipe[:count], store) for count in (1, 2))
    start = genesis().build().state_dict()
    for name in NAMES:
        mask = before.masks[name]
        assert torch.equal(before.weights[name][mask], start[name][mask])
        assert not after.weights[name][~mask].any()
        assert not torch.equal(after.weights[name], before.weights[name])


def test_controls_keep_what_they_say(store: Store) -> None:
    """Shuffling keeps the count of each layer and the values; drawing again keeps the masks."""
    recipe = prune_at_initialisation(TRAINING, 0.9)
    found = run_recipe(genesis(), recipe[:1], store)
    moved, fresh = (
        run_recipe(genesis(), of(recipe)[:2], store)
        for of in (shuffled_masks, reinitialised_weights)
    )
    start = genesis().build().state_dict()
    for name in NAMES:
        assert moved.masks[name].sum() == found.masks[name].sum()
        assert torch.equal(moved.weights[name], start[name] * moved.masks[name])
    assert not same(moved, found)
    assert same(fresh, found)
    assert not torch.equal(fresh.weights["fc1.weight"], found.weights["fc1.weight"])
    with pytest.raises(BoxwoodError, match="begins with pruning, got one that begins with Train"):
        shuffled_masks(dense(TRAINING))


@pytest.mark.parametrize("criterion", [snip, grasp, synflow, magnitude, random])
def test_every_criterion_makes_a_recipe_of_one_budget(
    store: Store, criterion: Callable[..., Tensor]
) -> None:
    """It trains as long as the dense one, is data that can be written down, and ends at its sparsity."""
    recipe: Recipe = prune_at_initialisation(TRAINING, 0.9, criterion=criterion)
    assert decode(encode(recipe)) == recipe
    assert recipe[1].training == dense(TRAINING)[0].training
    state = run_recipe(genesis(), recipe, store)
    assert state.facts["kept"] == round(0.1 * state.facts["weights"])
    assert state.facts["test"]["total"] > 0


def test_grasp_divides_the_outputs_or_says_that_it_cannot() -> None:
    """The paper's temperature is there without asking; another loss must be given."""
    phase = prune_at_initialisation(TRAINING, 0.9, criterion=grasp)[0]
    assert phase.loss == Call.of(cross_entropy, temperature=200.0)
    smoothed = replace(TRAINING, loss=Call.of(cross_entropy, label_smoothing=0.1))
    phase = prune_at_initialisation(smoothed, 0.9, criterion=grasp)[0]
    assert phase.loss == Call.of(cross_entropy, label_smoothing=0.1, temperature=200.0)
    cooled = replace(TRAINING, loss=Call.of(cross_entropy, temperature=2.0))
    phase = prune_at_initialisation(cooled, 0.9, criterion=grasp)[0]
    assert phase.loss == Call.of(cross_entropy, temperature=400.0)
    other = Training(steps=20, batch=60, optimizer=SGD(lr=0.05), loss=squared_error)
    assert prune_at_initialisation(other, 0.9)[0].loss == squared_error
    with pytest.raises(BoxwoodError, match="divided by 200"):
        prune_at_initialisation(other, 0.9, criterion=grasp)
    assert prune_at_initialisation(other, 0.9, criterion=grasp, loss=squared_error)[0].loss == (
        squared_error
    )


def test_what_a_criterion_does_not_ask_for_is_no_part_of_its_key() -> None:
    """Magnitude is keyed as plain pruning, whatever the sample of examples would have been."""
    plain = keys(genesis(), (Prune(sparsity=0.9),))
    for sample in (0, 1):
        recipe = prune_at_initialisation(TRAINING, 0.9, criterion=magnitude, sample=sample)
        assert keys(genesis(), recipe)[:2] == plain


def test_controls_share_the_pruning(tmp_path: Path) -> None:
    """A recipe and its controls prune once."""
    recipe = prune_at_initialisation(TRAINING, 0.9)
    found = Store(tmp_path)
    run_all([Job(genesis(), each[:2]) for each in (recipe, shuffled_masks(recipe))], found)
    assert len({*keys(genesis(), recipe[:2]), *keys(genesis(), shuffled_masks(recipe)[:2])}) == 4


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"rounds": 2, "sparsity": None}])
def test_rounds_are_checked(wrong: dict) -> None:
    """No rounds, or several without a sparsity to end at, are refused."""
    with pytest.raises(BoxwoodError, match="Expected rounds >= 1"):
        Prune(**{"sparsity": 0.5} | wrong)
