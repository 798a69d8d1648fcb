"""What holds masks: looks before weights are read, several optimizers, scalers, copies, kinds."""

import copy
import gc
import io
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy, linear
from torch.optim.swa_utils import AveragedModel

from boxwood._internal.core.allocation import uniform
from boxwood._internal.core.granularity import Slices
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.model import sparse_training
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.held_weights import HeldWeight
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.model.prunable import Named
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.criteria import geometric_median, snip, taylor
from boxwood.errors import BoxwoodError
from boxwood.policies import Gradual, RigL, Static

GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(16, 6, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.randint(3, (16,), generator=GENERATOR)


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def loss_of(net: nn.Module, rows: slice = slice(None)) -> Tensor:
    dtype = next(net.parameters()).dtype
    return cross_entropy(net(INPUTS[rows].to(dtype)), TARGETS[rows])


def wrong(net: nn.Module, masks: dict[str, Tensor]) -> int:
    return sum(int((net.get_parameter(n).detach()[~m] != 0).sum()) for n, m in masks.items())


# Compiled networks


COMPILED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "wrapped": lambda net: torch.compile(net, backend="aot_eager", fullgraph=True),
    "in place": lambda net: net.compile(backend="aot_eager", fullgraph=True) or net,
}
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@quiet
@pytest.mark.parametrize("first", ["compiled", "bound"])
@pytest.mark.parametrize("how", COMPILED)
def test_compiled_networks_read_zeros(how: str, first: str) -> None:
    """Whatever was written between two calls, in one graph, in training and in evaluation."""
    torch._dynamo.reset()
    net = network()
    masks, optimizer = find_masks(net, 0.5), optim.Adam(net.parameters(), lr=0.1)
    called = COMPILED[how](net) if first == "compiled" else net
    MaskBinding(called, optimizer, masks)
    called = called if first == "compiled" else COMPILED[how](net)
    for training in (True, True, False):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1)
            (w, b), (v, c) = ((m.weight * masks[f"{i}.weight"], m.bias) for i, m in layers(net))
            expected = linear(torch.tanh(linear(INPUTS, w, b)), v, c)
        with torch.set_grad_enabled(training):
            outputs = called(INPUTS)
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-13)
        if training:
            cross_entropy(outputs, TARGETS).backward()
            optimizer.step()
        assert not wrong(net, masks)


def layers(net: nn.Sequential) -> list[tuple[int, nn.Linear]]:
    return [(0, net[0]), (2, net[2])]


@quiet
def test_code_compiled_before_the_binding_is_found_out() -> None:
    """A graph that knows nothing of masks cannot look; its first gradient says so."""
    torch._dynamo.reset()
    net = network()
    compiled = COMPILED["wrapped"](net)
    loss_of(compiled).backward()
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), find_masks(net, 0.5))
    loss_of(compiled).backward()
    assert net[0].weight.grad[0].any()
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(
        BoxwoodError, match=r"23 pruned weights of '0\.weight' to be zero in a back"
    ):
        loss_of(compiled).backward()


# Looks


def test_parts_of_a_network_look_as_well() -> None:
    """A layer that is called by itself reads zeros; attention reads a layer without calling it."""
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.MultiheadAttention(4, 2))
    masks = find_masks(net, 0.5, layers=Named(("*weight",)))
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), masks)
    for part in (net[0][0], net[0], lambda x: net[1](x, x, x)):
        load = {n: torch.ones_like(p) for n, p in net.state_dict().items()}
        net.load_state_dict(load)
        part(torch.ones(1, 4))
    assert not wrong(net[1], {n[2:]: m for n, m in masks.items() if n.startswith("1.")})
    net.load_state_dict(load)
    net[0](torch.ones(1, 4))
    assert not wrong(net, {"0.0.weight": masks["0.0.weight"]})


def test_weights_that_cannot_be_read_are_projected_every_time(monkeypatch) -> None:
    """As on a GPU: what is written through ``.data`` is not found out, and not read either."""
    monkeypatch.setattr(HeldWeight, "_choose_offsets", lambda self: None)
    net = network()
    masks = find_masks(net, 0.5)
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), masks)
    for parameter in net.parameters():
        parameter.data.add_(1)
    version = net[0].weight._version
    first, second = loss_of(net), loss_of(net)  # two passes before one backward pass
    (first + second).backward()
    assert not wrong(net, masks)
    assert net[0].weight._version == version


