"""Policies under which pruned weights learn, against twenty lines of each method by itself."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from boxwood import SparseTraining
from boxwood.criteria import magnitude
from boxwood.errors import InvalidInput
from boxwood.granularity import NofM
from boxwood.policies import SRSTE, STR, MovementPruning, StraightThrough, TopKAST
from boxwood.schedules import Cubic

_SPEC = importlib.util.spec_from_file_location("toy", Path(__file__).parent / "toy_trainings.py")
toy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(toy)
LAYERS, batch, gradients, network = toy.LAYERS, toy.batch, toy.gradients, toy.network
parameters, sgd, steps, trained = toy.parameters, toy.sgd, toy.steps, toy.trained


@dataclass(frozen=True)
class Feedback(StraightThrough):
    """A user's own: the largest weights of each layer, chosen again every fourth step."""

    sparsity: float
    criterion = staticmethod(magnitude)
    wants_gradients = False

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: largest(w.abs(), round((1 - self.sparsity) * w.numel())) for n, w in weights.items()
        }

    def due(self, step: int) -> bool:
        return step > 0 and step % 4 == 0

    def update(self, step, masks, scores, gradients) -> dict[str, Tensor]:
        return self.init(scores)


RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01  # of `sgd`


def close(found: nn.Module, wanted: dict[str, Tensor]) -> None:
    """Compare parameters to the rounding of a few dozen steps in double precision."""
    assert not torch.equal(parameters(network())[LAYERS[0]], wanted[LAYERS[0]])
    for name, weight in parameters(found).items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-10, atol=1e-12)


def naive(
    shown: Callable[[dict[str, Tensor], int], dict[str, Tensor]],
    backward: Callable[[dict[str, Tensor], dict[str, Tensor], int], dict[str, Tensor]],
    count: int,
) -> dict[str, Tensor]:
    """Train whole weights by gradients at what is shown of them; return what is shown at the end."""
    whole = parameters(network())
    velocity = {name: torch.zeros_like(weight) for name, weight in whole.items()}
    for step in range(count):
        _, found = gradients(shown(whole, step), step)
        found = backward(whole, found, step)
        for name, weight in whole.items():
            velocity[name] = MOMENTUM * velocity[name] + found[name] + DECAY * weight
            whole[name] = weight - RATE * velocity[name]
    return shown(whole, count)


def largest(scores: Tensor, keep: int) -> Tensor:
    """Mask the highest scores of a tensor."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort(descending=True)[:keep]] = True
    return mask.view(scores.shape)


def test_n_of_m_from_scratch_is_the_naive_one() -> None:
    """Two of four weights are read, all learn by what was read, and pruned ones decay besides."""

    def chosen(weight: Tensor) -> Tensor:
        rows = [largest(four.abs(), 2) for four in weight.reshape(-1, 4)]
        return torch.stack(rows).view(weight.shape)

    def shown(whole: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return {n: w * chosen(w) if n in LAYERS else w for n, w in whole.items()}

    def backward(
        whole: dict[str, Tensor], found: dict[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        return {n: g + 0.05 * (whole[n] * ~chosen(whole[n]) if n in LAYERS else 0) for n, g in found.items()}  # fmt: skip

    net, training = trained(SRSTE(NofM(2, 4), decay=0.05), 25)
    close(net, naive(shown, backward, 25))
    assert training.exploration > 0.6


@pytest.mark.parametrize("every", [1, 4])
def test_always_sparse_training_is_the_naive_one(every: int) -> None:
    """A is read, B learns with its penalty, and both are chosen every few steps."""
    sets: dict[str, tuple[Tensor, Tensor]] = {}

    def choose(whole: dict[str, Tensor], step: int) -> None:
        for name in LAYERS:
            if step % every == 0:
                size, count = whole[name].abs(), whole[name].numel()
                sets[name] = largest(size, count // 4), largest(size, count // 2)

    def shown(whole: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        choose(whole, step)
        return {n: w * sets[n][0] if n in LAYERS else w for n, w in whole.items()}

    def backward(
        whole: dict[str, Tensor], found: dict[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        for name in LAYERS:
            a, b = sets[name]
            pull = 0.02 * torch.where(a, whole[name], whole[name] / 0.25)
            found[name] = (found[name] + pull) * b
        return found

    policy = TopKAST(0.75, backward_sparsity=0.5, penalty=0.02, every=every)
    close(trained(policy, 25)[0], naive(shown, backward, 25))


def test_movement_with_return_is_the_naive_one() -> None:
    """Scores sum -g w of all weights; pruned weights keep their values and may come back."""
    sums = {name: torch.zeros_like(parameters(network())[name]) for name in LAYERS}
    masks = {name: torch.ones_like(each, dtype=torch.bool) for name, each in sums.items()}
    schedule, ever = Cubic(final=0.5, begin=4, end=16), []

    def shown(whole: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        for name in LAYERS:
            if schedule(step) > 0:
                keep = round((1 - schedule(step)) * sums[name].numel())
                ever.append((largest(sums[name], keep) & ~masks[name]).any())
                masks[name] = largest(sums[name], keep)
        return {n: w * masks[n] if n in LAYERS else w for n, w in whole.items()}

    def backward(
        whole: dict[str, Tensor], found: dict[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        for name in LAYERS:
            sums[name] = sums[name] - found[name] * whole[name]
            found[name] = found[name] * masks[name]
        return found

    close(trained(MovementPruning(schedule), 30)[0], naive(shown, backward, 30))
    assert any(ever), "something came back"


def test_soft_thresholds_are_those_of_autograd() -> None:
    """Weights and thresholds learn as they do where the threshold is written into the network."""
    net = network()
    scores = {name: torch.tensor(-3.0, dtype=torch.float64, requires_grad=True) for name in LAYERS}
    learn = [*net.parameters(), *scores.values()]
    optimizer = torch.optim.SGD(learn, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def shown() -> dict[str, Tensor]:
        weights = dict(net.named_parameters())
        for name, s in scores.items():
            size = torch.relu(weights[name].abs() - torch.sigmoid(s))
            weights[name] = weights[name].sign() * size
        return weights

    for step in range(40):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        cross_entropy(torch.func.functional_call(net, shown(), (inputs,)), targets).backward()
        optimizer.step()
    found, training = trained(STR(initial=-3.0, decay=DECAY, momentum=MOMENTUM), 40)
    for name, s in scores.items():
        memory = training.state_dict()[f"memory/{name}"][0]
        torch.testing.assert_close(memory, s.detach(), rtol=1e-9, atol=0)
        torch.testing.assert_close(
            found.get_parameter(name).detach(), shown()[name].detach(), rtol=1e-9, atol=1e-12
        )
        assert torch.equal(training.masks[name], shown()[name] != 0)
    assert 0.05 < training.sparsity < 0.95


def test_more_decay_of_the_threshold_gives_more_zeros() -> None:
    """Without gradients from the loss, s goes to zero and the threshold to a half."""
    found = [trained(STR(initial=-6.0, decay=d), 60)[1].sparsity for d in (0.0, 0.03, 0.1)]
    assert found == sorted(found)
    assert found[0] < found[2]


def test_a_weight_returns_when_its_threshold_falls() -> None:
    """Weights below the threshold keep their value, and are read again less the threshold."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 0.4]])
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    training = SparseTraining(net, optimizer, STR(initial=0.0, decay=0.0))
    assert net.weight.tolist() == [[0.5, 0.0]]
    net.weight.grad = torch.tensor([[1.0, 5.0]])  # dE/ds = -1/4, and s rises to 1/4
    optimizer.step()
    assert not training.masks["weight"].any()
    net.weight.grad = torch.zeros(1, 2)
    training.state_dict()  # changes nothing
    lower = {**training.state_dict(), "memory/weight": torch.tensor([-2.0, 0.0])}
    training.load_state_dict(lower)
    optimizer.step()
    kept = 0.4 - torch.sigmoid(torch.tensor(-2.0))
    torch.testing.assert_close(net.weight[0, 1].detach(), kept)


