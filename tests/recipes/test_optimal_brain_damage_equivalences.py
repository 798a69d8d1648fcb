"""Optimal Brain Damage as a recipe: descents, predictions, deletions, and keys that stay."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from boxwood import criteria
from boxwood._internal.core import spec
from boxwood._internal.core.call import Call
from boxwood._internal.core.examples import InBatches, InFloat64
from boxwood._internal.core.masks import sparsity
from boxwood._internal.data.splits import Splits, from_tensors
from boxwood._internal.model.evidence.backpropagation import second_derivative
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.recipes.optimal_brain_damage import optimal_brain_damage
from boxwood._internal.recipes.phase import Genesis, State, World, state_of
from boxwood._internal.recipes.phases.descend import Descend
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.predict import Predict
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.runs.runner import run_recipe
from boxwood._internal.runs.store import Store
from boxwood._internal.train.losses import squared_error
from boxwood._internal.train.minimum import minimise_
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood.errors import BoxwoodError


def toy() -> Splits:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 5, generator=generator)
    targets = (inputs[:, 0] + inputs[:, 1].sin() > 0).long()
    return from_tensors("toy", (inputs[:60], targets[:60]), (inputs[60:], targets[60:]), validation=20)  # fmt: skip


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def linear_net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 2))


def world(model: object = net) -> tuple[World, State]:
    genesis = Genesis(model=model, data=toy)
    return World(genesis, toy(), lambda label: None), state_of(genesis.build(), {}, {})


def test_a_descent_ends_at_a_minimum() -> None:
    """For a linear network it is least squares, whatever the batches; with decay, ridge."""
    there, start = world(linear_net)
    x, y = there.data.train.take(torch.arange(40))
    x = torch.cat([x, torch.ones(40, 1)], 1).double()
    wanted = nn.functional.one_hot(y).double()
    for decay in (0.0, 0.1):
        solved = torch.linalg.solve(x.T @ x / 40 + decay * torch.eye(6), x.T @ wanted / 40).T
        for size in (40, 7):
            model = there.network(start)
            minimum = minimise_(
                model, InBatches(there.data.train, size), squared_error, decay=decay, gradient=1e-5
            )
            found = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach().double()
            torch.testing.assert_close(found, solved, rtol=1e-4, atol=1e-5)
            assert minimum.gradient <= 1e-5
            loss = (x @ solved.T - wanted).square().sum(1).mean() + decay * solved.square().sum()
            assert minimum.loss == pytest.approx(float(loss), rel=1e-5)


def test_a_descent_under_masks() -> None:
    """What is pruned stays zero; modes, gradients and hooks are as before; it can be cut short."""
    there, start = world()
    model = there.network(start).train()
    masks = find_masks(model, 0.5)
    minimum = minimise_(model, InBatches(there.data.train, 60), squared_error, masks=masks, iterations=7)  # fmt: skip
    assert minimum.iterations == 7
    assert model.training
    for name, mask in masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()
    assert all(not parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_descents_that_cannot_be() -> None:
    """A loss that is not finite, or no examples."""
    model = linear_net()
    with pytest.raises(BoxwoodError, match="a finite loss, got nan; start from another network"):
        minimise_(model, [(torch.full((1, 5), float("nan")), torch.tensor([0]))], squared_error)
    with pytest.raises(BoxwoodError, match="batches to train on, got none"):
        minimise_(model, [], squared_error)


def test_predictions_are_exact_for_one_weight_of_a_quadratic() -> None:
    """For a linear network with squared error the first deletion's rise is as predicted."""
    there, start = world(linear_net)
    at_minimum = Descend(loss=squared_error, gradient=1e-6).run(start, there)
    predict = Predict(criterion=criteria.obd, loss=squared_error, sparsities=(0.1, 0.9))
    facts = predict.run(at_minimum, there).facts
    sparsity_, deleted, predicted, after = facts["deletions"][0]
    assert (sparsity_, deleted) == (0.1, 1)
    assert after - facts["loss"] == pytest.approx(predicted, rel=1e-3)
    assert facts["deletions"][1][1] == 9


def test_a_prediction_is_half_h_w_squared() -> None:
    """The recorded sum is that of the scores that the mask drops."""
    there, start = world()
    phase = Predict(criterion=criteria.obd_full, loss=squared_error, sparsities=(0.5,))
    after = phase.run(start, there)
    model = there.network(start)
    weights = linear_and_conv(model)
    batches = InBatches(there.data.train, 2048)
    h = second_derivative(Calibration(model, weights, batches, squared_error))
    scores = {name: 0.5 * h[name] * w.detach() ** 2 for name, w in weights.items()}
    flat = torch.cat([score.flatten() for score in scores.values()]).sort().values
    assert after.facts["deletions"][0][2] == pytest.approx(float(flat[:14].sum()), rel=1e-4)
    assert after.weights.keys() == start.weights.keys()