def test_a_look_changes_nothing_that_is_right() -> None:
    """Several forward passes before one backward pass, and dropout-like recomputation, still go."""
    net = network()
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), find_masks(net, 0.5))
    version = net[0].weight._version
    again = torch.utils.checkpoint.checkpoint(net, INPUTS, use_reentrant=False)
    (again.sum() + loss_of(net) + loss_of(net)).backward()
    assert net[0].weight._version == version


@pytest.mark.parametrize("swap", [False, True])
def test_gradients_are_masked_after_a_move(swap: bool) -> None:
    """Clipping sees no pruned gradients of a network that was converted, in either way of torch."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        net = network(torch.float32)
        masks, optimizer = find_masks(net, 0.5), optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        MaskBinding(net, optimizer, masks)
        net.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(net).backward()
        for name, mask in masks.items():
            assert not net.get_parameter(name).grad[~mask].any()
            assert net.get_parameter(name).grad[mask].any()
        optimizer.step()
        assert not wrong(net, masks)


def test_a_network_keeps_no_optimizer() -> None:
    """The memory of an optimizer is free when its user is done with it."""
    net = network()
    optimizer = optim.Adam(net.parameters())
    MaskBinding(net, optimizer, find_masks(net, 0.5))
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    loss_of(net).backward()


def test_weights_of_an_inner_loop_are_masked_and_given_back() -> None:
    """Their gradients at pruned places are zero, and the caller's tensors are as they were."""
    net = network()
    masks = find_masks(net, 0.5)
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), masks)
    fast = {name: p.detach() + 1 for name, p in net.named_parameters()}
    given = dict(fast)
    outputs = torch.func.functional_call(net, fast, (INPUTS,))
    assert all(fast[name] is tensor for name, tensor in given.items())

    def by_hand(weights: dict[str, Tensor]) -> Tensor:
        w, b, v, c = (t * masks[n] if n in masks else t for n, t in weights.items())
        return linear(torch.tanh(linear(INPUTS, w, b)), v, c)

    def held(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, weights, (INPUTS,))

    torch.testing.assert_close(outputs, by_hand(fast))
    ours = torch.func.grad(lambda weights: cross_entropy(held(weights), TARGETS))(fast)
    theirs = torch.func.grad(lambda weights: cross_entropy(by_hand(weights), TARGETS))(fast)
    for name in fast:
        torch.testing.assert_close(ours[name], theirs[name])
    stacked = {name: torch.stack([tensor, 2 * tensor]) for name, tensor in fast.items()}
    torch.testing.assert_close(torch.func.vmap(held)(stacked)[0], outputs)
    assert not wrong(net, masks)


# Copies and averages


def test_an_average_says_that_it_is_not_as_sparse() -> None:
    """Once, when it is read; projected, it says nothing."""
    net = network()
    held = MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), find_masks(net, 0.1))
    average, other, kept = AveragedModel(net), AveragedModel(net), copy.deepcopy(net)
    average.update_parameters(net)
    other.update_parameters(net)
    held.replace_masks(find_masks(net, 0.8))
    apply_masks_(other.module, held.masks)
    with torch.no_grad():
        other(INPUTS)
        kept(INPUTS)
        with pytest.warns(UserWarning, match=r"copy of a network under masks .* call boxwood\.app"):
            average(INPUTS)
        average(INPUTS)
    assert wrong(average.module, held.masks)
    assert not wrong(other.module, held.masks)


def _in_place(mine: Tensor, theirs: Tensor) -> None:
    with torch.no_grad():
        mine.lerp_(theirs, 0.5)


def _through_data(mine: Tensor, theirs: Tensor) -> None:
    mine.data.mul_(0.5).add_(theirs.data, alpha=0.5)


def _other_data(mine: Tensor, theirs: Tensor) -> None:
    mine.data = 0.5 * mine.data + 0.5 * theirs.data


@pytest.mark.parametrize("read", ["call", "save"])
@pytest.mark.parametrize("update", [_in_place, _through_data, _other_data])
def test_averages_of_any_kind_say_that_they_are_not_as_sparse(update, read: str) -> None:
    """However the average is written; a copy that was not written says nothing, wherever it goes."""
    net = network()
    held = MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), find_masks(net, 0.1))
    average, kept, moved = (copy.deepcopy(net).eval() for _ in range(3))
    moved.double()
    for sparsity in (0.5, 0.8):
        held.replace_masks(find_masks(net, sparsity))
        for mine, theirs in zip(average.parameters(), net.parameters(), strict=True):
            update(mine, theirs)
    with torch.no_grad():
        for _ in range(5):
            kept(INPUTS)
            kept.state_dict()
            moved(INPUTS.double())
        with pytest.warns(UserWarning, match=r"copy of a network under masks .* call boxwood\.app"):
            average(INPUTS) if read == "call" else average.state_dict()


