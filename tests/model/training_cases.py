"""Optimizers, wrappers and ways of stepping, and what may happen to a network while it is trained.

To add one, add a row to `WAYS` or `EVENTS`; every way meets every event.
"""

import copy
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import Named

Iterate = Callable[["Loop"], None]
Way = Callable[[nn.Module], tuple[Any, Iterate]]
"""Given a network: what masks are bound under, and how one iteration goes."""


class Recorded(nn.Module):
    """Count, whenever a layer reads its weight, how many of those pruned are not zero."""

    masks: Callable[[], dict[str, Tensor]] = staticmethod(dict)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.seen: list[int] = []

    def record(self, weight: Tensor) -> None:
        """Count."""
        mask = self.masks().get(self.name)
        if mask is not None:
            self.seen.append(int((weight.detach()[~mask] != 0).sum()))


class Linear(Recorded):
    """A linear layer that records."""

    def __init__(self, name: str, inputs: int, outputs: int) -> None:
        super().__init__(name)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / 2)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        self.record(self.weight)
        return nn.functional.linear(inputs.to(self.weight.dtype), self.weight, self.bias)


class Embedding(Recorded):
    """An embedding with sparse gradients that records."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.weight = nn.Parameter(torch.randn(9, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        self.record(self.weight)
        places = inputs.mul(3).long() % 9
        return nn.functional.embedding(places, self.weight, sparse=True).flatten(1)


def network(*, sparse: bool = False) -> nn.Sequential:
    """Three layers; or an embedding and one."""
    torch.manual_seed(0)
    if sparse:
        return nn.Sequential(Embedding("0.weight"), Linear("1.weight", 10, 3))
    hidden = nn.Sequential(Linear("2.0.weight", 6, 6), nn.Tanh())
    return nn.Sequential(Linear("0.weight", 5, 6), nn.Tanh(), hidden, Linear("3.weight", 6, 3))


WHERE = Named(("*weight",))


def masks_of(net: nn.Module, sparsity: float = 0.5) -> dict[str, Tensor]:
    """Masks of all matrices."""
    return find_masks(net, sparsity, layers=WHERE)


@dataclass
class Loop:
    """One network in training.

    Args:
        net: the network.
        held: what holds the masks.
        bound: what they are bound under.
        before: called before every forward pass.
        call: what runs the network.
    """

    net: nn.Module
    held: Any
    bound: Any
    iterate: Iterate
    before: Callable[[], None] = field(default=lambda: None)
    call: Callable[[Tensor], Tensor] | None = None

    def loss(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(8, 5, generator=generator)
        self.before()
        outputs = (self.call or self.net)(inputs)
        return cross_entropy(outputs.float(), torch.arange(8) % 3)

    def closure(self) -> Tensor:
        self.net.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def step(self) -> None:
        self.iterate(self)

    def seen(self) -> list[int]:
        return [n for m in self.net.modules() if isinstance(m, Recorded) for n in m.seen]


# Ways of training


def one(make: Callable[..., Optimizer], **settings: Any) -> Way:
    """One optimizer over all parameters, given a closure as all of them take one."""

    def way(net: nn.Module) -> tuple[Any, Iterate]:
        optimizer = make(net.parameters(), **settings)
        return optimizer, lambda loop: optimizer.step(loop.closure) and None

    return way


class ThroughData(Optimizer):
    """Old code: momentum and decay written through ``.data``, with noise on every weight."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        with torch.enable_grad():
            closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.mul_(0.99).add_(p.grad.data, alpha=-0.1).add_(0.01)


class Sharpness(Optimizer):
    """Sharpness-aware minimisation: up the gradient, then down from where one was."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.base_optimizer = optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(torch.ones_like(p), alpha=0.05)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        closure = torch.enable_grad()(closure)
        closure()
        self.first_step()
        closure()
        self.second_step()


def two_steps(net: nn.Module) -> tuple[Any, Iterate]:
    """The same, its halves called by the loop."""
    optimizer = Sharpness(net.parameters())

    def iterate(loop: Loop) -> None:
        loop.closure()
        optimizer.first_step()
        loop.closure()
        optimizer.second_step()

    return optimizer, iterate


class Lookahead(Optimizer):
    """Slow weights that follow an optimizer's, and were there before anything was pruned."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        super().__init__([p for g in optimizer.param_groups for p in g["params"]], {})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["slow"] = p.detach().clone() + 1

    def step(self, closure: Any = None) -> None:
        self.optimizer.step(closure)
        for p, state in self.state.items():
            state["slow"] = state["slow"].to(p.dtype)
            state["slow"].add_(p.data - state["slow"], alpha=0.5)
            p.data.copy_(state["slow"])


