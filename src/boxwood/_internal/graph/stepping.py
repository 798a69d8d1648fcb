"""Run a network up to some of its layers, and continue from there after they have changed."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from boxwood._internal.graph.examples import called

LayerCalls = dict[str, list[tuple[Tensor, Tensor]]]
"""By layer: input and output of each of its calls in one pass."""


class _Enough(BaseException):
    """Ends a pass; code that catches every Exception lets it through."""


@dataclass(frozen=True)
class _Pass:
    """What one whole pass showed.

    Args:
        calls: how often each layer and block was called, in the order of first calls.
        ended: the blocks that had ended when it was first called.
        alike: by layer, the layer before it, where both were called with the very same tensor.
    """

    calls: dict[str, int]
    ended: dict[str, tuple[str, ...]]
    alike: dict[str, str]


class Steps:
    """Passes of one network over a few batches, each of which begins where the last one got to.

    Blocks are the items of lists of modules (``nn.ModuleList``, ``nn.Sequential``) that a pass calls
    once each, one after the other. What a finished block returned is kept, so that a pass for the
    layers of the tenth block skips the nine before it: all passes over a deep network together cost
    about as much as a few whole ones, where from the start they would cost the square.

    That skipping changes nothing is checked when it begins: what each block is called with must be
    the same to the last bit with the blocks before it skipped. Where it is not (a later block reads
    what a much earlier one returned), or there are no blocks, passes begin at the start.

    Args:
        network: in evaluation; its layers may be changed after the last block that `calls` reached.
        batches: inputs of several passes.
        layers: names of those that will be looked at.
        call: runs a network on inputs.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
        >>> with torch.no_grad():
        ...     for each in net:
        ...         _ = each.weight.fill_(2), each.bias.zero_()
        ...     steps = Steps(net, [torch.ones(1, 1)], ["0", "2"])
        ...     [(x.item(), y.item()) for x, y in steps.calls(["2"], 0)["2"]]
        [(4.0, 8.0)]
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Sequence[Any],
        layers: Sequence[str],
        call: Callable[[nn.Module, Any], Any] = called,
    ) -> None:
        self._network, self._batches, self._call = network, batches, call
        self._layers = frozenset(layers)
        self._outputs: list[Any] = []  # of the last finished block, by batch
        self._finished = 0
        items = _outermost_items(network)
        self._passes = [self._whole_pass(batch, items, layers) for batch in batches]
        once = [n for n in items if all(each.calls.get(n) == 1 for each in self._passes)]
        blocks = sorted(once, key=lambda name: len(self._passes[0].ended[name]))
        self._blocks = tuple(blocks) if self._may_skip(blocks) else ()

    @property
    def order(self) -> list[str]:
        """The layers in the order of their first calls; those that are never called are left out."""
        return [name for name in self._passes[0].calls if name in self._layers]

    def together(self, names: Sequence[str]) -> list[list[str]]:
        """Group layers that follow each other and read the very same tensor, once in each pass.

        Args:
            names: layers, in their order.

        Example:
            >>> class Gate(nn.Module):
            ...     def __init__(self):
            ...         super().__init__()
            ...         self.a, self.b, self.c = (nn.Linear(1, 1) for _ in range(3))
            ...     def forward(self, x):
            ...         return self.c(self.a(x) * self.b(x))
            >>> with torch.no_grad():
            ...     Steps(Gate(), [torch.ones(1, 1)], ["a", "b", "c"]).together(["a", "b", "c"])
            [['a', 'b'], ['c']]
        """
        groups: list[list[str]] = []
        for name in names:
            if groups and all(
                self._reads_the_same(each, groups[-1][-1], name) for each in self._passes
            ):
                groups[-1].append(name)
            else:
                groups.append([name])
        return groups

    @staticmethod
    def _reads_the_same(seen: _Pass, before: str, name: str) -> bool:
        return seen.alike.get(name) == before and seen.calls[name] == seen.calls[before] == 1

    def calls(self, names: Sequence[str], batch: int) -> LayerCalls:
        """Run one batch as far as some layers, and return what they read and returned.

        Args:
            names: of layers; those of earlier blocks can no longer be asked for afterwards.
            batch: its number.
        """
        noted = self._passes[batch]
        self._finish(min(len(set(noted.ended[name]) & set(self._blocks)) for name in names))
        seen: LayerCalls = {name: [] for name in names}
        left = sum(noted.calls[name] for name in names)

        def see(name: str, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal left
            seen[name].append((args[0] if args else kwargs["input"], output))
            left -= 1
            if not left:
                raise _Enough

        with _watching(self._network, names, see):
            self._run(batch)
        return seen

    def _finish(self, count: int) -> None:
        """Keep what the block before the next returned, for every batch."""
        if count <= self._finished:
            return
        outputs: list[Any] = []

        def note(_: str, __: Any, ___: Any, output: Any) -> None:
            outputs.append(_copied(output))
            raise _Enough

        with _watching(self._network, [self._blocks[count - 1]], note):
            for batch in range(len(self._batches)):
                self._run(batch)
        self._outputs, self._finished = outputs, count

    def _run(self, batch: int) -> None:
        output = self._outputs[batch] if self._finished else None
        with _skipping(self._network, self._blocks[: self._finished], output):
            self._until_enough(batch)

    def _until_enough(self, batch: int) -> None:
        try:
            self._call(self._network, self._batches[batch])
        except _Enough:
            return

    def _whole_pass(self, batch: Any, blocks: Sequence[str], layers: Sequence[str]) -> _Pass:
        noted = _Pass({}, {}, {})
        ended: list[str] = []
        last: tuple[Any, int, str] = (lambda: None, 0, "")

        def begin(name: str, args: Any, kwargs: Any) -> None:
            nonlocal last
            noted.calls[name] = noted.calls.get(name, 0) + 1
            noted.ended.setdefault(name, tuple(ended))
            read = args[0] if args else kwargs.get("input")
            if name not in self._layers or not isinstance(read, Tensor):
                return
            if last[0]() is read and last[1] == read._version:  # not written to in between
                noted.alike[name] = last[2]
            last = weakref.ref(read), read._version, name

        every = list(dict.fromkeys((*blocks, *layers)))
        with (
            _watching(self._network, blocks, lambda name, *_: ended.append(name)),
            _watching_inputs(self._network, every, begin),
        ):
            self._call(self._network, batch)
        return noted

    def _may_skip(self, blocks: Sequence[str]) -> bool:
        """Compare what each block is called with, with the blocks before it run and skipped."""
        inputs: list[Any] = []
        outputs: list[Any] = []
        with (
            _watching_inputs(
                self._network, blocks, lambda _, *given: inputs.append(_copied(given))
            ),
            _watching(self._network, blocks, lambda *seen: outputs.append(_copied(seen[3]))),
        ):
            self._call(self._network, self._batches[0])
        return all(
            self._same_without(blocks[:count], outputs[count - 1], blocks[count], inputs[count])
            for count in range(1, len(blocks))
        )

    def _same_without(self, skipped: Sequence[str], output: Any, block: str, inputs: Any) -> bool:
        given: list[Any] = []

        def note(_: str, *found: Any) -> None:
            given.append(found)
            raise _Enough

        with (
            _watching_inputs(self._network, [block], note),
            _skipping(self._network, skipped, output),
        ):
            try:
                self._until_enough(0)
            except Exception:  # noqa: BLE001 - code between the blocks takes only what they return
                return False
        return bool(given) and _same(given[0], inputs)


def _outermost_items(network: nn.Module) -> list[str]:
    """Name the items of lists of modules that lie in no other item."""
    found: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not name.startswith(
            tuple(f"{each}." for each in found)
        ):
            items = [f"{name}.{key}".lstrip(".") for key in module._modules]
            found += [each for each in items if each not in found]
    return [n for n in found if not n.startswith(tuple(f"{o}." for o in found if o != n))]


@contextmanager
def _watching(network: nn.Module, names: Sequence[str], see: Any) -> Iterator[None]:
    """Call ``see(name, args, kwargs, output)`` after every call of some modules."""
    with ExitStack() as stack:
        for name in names:
            hook = network.get_submodule(name).register_forward_hook(
                lambda _, args, kwargs, out, name=name: see(name, args, kwargs, out),
                with_kwargs=True,
            )
            stack.callback(hook.remove)
        yield


@contextmanager
def _watching_inputs(network: nn.Module, names: Sequence[str], see: Any) -> Iterator[None]:
    """Call ``see(name, args, kwargs)`` before every call of some modules."""

    def noted(name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            see(name, args, kwargs)

        return hook

    with ExitStack() as stack:
        for name in names:
            module = network.get_submodule(name)
            hook = module.register_forward_pre_hook(noted(name), with_kwargs=True)
            stack.callback(hook.remove)
        yield


@contextmanager
def _skipping(network: nn.Module, names: Sequence[str], output: Any) -> Iterator[None]:
    """Let some modules return what the last of them returned, without computing anything."""
    modules = [network.get_submodule(name) for name in names]
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = lambda *_, **__: _copied(output)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward


def _copied(tree: Any) -> Any:
    return tree_map(lambda each: each.clone() if isinstance(each, Tensor) else each, tree)


def _same(one: Any, other: Any) -> bool:
    mine, theirs = tree_leaves(one), tree_leaves(other)
    return len(mine) == len(theirs) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
        for a, b in zip(mine, theirs, strict=True)
    )