def test_a_copy_that_is_trained_is_free() -> None:
    """Also when it is evaluated later."""
    net = network()
    masks = find_masks(net, 0.5)
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), masks)
    twin = copy.deepcopy(net)
    optimizer = optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        loss_of(twin).backward()
        optimizer.step()
    with torch.no_grad():
        loss_of(twin)
        copy.deepcopy(twin)(INPUTS)
    assert wrong(twin, masks)


def test_a_pickle_holds_nothing_of_boxwood() -> None:
    """A network that is saved whole loads where Boxwood is not installed, and is free."""
    net = network()
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), find_masks(net, 0.5))
    file = io.BytesIO()
    torch.save(net, file)
    assert b"boxwood" not in file.getvalue()
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(INPUTS), net(INPUTS))
    assert list(loaded.state_dict()) == list(net.state_dict())


def test_a_smaller_network_is_made_of_one_under_masks() -> None:
    """Copies that are made for surgery and its check say nothing, and no hook stays in them."""
    net = network(torch.float32)
    masks = find_masks(net, 0.5)
    MaskBinding(net, optim.SGD(net.parameters(), lr=0.1), masks)
    inputs = INPUTS.float()
    for each in (net, copy.deepcopy(net)):
        small = shrink(each, select_units(find_units(each, inputs), 0.5))
        assert not any(module._forward_pre_hooks for module in small.modules())
        assert not any(module._state_dict_pre_hooks for module in small.modules())


# Optimizers


def test_every_masked_parameter_needs_an_optimizer() -> None:
    """Those without are named; frozen ones need none, and say so when they begin to learn."""
    net = network()
    masks = find_masks(net, 0.5)
    some = optim.SGD(net[2].parameters(), lr=0.1)
    with pytest.raises(
        BoxwoodError, match=r"got only some of them, without 0\.weight; give a list of all"
    ):
        MaskBinding(net, some, masks)
    net[0].requires_grad_(requires_grad=False)
    MaskBinding(net, some, masks)
    loss_of(net).backward()
    # Evidence makes all weights differentiable for a while, and trains none of them.
    find_masks(net, 0.8, criterion=snip, loss=cross_entropy, batches=[(INPUTS, TARGETS)])
    net[0].requires_grad_(requires_grad=True)
    find_masks(net, 0.8, criterion=snip, loss=cross_entropy, batches=[(INPUTS, TARGETS)])
    loss = loss_of(net)
    with pytest.raises(
        BoxwoodError, match=r"got only some of them, without 0\.weight; give a list of all"
    ):
        loss.backward()
    some.add_param_group({"params": list(net[0].parameters())})
    loss_of(net).backward()
    assert not net[0].weight.grad[~masks["0.weight"]].any()


def test_what_never_steps_is_no_optimizer() -> None:
    """The refusal names the class."""
    net = network()
    with pytest.raises(BoxwoodError, match="as the second argument, got a value of type dict"):
        MaskBinding(net, {}, find_masks(net, 0.5))
    with pytest.raises(
        BoxwoodError, match="a wrapper that holds one in an attribute, got a value of type object"
    ):
        MaskBinding(net, object(), find_masks(net, 0.5))


def test_steps_that_no_hook_sees_end_a_schedule() -> None:
    """An optimizer that was not bound trains the network: the schedule would stand still."""
    net = network()
    SparseTraining(
        net, optim.SGD(net.parameters(), lr=0.1), Gradual(schedule=Cubic(final=0.5, end=10))
    )
    other = optim.SGD(net.parameters(), lr=0.1)

    def train() -> None:
        for _ in range(30):
            other.zero_grad()
            loss_of(net).backward()
            other.step()

    with pytest.raises(BoxwoodError, match="got 20 changes of the weights after backward passes"):
        train()


