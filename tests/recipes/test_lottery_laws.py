"""Laws of tickets and their controls, on a net small enough to train in a second."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from boxwood._internal.core.call import Call
from boxwood._internal.core.shuffles import evenly, over_all_layers, within_layers
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes import lottery_ticket as tickets
from boxwood._internal.recipes.phase import Genesis, Recipe, State
from boxwood._internal.recipes.phases.controls import AddNoise, MasksFrom, Resample, ShuffleMasks
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.rewind import Reinitialise, Rewind
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.runs.chain import keys
from boxwood._internal.runs.runner import run_recipe
from boxwood._internal.runs.store import Store
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.lr_schedules import LinearWarmup, StepDecay
from boxwood._internal.train.optimizers import SGD, Adam
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.glorot import glorot
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.errors import BoxwoodError

STEPS = 30
TRAINING = Training(steps=STEPS, batch=60, optimizer=Adam(lr=2e-3), watch_every=10)
RATES = tickets.layerwise_rates(("fc3.*", 0.1), ("fc*", 0.2))
MASKED = ("fc1.weight", "fc2.weight", "fc3.weight")


def genesis(seed: int = 0) -> Genesis:
    return Genesis(
        model=Call.of(glorot, net=Call.of(lenet_300_100, inputs=64)), data=digits, seed=seed
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def until(recipe: Recipe, wanted: Callable[[object], bool], times: int = 1) -> Recipe:
    """Phases up to the ``times``-th one that is wanted."""
    places = [index for index, phase in enumerate(recipe) if wanted(phase)]
    return recipe[: places[times - 1] + 1]


def after(recipe: Recipe, kind: type, store: Store, times: int = 1) -> State:
    return run_recipe(genesis(), until(recipe, lambda phase: isinstance(phase, kind), times), store)


def start() -> dict[str, Tensor]:
    return dict(genesis().build().state_dict())


def ticket(levels: int = 2, rewind: int = 0) -> Recipe:
    return tickets.lottery_ticket(train=TRAINING, prune=RATES, levels=levels, rewind=rewind)


def test_survivors_equal_their_initial_values_exactly_after_rewinding(store):
    """A ticket's weights are θ0 where the mask keeps, and zero elsewhere, at every level."""
    for level in (1, 2):
        state = after(ticket(), Rewind, store, level)
        for name in MASKED:
            assert torch.equal(state.weights[name], start()[name] * state.masks[name])
        assert torch.equal(state.weights["fc1.bias"], start()["fc1.bias"])


def test_masks_prune_exactly_what_the_rates_say(store):
    """Level r keeps round((1 - rate)^r · n) of each layer."""
    for level in (1, 2):
        masks = after(ticket(), Prune, store, level).masks
        counts = {name: int(mask.sum()) for name, mask in masks.items()}
        sizes = {name: mask.numel() for name, mask in masks.items()}
        assert counts == {
            name: round((0.9 if "fc3" in name else 0.8) ** level * size)
            for name, size in sizes.items()
        }


def test_pruned_weights_stay_zero_through_training(store):
    """After training a ticket, its pruned weights are zero and its survivors have moved."""
    state = run_recipe(genesis(), ticket(), store)
    before = after(ticket(), Rewind, store, 2)
    for name in MASKED:
        assert not state.weights[name][~state.masks[name]].any()
        assert not torch.equal(state.weights[name], before.weights[name])


def test_each_level_ranks_the_trained_survivors(store):
    """What a level prunes is the smallest magnitude among what was left after training."""
    trained, pruned = after(ticket(), Train, store, 2), after(ticket(), Prune, store, 2)
    for name in MASKED:
        size = trained.weights[name].abs()
        gone = trained.masks[name] & ~pruned.masks[name]
        assert gone.any()
        assert size[gone].max() <= size[pruned.masks[name]].min()


def test_a_reinitialised_control_shares_the_mask_and_no_value(store):
    """Random reinit has the ticket's masks, and none of its nonzero weights."""
    found = after(ticket(), Prune, store, 2)
    state = after(tickets.reinitialised_ticket(ticket(), 2), Reinitialise, store)
    for name in MASKED:
        assert torch.equal(state.masks[name], found.masks[name])
        assert not (state.weights[name] == start()[name])[state.masks[name]].any()