class Wrapper:
    """What only looks like an optimizer, as wrappers of trainers do."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> None:
        self.optimizer.step(closure)


class Derived(optim.Adam):
    """A step that calls the step of its base class, where hooks fire as well."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def wrapped(wrap: Callable[[Optimizer], Any]) -> Way:
    def way(net: nn.Module) -> tuple[Any, Iterate]:
        optimizer = wrap(optim.AdamW(net.parameters(), lr=0.05))
        return optimizer, lambda loop: optimizer.step(loop.closure) and None

    return way


def accelerated(net: nn.Module) -> tuple[Any, Iterate]:
    """The optimizer of accelerate."""
    from accelerate import Accelerator

    return wrapped(Accelerator(cpu=True).prepare_optimizer)(net)


def derived(net: nn.Module) -> tuple[Any, Iterate]:
    optim.Adam([torch.zeros(1, requires_grad=True)])  # from now on hooks of the base class fire
    return one(Derived, lr=0.05)(net)


def muon(net: nn.Module) -> tuple[Any, Iterate]:
    """Muon for matrices, AdamW for the rest."""
    first = optim.Muon([p for p in net.parameters() if p.dim() == 2], lr=0.02)
    return in_turn(first, optim.AdamW([p for p in net.parameters() if p.dim() != 2], lr=0.05))


def sparse_embedding(net: nn.Module) -> tuple[Any, Iterate]:
    """SparseAdam for an embedding, AdamW for the rest."""
    first, *rest = net.parameters()
    return in_turn(optim.SparseAdam([first], lr=0.05), optim.AdamW(rest, lr=0.05))


def halves(net: nn.Module) -> tuple[Any, Iterate]:
    """Two optimizers that both have masked parameters."""
    first, second, *rest = net.parameters()
    sgd = optim.SGD([first, second], lr=0.1, momentum=0.9)
    return in_turn(sgd, optim.Adam(rest, lr=0.05))


def in_turn(*optimizers: Optimizer) -> tuple[Any, Iterate]:
    def iterate(loop: Loop) -> None:
        loop.closure()
        for each in optimizers:
            each.step()

    return list(optimizers), iterate


def in_backward(net: nn.Module) -> tuple[Any, Iterate]:
    """An optimizer for each parameter, which steps as soon as the gradient is there."""
    each = {p: optim.SGD([p], lr=0.1, momentum=0.9) for p in net.parameters()}

    def step(p: nn.Parameter) -> None:
        each[p].step()
        p.grad = None

    for p in each:
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(step)
    return list(each.values()), lambda loop: loop.closure() and None


def scaled(*, fused: bool) -> Way:
    """A scaler; the second of every three losses overflows."""

    def way(net: nn.Module) -> tuple[Any, Iterate]:
        optimizer = optim.AdamW(net.parameters(), lr=0.05, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        count = iter(range(10**6))

        def iterate(loop: Loop) -> None:
            loop.net.zero_grad()
            factor = float("inf") if next(count) % 3 == 1 else 1.0
            scaler.scale(loop.loss() * factor).backward()
            scaler.step(optimizer)
            scaler.update()

        return optimizer, iterate

    return way


def accumulated(net: nn.Module) -> tuple[Any, Iterate]:
    """Three backward passes to a step, and clipping."""
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)

    def iterate(loop: Loop) -> None:
        optimizer.zero_grad()
        for _ in range(3):
            loop.loss().backward()
        nn.utils.clip_grad_norm_(loop.net.parameters(), 0.1)
        optimizer.step()

    return optimizer, iterate


def by_hand(net: nn.Module) -> tuple[Any, Iterate]:
    """Gradients from `torch.autograd.grad`, put where the optimizer takes them from."""
    optimizer = optim.Adam(net.parameters(), lr=0.05)

    def iterate(loop: Loop) -> None:
        learning = [p for p in loop.net.parameters() if p.requires_grad]
        found = torch.autograd.grad(loop.loss(), learning)
        for p, gradient in zip(learning, found, strict=True):
            p.grad = gradient
        optimizer.step()

    return optimizer, iterate


