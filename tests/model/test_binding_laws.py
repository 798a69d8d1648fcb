"""What a mask prunes stays exactly zero under any optimizer, and nothing else is changed."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, parametrize
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood.errors import BoxwoodError

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": partial(Adam, lr=0.05, weight_decay=0.01),
    "adamw": partial(AdamW, lr=0.05, weight_decay=0.1, amsgrad=True),
    "rmsprop": partial(RMSprop, lr=0.01, momentum=0.9, weight_decay=0.01),
}
GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(16, 6, generator=GENERATOR)
TARGETS = torch.randint(3, (16,), generator=GENERATOR)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def train(
    model: nn.Module, optimizer: Optimizer, steps: int = 5, clip: float | None = None
) -> None:
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(INPUTS.to(dtype)), TARGETS).backward()
        if clip is not None:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def assert_held(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Positive zeros where the masks are False; the kept weights have moved away from zero."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        pruned = parameters[name].detach()[~mask]
        assert torch.equal(pruned, torch.zeros_like(pruned))
        assert not torch.signbit(pruned).any()
        assert parameters[name].detach()[mask].count_nonzero() == mask.count_nonzero()


class Masked(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def reparametrised(model: nn.Sequential, masks: dict[str, Tensor]) -> nn.Sequential:
    for name, mask in masks.items():
        parametrize.register_parametrization(model[int(name[0])], "weight", Masked(mask))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruned_weights_are_positive_zero(
    make: Callable[..., Optimizer], dtype: torch.dtype
) -> None:
    """Momentum, weight decay and adaptive rates move no pruned weight, and leave no -0.0."""
    model = network(dtype)
    optimizer, masks = make(model.parameters()), find_masks(model, 0.6)
    MaskBinding(model, optimizer, masks)
    for _ in range(5):
        train(model, optimizer, 1)
        assert_held(model, masks)


def test_an_optimizer_that_moves_everything_moves_no_pruned_weight() -> None:
    """The weights are held even where the gradients are not masked."""
    model = network()
    optimizer, masks = Adam(model.parameters(), lr=0.1), find_masks(model, 0.5)
    MaskBinding(model, optimizer, masks, mask_gradients=False)
    train(model, optimizer)
    assert_held(model, masks)
    assert model[0].weight.grad[~masks["0.weight"]].count_nonzero() > 0


@pytest.mark.parametrize("clip", [None, 0.05])
def test_equal_to_reparametrisation(clip: float | None) -> None:
    """SGD with momentum under masks is SGD on ``w * mask``, with clipping and without."""
    ours, theirs = network(torch.float64), network(torch.float64)
    masks = find_masks(ours, 0.5)
    apply_masks_(ours, masks)
    apply_masks_(theirs, masks)
    theirs = reparametrised(theirs, masks)
    pair = [SGD(net.parameters(), lr=0.5, momentum=0.9) for net in (ours, theirs)]
    MaskBinding(ours, pair[0], masks)
    train(ours, pair[0], 20, clip)
    train(theirs, pair[1], 20, clip)
    for index in (0, 2):
        torch.testing.assert_close(ours[index].weight, theirs[index].weight, rtol=0, atol=1e-13)
        torch.testing.assert_close(ours[index].bias, theirs[index].bias, rtol=0, atol=1e-13)


def test_clipping_sees_no_pruned_gradients() -> None:
    """The norm that clipping measures is that of the kept gradients alone."""
    ours = network()
    masks = find_masks(ours, 0.7)
    apply_masks_(ours, masks)
    theirs = reparametrised(copy.deepcopy(ours), masks)
    MaskBinding(ours, SGD(ours.parameters(), lr=0.1), masks)
    norms = []
    for net in (ours, theirs):
        cross_entropy(net(INPUTS), TARGETS).backward()
        norms.append(clip_grad_norm_(net.parameters(), 1e-3))
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        ours[0].weight.grad, theirs[0].parametrizations.weight.original.grad, rtol=1e-6, atol=1e-10
    )


def test_accumulated_gradients_are_masked_at_every_backward() -> None:
    """Two backwards before a step leave no pruned gradient."""
    model = network()
    masks = find_masks(model, 0.5)
    MaskBinding(model, SGD(model.parameters(), lr=0.1), masks)
    for _ in range(2):
        cross_entropy(model(INPUTS), TARGETS).backward()
        assert model[0].weight.grad[~masks["0.weight"]].count_nonzero() == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_networks_need_no_graph_break(backend: str) -> None:
    """A compiled network takes masks by its plain names, and compiles as one graph."""
    model = network()
    masks = find_masks(model, 0.5)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    optimizer = SGD(compiled.parameters(), lr=0.1, momentum=0.9)
    held = MaskBinding(compiled, optimizer, masks)
    train(compiled, optimizer)
    assert_held(model, masks)
    assert set(held.masks) == set(masks)


def test_checkpoints_and_copies_know_nothing_of_masks() -> None:
    """Keys are those of the dense network, dense weights load, and a deep copy is free."""
    model = network()
    dense = copy.deepcopy(model.state_dict())
    optimizer, masks = SGD(model.parameters(), lr=0.1), find_masks(model, 0.5)
    MaskBinding(model, optimizer, masks)
    train(model, optimizer, 1)
    assert list(model.state_dict()) == list(dense)
    twin = copy.deepcopy(model)
    train(twin, SGD(twin.parameters(), lr=0.1), 1)
    assert twin[0].weight[~masks["0.weight"]].count_nonzero() > 0
    assert_held(model, masks)
    model.load_state_dict(dense)
    train(model, optimizer, 1)
    assert_held(model, masks)


def test_an_average_of_networks_is_projected() -> None:
    """An exponential average that began dense is sparse after `apply_masks_`."""
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer, masks = SGD(model.parameters(), lr=0.1), find_masks(model, 0.5)
    average.update_parameters(model)
    MaskBinding(model, optimizer, masks)
    train(model, optimizer, 2)
    average.update_parameters(model)
    assert average.module[0].weight[~masks["0.weight"]].count_nonzero() > 0
    apply_masks_(average.module, masks)
    assert_held(average.module, masks)


def test_autocast() -> None:
    """bfloat16 arithmetic on the CPU leaves float32 weights held."""
    model = network()
    optimizer, masks = Adam(model.parameters(), lr=0.05), find_masks(model, 0.5)
    MaskBinding(model, optimizer, masks)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(INPUTS), TARGETS)
        loss.backward()
        optimizer.step()
    assert_held(model, masks)


def test_channels_last_weights_are_held() -> None:
    """The memory layout of a convolution, before or after the binding, does not matter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    optimizer, masks = SGD(model.parameters(), lr=0.1), find_masks(model, 0.5)
    MaskBinding(model, optimizer, masks)
    for layout in (torch.channels_last, torch.contiguous_format):
        model.to(memory_format=layout)
        optimizer.zero_grad()
        inputs = torch.randn(2, 3, 4, 4).to(memory_format=layout)
        cross_entropy(model(inputs), torch.tensor([0, 1])).backward()
        optimizer.step()
        assert_held(model, masks)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs).relu())


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
def test_tied_parameters_take_one_mask(name: str) -> None:
    """Either name of a tied parameter will do, at first and later; it is known by its first."""
    model, mask = Tied(), torch.eye(3, dtype=torch.bool)
    optimizer = SGD(model.parameters(), lr=0.1)
    held = MaskBinding(model, optimizer, {name: mask})
    assert list(held.masks) == ["first.weight"]
    held.replace_masks({"second.weight": ~mask})
    held.replace_masks({"first.weight": mask, "second.weight": mask})
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert model.second.weight[~mask].count_nonzero() == 0