def test_controls_share_the_chain_of_the_ticket():
    """A control of level r costs one training: all keys up to the pruning are the ticket's."""
    whole = keys(genesis(), ticket(3))
    for control in (
        tickets.reinitialised_ticket(ticket(3), 2),
        tickets.random_ticket(ticket(3), 2),
        tickets.resampled_ticket(ticket(3), 2),
        tickets.masked_at_start(ticket(3), 2),
        tickets.noisy_ticket(ticket(3), 2, 0.5),
    ):
        chain = keys(genesis(), control)
        shared = sum(a == b for a, b in zip(chain, whole, strict=False))
        assert len(chain) - shared == 3  # other values or masks, Train, Measure
    assert keys(genesis(), ticket(2)) == whole[: len(ticket(2)) + 1]


def test_extending_runs_only_the_new_phases(tmp_path):
    """From 1 to 2 levels, the phases of the first are taken from the store."""
    store = Store(tmp_path)
    run_recipe(genesis(), ticket(1), store)
    first = {key: store.record(key)["provenance"] for key in keys(genesis(), ticket(1))}
    run_recipe(genesis(), ticket(2), store)
    assert {key: store.record(key)["provenance"] for key in first} == first
    assert len(list((tmp_path / "phases").iterdir())) == len(ticket(2)) + 1


@pytest.mark.parametrize("how", [within_layers, evenly, over_all_layers])
def test_random_masks_keep_as_many_weights(store, how):
    """A shuffle keeps the count that it promises, and other places than the ticket."""
    found = after(ticket(), Prune, store, 2)
    state = after(tickets.random_ticket(ticket(), 2, how=how), ShuffleMasks, store)
    counts = [{n: int(m.sum()) for n, m in s.masks.items()} for s in (found, state)]
    assert sum(counts[0].values()) == sum(counts[1].values())
    if how is within_layers:
        assert counts[0] == counts[1]
    if how is evenly:
        densities = [counts[1][n] / m.numel() for n, m in state.masks.items()]
        assert max(densities) - min(densities) < 0.002
    for name in MASKED:
        assert not torch.equal(state.masks[name], found.masks[name])
        assert torch.equal(state.weights[name], start()[name] * state.masks[name])


def test_resampled_values_are_the_tickets_own(store):
    """Every resampled weight is an initial value of a survivor of the same layer."""
    state = after(tickets.resampled_ticket(ticket(), 2), Resample, store)
    for name in MASKED:
        mask = state.masks[name]
        assert torch.isin(state.weights[name][mask], start()[name][mask]).all()
        assert not torch.equal(state.weights[name][mask], start()[name][mask])
        assert not state.weights[name][~mask].any()


def test_masks_of_the_start_hold_its_largest_weights(store):
    """Pruned before training: the kept initial weights are the largest, as many as the ticket's."""
    found = after(ticket(), Prune, store, 2)
    state = after(tickets.masked_at_start(ticket(), 2), MasksFrom, store)
    for name in MASKED:
        size, mask = start()[name].abs(), state.masks[name]
        assert mask.sum() == found.masks[name].sum()
        assert size[mask].min() >= size[~mask].max()


def test_noise_has_the_scale_that_was_asked_for(store):
    """The change of the survivors has a standard deviation of c times that of the layer's weights."""
    state = after(tickets.noisy_ticket(ticket(), 2, 2.0), AddNoise, store)
    for name in ("fc1.weight", "fc2.weight"):
        mask = state.masks[name]
        change = (state.weights[name] - start()[name])[mask]
        assert change.std() / start()[name].std() == pytest.approx(2.0, rel=0.03)
        assert not state.weights[name][~mask].any()


def test_the_early_network_is_that_of_the_dense_training_bit_for_bit(store):
    """θ_k is trained by itself after the dense training, and equals what that had at step k."""
    early = after(ticket(rewind=12), Train, store, 2)

    class Stop:
        caught: dict[str, Tensor] | None = None
        steps = 0

        def load(self):
            return None

        def due(self):
            self.steps += 1
            return self.steps == 12

        def save(self, snapshot):
            self.caught = {n: t.clone() for n, t in snapshot.tensors.items()}

    from boxwood._internal.train.loop import train_

    model, stop = genesis().build(), Stop()
    train_(model, digits().train, TRAINING, seed=0, callbacks=Callbacks(checkpoints=stop))
    assert stop.caught is not None
    for name, weight in early.weights.items():
        assert torch.equal(stop.caught[f"model/{name}"], weight)