def test_lbfgs_starts_afresh_under_new_masks() -> None:
    """It remembers all weights as one vector; the same masks again take nothing from it."""
    net = network()
    optimizer = optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe", max_iter=5)
    dense = {
        n: torch.ones_like(p, dtype=torch.bool) for n, p in net.named_parameters() if p.dim() > 1
    }
    held = MaskBinding(net, optimizer, dense)
    optimizer.step(lambda: closure(net))
    memory = len(optimizer.state[net[0].weight]["old_dirs"])
    held.replace_masks(dense)
    held.load_state_dict(dense)
    assert memory == len(optimizer.state[net[0].weight]["old_dirs"]) > 0
    held.replace_masks(masks := find_masks(net, 0.6))
    fresh = copy.deepcopy(net)
    other = optim.LBFGS(fresh.parameters(), line_search_fn="strong_wolfe", max_iter=5)
    MaskBinding(fresh, other, masks)
    for _ in range(2):
        optimizer.step(lambda: closure(net))
        other.step(lambda: closure(fresh))
    for one, two in zip(net.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)


def closure(net: nn.Module) -> Tensor:
    net.zero_grad()
    loss = loss_of(net)
    loss.backward()
    return loss


def test_codes_of_a_quantised_memory_are_left_alone() -> None:
    """A zero code need not mean zero."""
    net = network()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    codes = torch.full((8, 6), 7, dtype=torch.uint8)
    optimizer.state[net[0].weight]["codes"] = codes
    MaskBinding(net, optimizer, find_masks(net, 0.5))
    assert bool((codes == 7).all())


# Scalers and accumulation