def toy_in_float64() -> Splits:
    part = InFloat64(toy().train)
    return Splits("toy64", train=part, validation=part, test=part, classes=2, identity="toy64")


def net_in_float64() -> nn.Module:
    return net().double()


def linear_net_in_float64() -> nn.Module:
    return linear_net().double()


def test_at_a_penalised_minimum_the_penalised_loss_is_what_is_predicted() -> None:
    """With decay a quadratic's rise is exact in float64; that of the loss alone is another one."""
    genesis = Genesis(model=linear_net_in_float64, data=toy_in_float64)
    there, decay = World(genesis, toy_in_float64(), lambda label: None), 0.1
    start = state_of(genesis.build(), {}, {})
    arrived = Descend(loss=squared_error, decay=decay, gradient=1e-8).run(start, there)
    assert arrived.facts["gradient"] <= 1e-8
    settings = {"loss": squared_error, "sparsities": (0.1,)}
    saliency = Call.of(criteria.obd, decay=decay)
    facts = Predict(criterion=saliency, decay=decay, **settings).run(arrived, there).facts
    _, deleted, predicted, after = facts["deletions"][0]
    assert deleted == 1
    assert after - facts["loss"] == pytest.approx(predicted, rel=1e-6)
    assert facts["loss"] == pytest.approx(arrived.facts["loss"], rel=1e-12)
    alone = Predict(criterion=criteria.obd, **settings).run(arrived, there).facts
    _, _, predicted, after = alone["deletions"][0]
    assert after - alone["loss"] != pytest.approx(predicted, rel=0.1)


def test_a_descent_in_float64_arrives_at_a_millionth() -> None:
    """Of a network with a hidden layer, whose curvature near the minimum is small."""
    there = World(
        Genesis(model=net_in_float64, data=toy_in_float64), toy_in_float64(), lambda _: None
    )
    start = state_of(there.genesis.build(), {}, {})
    go = Descend(loss=squared_error, decay=1e-5, gradient=1e-9, iterations=20_000)
    assert go.run(start, there).facts["gradient"] <= 1e-9


def test_the_recipe_ranks_by_the_loss_that_the_descent_minimises() -> None:
    """Its criterion has the descent's decay."""
    go = Descend(loss=squared_error, decay=0.01)
    (prune_,) = [
        p for p in optimal_brain_damage(go, go, (0.5,), loss=squared_error) if isinstance(p, Prune)
    ]
    assert prune_.criterion == Call.of(criteria.obd, decay=0.01)


def test_the_recipe_runs_and_resumes(tmp_path: Path) -> None:
    """Train, then delete and retrain; sparsities are met, and a second run makes nothing."""
    retrain = Training(epochs=2, batch=20, optimizer=SGD(lr=0.05), loss=squared_error)
    recipe = optimal_brain_damage(
        Descend(loss=squared_error, iterations=50), retrain, (0.3, 0.6), loss=squared_error,
        examples=30,
    )  # fmt: skip
    assert [type(phase) for phase in recipe[:4]] == [Descend, Measure, Prune, Train]
    genesis, store = Genesis(model=net, data=toy), Store(tmp_path)
    state = run_recipe(genesis, recipe, store)
    assert sparsity(state.masks) == pytest.approx(0.6, abs=0.02)
    assert all((state.weights[name][~mask] == 0).all() for name, mask in state.masks.items())
    again = run_recipe(genesis, recipe, store)
    assert all(torch.equal(again.weights[name], each) for name, each in state.weights.items())
    assert spec.decode(spec.encode(recipe)) == recipe


def test_a_prune_phase_gathers_what_prune_gathers() -> None:
    """The first training examples are the evidence, as many as the phase says."""
    there, start = world()
    phase = Prune(sparsity=0.5, criterion=criteria.snip, loss=squared_error, evidence=10, batch=4)
    masks = phase.run(start, there).masks
    x, y = there.data.train.take(torch.arange(10))
    model = there.network(start)
    wanted = find_masks(model, 0.5, criterion=criteria.snip, loss=squared_error, batches=[(x, y)])
    assert all(torch.equal(masks[name], mask) for name, mask in wanted.items())


def test_old_keys_stay() -> None:
    """A prune phase without evidence is named as it was before there was any."""
    written = spec.encode(Prune(sparsity=0.5), identity=True)
    assert set(written) == {
        "is",
        "sparsity",
        "criterion",
        "allocation",
        "granularity",
        "layers",
        "floor",
    }
    assert written["criterion"] == {"function": "boxwood.criteria:magnitude"}


def test_a_compiled_network_is_gathered_from_as_itself() -> None:
    """Nothing is compiled for it, and the names are the plain ones."""
    there, start = world()
    model = there.network(start)
    batches = InBatches(there.data.train, 20)
    settings = {"criterion": criteria.fisher, "loss": squared_error, "batches": batches}
    masks = find_masks(torch.compile(copy.deepcopy(model)), 0.5, **settings)
    assert all(torch.equal(masks[n], m) for n, m in find_masks(model, 0.5, **settings).items())