def test_late_rewinding_puts_survivors_back_to_step_k(store):
    """With k > 0 the survivors take the early network's values; training has the last J - k steps."""
    recipe = ticket(rewind=12)
    early, state = after(recipe, Train, store, 2), after(recipe, Rewind, store, 3)
    for name in MASKED:
        assert torch.equal(state.weights[name], early.weights[name] * state.masks[name])
    trained = until(recipe, lambda phase: isinstance(phase, Train), 3)
    facts = run_recipe(genesis(), trained, store).facts
    assert [row["step"] for row in facts["history"]] == [20, 30]


def test_all_rewinding_steps_share_the_dense_training():
    """Another k is another branch after the dense training."""
    assert keys(genesis(), ticket(rewind=5))[:3] == keys(genesis(), ticket(rewind=9))[:3]


def test_one_shot_reaches_the_counts_of_the_level(store):
    """Pruned once, a layer keeps as many weights as after as many levels."""
    recipe = tickets.one_shot_ticket(train=TRAINING, prune=RATES, level=2)
    once, step = after(recipe, Prune, store), after(ticket(), Prune, store, 2)
    assert {n: m.sum() for n, m in once.masks.items()} == {
        n: m.sum() for n, m in step.masks.items()
    }
    assert sum(isinstance(phase, Train) for phase in recipe) == 2


def test_global_pruning_ranks_all_layers_together(store):
    """The smallest surviving magnitudes of all layers go, and the total is exact."""
    recipe = tickets.lottery_ticket(train=TRAINING, prune=tickets.global_rate(0.2), levels=1)
    dense, state = after(recipe, Train, store), after(recipe, Prune, store)
    total = sum(mask.numel() for mask in state.masks.values())
    assert sum(int(mask.sum()) for mask in state.masks.values()) == round(0.8 * total)
    kept = torch.cat([dense.weights[n][m].abs() for n, m in state.masks.items()])
    gone = torch.cat([dense.weights[n][~m].abs() for n, m in state.masks.items()])
    assert kept.min() >= gone.max()


def test_continued_training_keeps_trained_values():
    """Without resetting there is no phase between pruning and training."""
    recipe = tickets.continued_training(train=TRAINING, prune=RATES, levels=2)
    assert [type(phase).__name__ for phase in recipe[2:]] == ["Prune", "Train", "Measure"] * 2


def test_learning_rate_rewinding_replays_the_schedule_alone(store):
    """Weights stay as trained, and training is repeated from step k on."""
    again = replace(TRAINING, start_at=20)
    recipe = tickets.continued_training(train=TRAINING, prune=RATES, levels=1, again=again)
    dense, pruned = after(recipe, Train, store), after(recipe, Prune, store)
    assert torch.equal(
        pruned.weights["fc1.weight"], dense.weights["fc1.weight"] * pruned.masks["fc1.weight"]
    )
    assert [row["step"] for row in run_recipe(genesis(), recipe[:-1], store).facts["history"]] == [
        30
    ]


def test_conv_only_and_fc_only_leave_the_rest_dense():
    """A layer that no pattern names keeps all its weights."""
    phase = tickets.layerwise_rates(("fc1.*", 0.2))(1)
    model = genesis().build()
    weights = {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}
    keep = phase.allocation(weights, None, None)
    assert keep["fc2.weight"] == weights["fc2.weight"].numel()
    assert keep["fc1.weight"] == round(0.8 * weights["fc1.weight"].numel())


def test_the_line_between_two_copies_ends_at_both(store):
    """α = 0 and 1 measure the second and the first copy; both started from θ_k in other orders."""
    recipe = tickets.instability(TRAINING, rewind=12, points=3)
    state = run_recipe(genesis(), recipe, store)
    line = state.facts["line"]
    assert [row["alpha"] for row in line] == [0, 0.5, 1]
    for label, end in (("copy-2", line[0]), ("copy-1", line[-1])):
        measured = until(recipe, lambda phase, label=label: phase.label == label, 2)
        assert run_recipe(genesis(), measured, store).facts["validation"] == end["validation"]