def test_tied_parameters_refuse_two_masks() -> None:
    """Two masks of one parameter must agree."""
    model, mask = Tied(), torch.eye(3, dtype=torch.bool)
    with pytest.raises(BoxwoodError, match=r"one mask for the tied parameters 'first.weight' and"):
        MaskBinding(
            model,
            SGD(model.parameters(), lr=0.1),
            {"first.weight": mask, "second.weight": ~mask},
        )


@pytest.mark.parametrize("mask_gradients", [True, False])
def test_replaced_masks_start_afresh(mask_gradients: bool) -> None:
    """Newly pruned weights lose their memory; weights that come back begin at zero without any."""
    model = nn.Linear(4, 2, bias=False)
    optimizer = Adam(model.parameters(), lr=0.1)
    left = torch.tensor([True, True, False, False]).expand(2, 4)
    held = MaskBinding(model, optimizer, {"weight": left}, mask_gradients=mask_gradients)
    for _ in range(2):
        model(torch.ones(1, 4)).pow(2).sum().backward()
        optimizer.step()
    before = model.weight.detach().clone(), optimizer.state[model.weight]["exp_avg"].clone()
    middle = torch.tensor([False, True, True, False]).expand(2, 4)
    held.replace_masks({"weight": middle})
    memory = optimizer.state[model.weight]
    stayed = left & middle
    assert torch.equal(model.weight, before[0] * stayed)
    assert torch.equal(memory["exp_avg"], before[1] * stayed)
    assert memory["exp_avg_sq"][~stayed].count_nonzero() == 0
    assert memory["step"] == 2
    assert torch.equal(held.masks["weight"], middle)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert model.weight[:, 2].count_nonzero() == 2
    assert model.weight[~middle].count_nonzero() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_at_a_pruned_place_does_not_survive(bad: float) -> None:
    """A NaN or infinite gradient of a pruned weight reaches neither the weight nor the memory."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    MaskBinding(model, optimizer, {"weight": torch.tensor([[True, False]])})
    model(torch.tensor([[1.0, bad]])).backward(torch.ones(1, 1))
    gradient = torch.tensor([[1.0, 0.0]])
    assert torch.equal(model.weight.grad, gradient)
    optimizer.step()
    assert torch.equal(optimizer.state[model.weight]["momentum_buffer"], gradient)
    assert model.weight[0, 1].item() == 0.0


def test_state_round_trip() -> None:
    """Masks saved from one binding hold in another."""
    first, second = network(), network()
    saved = MaskBinding(first, SGD(first.parameters(), lr=0.1), find_masks(first, 0.5)).state_dict()
    optimizer = SGD(second.parameters(), lr=0.1)
    held = MaskBinding(second, optimizer, find_masks(second, 0.9))
    held.load_state_dict(saved)
    assert all(torch.equal(held.state_dict()[name], mask) for name, mask in saved.items())
    train(second, optimizer, 2)
    for name, mask in saved.items():
        assert second.get_parameter(name)[~mask].count_nonzero() == 0


def test_detached_masks_hold_nothing() -> None:
    """After detach the network trains densely, even before the next backward."""
    model = network()
    optimizer, masks = SGD(model.parameters(), lr=0.1), find_masks(model, 0.5)
    held = MaskBinding(model, optimizer, masks)
    held.detach()
    train(model, optimizer, 1)
    assert model[0].weight[~masks["0.weight"]].count_nonzero() > 0


def test_frozen_parameters_need_no_optimizer() -> None:
    """Masks on parameters that do not learn are projected once and accepted."""
    model = network()
    model[0].requires_grad_(requires_grad=False)
    masks = {"0.weight": torch.zeros(8, 6, dtype=torch.bool)}
    MaskBinding(model, SGD(model[2].parameters(), lr=0.1), masks)
    assert model[0].weight.count_nonzero() == 0


def test_an_optimizer_of_another_model_is_refused() -> None:
    """Masks under an optimizer that never touches the model would hold nothing."""
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BoxwoodError, match="an optimizer over the masked parameters"):
        MaskBinding(model, SGD(network().parameters(), lr=0.1), find_masks(model, 0.5))
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_other_masks_are_refused() -> None:
    """Replacing takes the same parameters, and changes nothing when it refuses."""
    model = network()
    held = MaskBinding(model, SGD(model.parameters(), lr=0.1), find_masks(model, 0.5))
    before = held.masks
    with pytest.raises(BoxwoodError, match=r"Expected masks for 0\.weight, 2\.weight, got masks"):
        held.replace_masks({"0.weight": before["0.weight"]})
    with pytest.raises(BoxwoodError, match="got masks for nothing"):
        held.replace_masks({})
    with pytest.raises(BoxwoodError, match="Expected a mask of shape"):
        held.load_state_dict({**before, "2.weight": torch.ones(1, dtype=torch.bool)})
    assert all(torch.equal(held.masks[name], mask) for name, mask in before.items())