def amp(
    fused: bool, policy: object, overflowing: tuple[int, ...]
) -> tuple[SparseTraining, nn.Module]:
    net = network(torch.float32)
    optimizer = optim.AdamW(net.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    training = SparseTraining(net, optimizer, policy)
    for step in range(12):
        optimizer.zero_grad()
        loss = loss_of(net) * (float("inf") if step in overflowing else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return training, net


@pytest.mark.parametrize(
    "policy",
    [
        RigL(sparsity=0.5, until=100, every=2),
        Gradual(schedule=Cubic(final=0.6, end=8), every=2),
    ],
)
def test_a_step_that_a_scaler_skips_is_no_step(policy: object) -> None:
    """Inside the kernel of a fused optimizer or before: the masks and the count are the same."""
    (one, _), (other, _) = (amp(fused, policy, (1, 3, 4)) for fused in (False, True))
    assert one.steps == other.steps == 9
    for name, mask in one.masks.items():
        assert torch.equal(mask, other.masks[name])


def test_movement_under_a_scaler() -> None:
    """A fused optimizer is given scaled gradients, and overflows that it skips."""
    found = []
    for fused in (False, True):
        net = network(torch.float32)
        optimizer = optim.SGD(net.parameters(), lr=0.1, fused=fused)
        track = TrackMovement(optimizer, {"0.weight": net[0].weight})
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(net) * (float("inf") if step == 2 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        found.append(track.evidence()["weight_movement"]["0.weight"])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("to_none", [True, False])
def test_growth_by_accumulated_gradients(to_none: bool) -> None:
    """RigL grows by the gradient of all micro-batches together, as from one large batch."""
    found = []
    for parts in (1, 8):
        net = network()
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        training = SparseTraining(net, optimizer, RigL(sparsity=0.7, until=100, every=2))
        for _ in range(9):
            optimizer.zero_grad(set_to_none=to_none)
            for part in range(parts):
                size = 16 // parts
                (loss_of(net, slice(part * size, (part + 1) * size)) / parts).backward()
            optimizer.step()
        found.append(training.masks)
    for name, mask in found[0].items():
        assert torch.equal(mask, found[1][name])


def test_an_overflow_at_a_pruned_weight_alone_leaves_the_masks() -> None:
    """Nobody else has seen it; the update is left out, with a warning, and training goes on."""
    net = nn.Linear(2, 2, bias=False)
    mask = torch.tensor([[True, False], [True, False]])
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    policy = RigL(sparsity=0.5, until=10, every=1)
    training = SparseTraining(net, optimizer, policy, state={"weight": mask})
    net(torch.tensor([[1.0, float("inf")]])).backward(torch.ones(1, 2))
    with pytest.warns(
        UserWarning, match="finite gradients of the pruned weights, got others at st"
    ):
        optimizer.step()
    assert torch.equal(training.masks["weight"], mask)
    assert training.steps == 1
    assert net.weight.isfinite().all()


# Kinds of parameters


def complex_network(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, dtype=dtype), nn.Linear(8, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_are_pruned_by_their_size_and_held(dtype: torch.dtype) -> None:
    """Both parts of a pruned weight are positive zeros; kept ones train as under w · mask."""
    net = complex_network(dtype)
    masks = find_masks(net, 0.5)
    sizes = torch.cat([net.get_parameter(n).detach().abs().flatten() for n in masks])
    chosen = torch.cat([m.flatten() for m in masks.values()])
    assert sizes[chosen].min() >= sizes[~chosen].max()
    twin = copy.deepcopy(net)
    apply_masks_(twin, masks)
    optimizers = [optim.Adam(each.parameters(), lr=0.05) for each in (net, twin)]
    held = MaskBinding(net, optimizers[0], masks)
    for _ in range(4):
        for each, optimizer in zip((net, twin), optimizers, strict=True):
            optimizer.zero_grad()
            each(INPUTS.to(dtype)).abs().square().mean().backward()
            if each is twin:
                for name, mask in masks.items():
                    each.get_parameter(name).grad.masked_fill_(~mask, 0)
            optimizer.step()
    for name, mask in held.masks.items():
        assert torch.equal(mask, masks[name])
        pruned = torch.view_as_real(net.get_parameter(name).detach()[~mask])
        assert not pruned.any()
        assert not torch.signbit(pruned).any()
        torch.testing.assert_close(net.get_parameter(name), twin.get_parameter(name))


def test_complex_weights_and_criteria() -> None:
    """Distances of filters are those of complex vectors; evidence by gradients is refused."""
    filters = torch.tensor([[3 + 4j, 0], [0, 0], [0, 0]])
    assert geometric_median(filters).flatten().tolist() == [10, 5, 5]
    net = complex_network(torch.complex64)
    kept = find_masks(
        net, 0.5, criterion=geometric_median, granularity=Slices((0,)), allocation=uniform
    )
    assert all(int(m.any(1).sum()) < len(m) for m in kept.values())
    with pytest.raises(
        BoxwoodError, match=r"Expected real weights for the evidence .* '0\.weight'"
    ):
        find_masks(
            net, 0.5, criterion=taylor, batches=[(INPUTS.cfloat(), TARGETS)], loss=cross_entropy
        )


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.layer(inputs)


def test_parameters_without_dimensions() -> None:
    """A mask over one number keeps the optimizer's count of steps, and forgets it whole."""
    net = Scaled()
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    held = MaskBinding(net, optimizer, {"scale": torch.tensor(True)})
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(net).backward()
        optimizer.step()
    held.replace_masks({"scale": torch.tensor(True)})
    assert optimizer.state[net.scale]["step"] == 3
    held.replace_masks({"scale": torch.tensor(False)})
    assert not optimizer.state[net.scale]
    for _ in range(2):
        loss_of(net).backward()
        optimizer.step()
    assert net.scale.item() == 0
    apply_masks_(net, {"scale": torch.tensor(False)})
    assert list(find_masks(net, 0.9, layers=Named(("scale", "layer.weight")))) == [
        "scale",
        "layer.weight",
    ]


def test_other_tensors_are_refused_by_name() -> None:
    """Inference tensors count no changes; sparse parameters have no places for masks."""
    with torch.inference_mode():
        net = network()
    mask = {"0.weight": torch.ones(8, 6, dtype=torch.bool)}
    with pytest.raises(BoxwoodError, match=r"Expected '0\.weight' to .*, got an inference tensor"):
        MaskBinding(net, optim.SGD([torch.zeros(1)]), mask)
    net = network()
    net[0].weight = nn.Parameter(net[0].weight.detach().to_sparse(), requires_grad=False)
    with pytest.raises(BoxwoodError, match=r"Expected '0\.weight' to .*, got a torch\.sparse_coo"):
        MaskBinding(net, optim.SGD(net[2].parameters()), mask)


def test_masks_that_never_change_need_no_captured_steps(monkeypatch) -> None:
    """A schedule inside a CUDA graph would stand still, and is refused; fixed masks are not."""
    monkeypatch.setattr(sparse_training, "_is_captured", lambda weight: True)
    for policy, refused in (
        (Static(sparsity=0.5), False),
        (RigL(sparsity=0.5, until=9, every=5), True),
    ):
        net = network()
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        SparseTraining(net, optimizer, policy)
        loss_of(net).backward()
        if refused:
            with pytest.raises(BoxwoodError, match="got one that is captured into a CUDA graph"):
                optimizer.step()
        else:
            optimizer.step()