def test_the_line_of_a_ticket_stays_sparse(store):
    """Copies of a ticket keep its masks."""
    recipe = tickets.ticket_instability(ticket(1), 1, points=2)
    state, found = run_recipe(genesis(), recipe, store), after(ticket(1), Prune, store)
    for name in MASKED:
        assert torch.equal(state.masks[name], found.masks[name])
        assert not state.weights[name][~state.masks[name]].any()


def test_normalisation_statistics_are_fresh_after_rewinding(store):
    """Rewinding puts running means and variances back as well."""
    start_ = Genesis(model=with_norm, data=digits)
    recipe = tickets.lottery_ticket(train=TRAINING, prune=tickets.global_rate(0.2), levels=1)
    dense = run_recipe(start_, recipe[:1], store)
    state = run_recipe(start_, until(recipe, lambda phase: isinstance(phase, Rewind)), store)
    assert dense.weights["1.running_var"].ne(1).any()
    assert state.weights["1.running_var"].eq(1).all()


def with_norm() -> nn.Module:
    """Return a net with batch norm for 8 × 8 images."""
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))


def test_what_a_ticket_refuses(store):
    """Each message says what is wrong and what to do."""
    with pytest.raises(BoxwoodError, match=r"at least one level of pruning, got levels=0"):
        ticket(levels=0)
    with pytest.raises(
        BoxwoodError, match=r"a level that the ticket reaches, got 5; give the recipe"
    ):
        tickets.reinitialised_ticket(ticket(2), 5)
    with pytest.raises(
        BoxwoodError, match=r"0 <= start_at <= stop_at <= 30, got start_at=0, stop_at=31"
    ):
        ticket(rewind=31)
    with pytest.raises(
        BoxwoodError, match=r"a ticket that rewinds after level 1, got one that keeps"
    ):
        tickets.ticket_instability(
            tickets.continued_training(train=TRAINING, prune=RATES, levels=1), 1
        )
    with pytest.raises(BoxwoodError, match=r"noise of scale > 0 standard deviations, got 0"):
        AddNoise(scale=0)
    with pytest.raises(BoxwoodError, match=r"at least 2 points on the line, got 1"):
        tickets.instability(TRAINING, points=1)
    with pytest.raises(
        BoxwoodError, match=r"masks before ShuffleMasks, got none; put a Prune phase"
    ):
        run_recipe(genesis(), (ShuffleMasks(),), store)


def test_accuracy_at_fixed_steps_is_asked_of_all_trainings_and_of_the_controls():
    """``test_at`` reaches the dense training, every level and what is compared with it."""
    recipe = tickets.lottery_ticket(train=TRAINING, prune=RATES, levels=2, test_at=(10, 20))
    for each in (recipe, tickets.reinitialised_ticket(recipe, 2)):
        trainings = [phase for phase in each if isinstance(phase, Train)]
        assert [phase.test_at for phase in trainings] == [(10, 20)] * 3


def test_schedules_follow_the_steps_of_the_whole_training():
    """Warm-up is linear from zero, and drops come at their steps."""
    schedule = LinearWarmup(steps=4, schedule=StepDecay(steps=(6, 8)))
    rates = [schedule(step, 10) for step in range(10)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.01, 0.01])
    with pytest.raises(BoxwoodError, match=r"a warm-up of steps >= 1, got 0"):
        LinearWarmup(steps=0)


def test_a_replayed_training_has_the_rates_of_its_steps(store):
    """Entered at step k, a training has the learning rates of the steps k, k + 1, … of the whole."""
    seen: list[float] = []

    def schedule(step: int, steps: int) -> float:
        seen.append(step / steps)
        return 1.0

    from boxwood._internal.train.loop import train_

    training = Training(steps=8, start_at=5, batch=60, optimizer=SGD(lr=0.1, lr_schedule=schedule))
    train_(genesis().build(), digits().train, training, seed=0)
    assert seen == [5 / 8, 6 / 8, 7 / 8]