def closed_over(net: nn.Module) -> tuple[Any, Iterate]:
    """Weights moved by the loop itself; the optimizer that was bound steps only now and then."""
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    def iterate(loop: Loop) -> None:
        loop.closure()
        optimizer.step()
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.99).add_(0.01)

    return optimizer, iterate


WAYS: dict[str, Way] = {
    "SGD": one(optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD foreach": one(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=True),
    "SGD fused": one(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "Adam": one(optim.Adam, lr=0.05, weight_decay=0.01),
    "AdamW amsgrad": one(optim.AdamW, lr=0.05, weight_decay=0.1, amsgrad=True, foreach=False),
    "AdamW fused": one(optim.AdamW, lr=0.05, weight_decay=0.1, fused=True),
    "Adam of a class derived from it": derived,
    "NAdam": one(optim.NAdam, lr=0.05, weight_decay=0.01, decoupled_weight_decay=True),
    "RAdam": one(optim.RAdam, lr=0.05, weight_decay=0.01),
    "Adamax": one(optim.Adamax, lr=0.05, weight_decay=0.01),
    "Adadelta": one(optim.Adadelta, weight_decay=0.01),
    "Adagrad": one(optim.Adagrad, lr=0.05, weight_decay=0.01, initial_accumulator_value=0.1),
    "ASGD": one(optim.ASGD, lr=0.05, weight_decay=0.01),
    "RMSprop": one(optim.RMSprop, lr=0.01, momentum=0.9, centered=True, weight_decay=0.01),
    "Rprop": one(optim.Rprop, lr=0.01),
    "Adafactor": one(optim.Adafactor, lr=0.05, weight_decay=0.01),
    "L-BFGS": one(optim.LBFGS, lr=0.5, max_iter=4),
    "L-BFGS strong Wolfe": one(optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"),
    "Muon and AdamW": muon,
    "SparseAdam and AdamW": sparse_embedding,
    "two optimizers": halves,
    "one optimizer per parameter, in the backward pass": in_backward,
    "SAM": one(Sharpness),
    "SAM, two steps": two_steps,
    "Lookahead": wrapped(Lookahead),
    "wrapper": wrapped(Wrapper),
    "accelerate": accelerated,
    "written through .data": one(ThroughData),
    "GradScaler": scaled(fused=False),
    "GradScaler fused": scaled(fused=True),
    "accumulated and clipped": accumulated,
    "gradients by hand": by_hand,
    "weights moved by the loop as well": closed_over,
}


# What may happen


@dataclass(frozen=True)
class Event:
    """Something that happens to a network under masks, before its third iteration.

    Args:
        happen: does it.
        refused: whether the next forward pass is refused, rather than right.
        first: it happens before the first iteration, as the optimizer's memory would not survive.
        frozen: the names of layers that do not learn when the masks are bound.
    """

    happen: Callable[[Loop], None]
    refused: bool = False
    first: bool = False
    frozen: tuple[str, ...] = ()


def nothing(loop: Loop) -> None:
    pass


def load(loop: Loop) -> None:
    loop.net.load_state_dict({n: torch.ones_like(p) for n, p in loop.net.state_dict().items()})


def load_by_assignment(loop: Loop) -> None:
    dense = {n: torch.ones_like(p) for n, p in loop.net.state_dict().items()}
    loop.net.load_state_dict(dense, assign=True)


def swap_averages(loop: Loop) -> None:
    """As callbacks do: the average goes in through ``.data``, is evaluated, and goes out."""
    average = AveragedModel(loop.net)
    with torch.no_grad():
        for p in average.parameters():
            p.fill_(0.3)
    for _ in range(2):
        for p, q in zip(loop.net.parameters(), average.module.parameters(), strict=True):
            kept = p.data.clone()
            p.data.copy_(q.data)
            q.data.copy_(kept)
        loop.net.eval()
        with torch.no_grad():
            loop.loss()
        loop.net.train()


def noise(loop: Loop) -> None:
    """From now on noise is added before every forward pass, through ``.data``."""

    def add() -> None:
        for p in loop.net.parameters():
            p.data.add_(0.1)

    loop.before = add


def move(loop: Loop) -> None:
    """As a move to another device: the parameters' data are replaced."""
    for p in loop.net.parameters():
        p.data = p.data.clone() + 1


def transpose_memory(loop: Loop) -> None:
    """Another layout in memory."""
    for p in loop.net.parameters():
        if p.dim() == 2:
            p.data = (p.data.t().contiguous() + 1).t()


def unfreeze(loop: Loop) -> None:
    loop.net.requires_grad_(True)


def replace_parameter(loop: Loop) -> None:
    layer = loop.net[-1]
    layer.weight = nn.Parameter(torch.ones_like(layer.weight))


def replace_layer(loop: Loop) -> None:
    old = loop.net[-1]
    loop.net[-1] = Linear(old.name, old.weight.shape[1], old.weight.shape[0])


class Plus(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 1


def reparametrise(loop: Loop) -> None:
    parametrize.register_parametrization(loop.net[-1], "weight", Plus())


def copy_and_save(loop: Loop) -> None:
    """A copy is free, a pickle knows nothing of masks, and both leave the network alone."""
    with torch.no_grad():
        for p in loop.net.parameters():
            p.add_(1)
    saved = loop.net.state_dict()
    for name, mask in loop.held.masks.items():
        assert not saved[name][~mask].any()
    twin = copy.deepcopy(loop.net)
    cross_entropy(twin(torch.ones(2, 5)).float(), torch.tensor([0, 1])).backward()
    optim.SGD(twin.parameters(), lr=0.1).step()
    for module in twin.modules():
        vars(module).pop("masks", None)  # cannot be pickled, as it is the test's
    file = io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(torch.ones(2, 5)), twin(torch.ones(2, 5)))
    assert list(loaded.state_dict()) == list(saved)
    assert b"boxwood" not in file.getvalue()


def replace_masks(loop: Loop) -> None:
    loop.held.replace_masks({n: m.roll(1) for n, m in loop.held.masks.items()})


def reload_masks(loop: Loop) -> None:
    loop.held.load_state_dict(masks_of(loop.net, 0.8))


def another_optimizer(loop: Loop) -> None:
    other = optim.Adam(loop.net.parameters(), lr=0.1, weight_decay=0.1)
    loop.before = partial(_step_by, other, loop)


def _step_by(other: Optimizer, loop: Loop) -> None:
    before = {p: p.grad for p in loop.net.parameters()}
    for p in before:
        p.grad = torch.ones_like(p)
    other.step()
    for p, gradient in before.items():
        p.grad = gradient


def stand_in(loop: Loop) -> None:
    """Weights of an inner loop stand in for the parameters, as in meta-learning."""

    def call(inputs: Tensor) -> Tensor:
        fast = {n: p + 0.1 for n, p in loop.net.named_parameters()}
        return functional_call(loop.net, fast, (inputs,))

    loop.call = call


@torch.inference_mode()
def write_in_inference(loop: Loop) -> None:
    """Nothing is counted in inference mode."""
    for p in loop.net.parameters():
        p.add_(1)
    loop.loss()


EVENTS: dict[str, Event] = {
    "nothing": Event(nothing),
    "a dense checkpoint is loaded": Event(load),
    "a checkpoint is loaded by assignment": Event(load_by_assignment, refused=True),
    "averages are swapped in": Event(swap_averages),
    "noise is added through .data": Event(noise),
    "data are moved": Event(move),
    "data get another layout": Event(transpose_memory, first=True),
    "to double precision": Event(lambda loop: loop.net.double() and None, first=True),
    "to bfloat16": Event(lambda loop: loop.net.bfloat16() and None, first=True),
    "layers are unfrozen": Event(unfreeze, frozen=("0",)),
    "a parameter is replaced": Event(replace_parameter, refused=True),
    "a layer is replaced": Event(replace_layer, refused=True),
    "a layer is reparametrised": Event(reparametrise, refused=True),
    "the network is copied and saved": Event(copy_and_save),
    "masks are replaced": Event(replace_masks),
    "masks are loaded": Event(reload_masks),
    "another optimizer steps": Event(another_optimizer),
    "other weights stand in": Event(stand_in),
    "weights are written in inference mode": Event(write_in_inference),
}

IMPOSSIBLE: dict[tuple[str, str], tuple[type[Exception], str]] = {
    # Fused SGD wants momentum of all parameters or of none.
    ("SGD fused", "layers are unfrozen"): (TypeError, "expected Tensor as element 0"),
    # L-BFGS flattens gradients by `view`.
    ("L-BFGS", "data get another layout"): (RuntimeError, "view size is not compatible"),
    ("L-BFGS strong Wolfe", "data get another layout"): (RuntimeError, "view size is not compat"),
    # Autograd cannot fill a sparse gradient.
    ("SparseAdam and AdamW", "other weights stand in"): (RuntimeError, "unsupported memory format"),
}
"""Pairs that torch itself does not allow, with its error."""