@pytest.mark.parametrize("initial", [-3.0, -3200.0])
def test_the_network_holds_what_it_reads(initial: float) -> None:
    """Between steps parameters and checkpoints are sparse, and a copy computes the same."""
    net = network()
    optimizer = sgd(net)
    training = SparseTraining(net, optimizer, STR(initial=initial, decay=0.02))

    def check(step: int) -> None:
        for name, mask in training.masks.items():
            assert torch.equal(net.state_dict()[name] != 0, mask)

    steps(net, optimizer, range(5), check)
    before = parameters(net)
    training.detach()
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_an_optimizer_that_evaluates_the_network_is_refused() -> None:
    """Within its step the parameters are whole, and the loss would be of another network."""
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters())
    SparseTraining(net, optimizer, STR(initial=-3.0, decay=0.0))
    inputs, targets = batch(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(net(inputs), targets)
        loss.backward()
        return loss

    with pytest.raises(InvalidInput, match="does not evaluate the network in its step"):
        optimizer.step(closure)


def test_bad_settings_are_refused() -> None:
    """Each setting has its range."""
    with pytest.raises(InvalidInput, match=r"Expected decay >= 0 and momentum in \[0, 1\)"):
        STR(initial=0.0, decay=-1.0)
    with pytest.raises(InvalidInput, match=r"Expected decay >= 0, got -1"):
        SRSTE(NofM(2, 4), decay=-1.0)
    with pytest.raises(InvalidInput, match=r"Expected backward_sparsity in \[0, 0.5\]"):
        TopKAST(0.5, backward_sparsity=0.6)
    with pytest.raises(InvalidInput, match="Expected every >= 1"):
        MovementPruning(Cubic(final=0.5, end=4), every=0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_training_is_the_plain_one(fused: bool) -> None:
    """Gradients under a scaler are taken unscaled, and a step that it skips changes nothing."""
    found = []
    for scaled in (False, True):
        net = network().float()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=fused)
        training = SparseTraining(net, optimizer, MovementPruning(Cubic(final=0.5, end=4)))
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=scaled)
        for step in range(8):
            for overflow in (False, True)[: 1 + scaled]:  # a skipped step before every other one
                inputs, targets = batch(step)
                optimizer.zero_grad()
                loss = cross_entropy(net(inputs.float()), targets)
                loss = loss * torch.inf if not overflow and scaled else loss
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update(256.0)
        found.append({**parameters(net), **training.state_dict()})
    for name, wanted in found[0].items():
        torch.testing.assert_close(found[1][name], wanted, rtol=1e-4, atol=1e-6)


def test_a_policy_of_a_user_s_own() -> None:
    """Ten lines: the largest weights of all, refreshed, with the gradient of what was read."""
    _, training = trained(Feedback(0.75), 20)
    assert training.sparsity == 0.75
    assert training.exploration > 0.25
