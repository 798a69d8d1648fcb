"""Hold masks on a network, whatever changes its weights.

Three things are watched: the steps of the optimizers, which are followed by writing zeros; the
gradients, which are zeroed as they come; and the reading of the weights, by a forward pass or by
`state_dict`, before which every masked weight is looked at and projected if it was changed.

Hooks notice gradients and forward passes in any loop. Boxwood's own loop knows when they come and
calls `before_reading` and `gradients_came` instead, once a step for the whole network: see `lead`.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.masks import and_, bits_of
from boxwood._internal.core.placement import check_unflattened
from boxwood._internal.core.shards import local, total
from boxwood._internal.model.held_weights import HeldWeight
from boxwood._internal.model.optimizer_memory import (
    Optimizers,
    alive,
    forget_,
    listed,
    members,
    not_owned,
    owned,
    reports_steps,
)
from boxwood._internal.model.policy_memory import Hiding
from boxwood._internal.model.reading import (
    ReadingHook,
    check_names,
    hook_modules,
    named_parameters,
    names_of,
    restore_after_call,
)
from boxwood.errors import InvalidInput

_PATIENCE = 20  # changes of weights after backward passes, without a step of a bound optimizer


class Holding:
    """The hooks that hold masks on a network; `MaskBinding` is its public face.

    Args:
        model: the network.
        optimizers: all that train masked parameters.
        masks: as checked by the binding, one for each parameter.
        mask_gradients: whether gradients at pruned places are zeroed.
        hiding: how pruned weights go on learning; None where they do not.

    Raises:
        InvalidInput: a masked parameter learns, and no optimizer has it.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> sgd = torch.optim.SGD(net.parameters())
        >>> holding = Holding(net, sgd, {"weight": torch.tensor([[True, False]])})
        >>> net.weight[0, 1].item()
        0.0
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        masks: Mapping[str, Tensor],
        *,
        mask_gradients: bool = True,
        hiding: Hiding | None = None,
    ) -> None:
        self._model = model
        self._mask_gradients = mask_gradients
        self._hiding = hiding
        self.before_masking: Callable[[str, nn.Parameter], None] | None = None
        self.after_step: Callable[[int, Any], None] | None = None
        self.at_first_step: Callable[[], None] | None = None
        self._stepping = False
        self._unexplained = 0
        self._mine: dict[int, tuple[list[int], set[int]]] = {}
        named = named_parameters(model)
        self.weights = {
            name: HeldWeight(names_of(named, named[name]), named[name], mask)
            for name, mask in masks.items()
        }
        self._members = [members(each) for each in listed(optimizers)]
        self._check_owned([h for h in self.weights.values() if h.parameter.requires_grad])
        self._members = [each for each in self._members if self._owned(each)] or self._members
        self.trainers = len(self._members)
        self._forget(None)
        if hiding is not None:
            for name, held in self.weights.items():
                held.hidden = hiding.hidden.get(name)
                held.whole = held.hidden is None
        self._project_all()
        self._led = False
        self._handles: list[Any] = []
        self._hooks: list[Any] = []
        for number, group in enumerate(self._members):
            for each in filter(reports_steps, group):
                self._handles.append(each.register_step_pre_hook(self._before_step))
                self._handles.append(each.register_step_post_hook(_AfterStep(self, number)))
        # Weak, so that a network does not keep the memory of an optimizer that is gone.
        self._members = [[weakref.ref(each) for each in group] for group in self._members]
        for held in self.weights.values():
            if held.parameter.requires_grad:
                held.owned = True
                self._hook_gradient(held)
        self._hook_modules()

    def lead(self, *, apart: bool = False) -> None:
        """Do without the hooks of gradients and forward passes from now on.

        The caller calls `before_reading` before the forward passes of each step, `gradients_came`
        after the backward passes. Sharded parameters keep their hooks.

        Args:
            apart: whether nothing that reads a gradient mixes one weight's with another's. Those of
                pruned weights are then left as they are: the weights become zero after the step.
        """
        if any(held.sharded for held in self.weights.values()):
            return
        self._led = True
        self._mask_gradients = self._mask_gradients and not apart
        for held in self.weights.values():
            held.unhook()
        self._hook_modules()

    def before_reading(self) -> None:
        """Project what was changed since the last time; nothing if hooks do that."""
        if self._led:
            self.look(self._whole, self._model)

    def gradients_came(self) -> None:
        """Zero the gradients of a step at pruned places; nothing if hooks do that."""
        if self._led:
            for held in self.weights.values():
                self._gradient_came(held)

    def masks(self) -> dict[str, Tensor]:
        """The masks as they are now; True keeps."""
        return {name: held.mask for name, held in self.weights.items()}

    def set_masks(self, masks: Mapping[str, Tensor], *, forget: bool) -> None:
        """Take new masks.

        Args:
            masks: for the same parameters.
            forget: whether the optimizers also forget weights that come back.
        """
        before = self.masks()
        for name, held in self.weights.items():
            held.reveal()
            held.set_mask(masks[name])
        self._forget(before if forget else None)
        self._project_all()

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Show whole weights, where pruned ones go on learning."""
        if self._hiding is None:
            yield
            return
        for held in self.weights.values():
            held.reveal()
        try:
            yield
        finally:
            self._project_all()

    def hidden(self) -> dict[str, Tensor]:
        """What the forward pass does not read of each weight, and an optimizer steps from."""
        return {n: held.hidden for n, held in self.weights.items() if held.hidden is not None}

    def restore(self, masks: Mapping[str, Tensor], hidden: Mapping[str, Tensor]) -> None:
        """Take masks and hidden parts that go with the parameters as they are now."""
        for name, held in self.weights.items():
            held.hidden = hidden.get(name)
            held.whole = self._hiding is not None and held.hidden is None
            held.set_mask(masks[name])
        self._forget(None)
        self._project_all()

    def release(self) -> None:
        """Write the zeros once more, and remove every hook."""
        if self._hooks:
            self._project_all()
        for handle in (*self._handles, *self._hooks):
            handle.remove()
        for held in self.weights.values():
            held.unhook()
        self._handles, self._hooks = [], []

    # Reading the weights

    def look(self, hook: ReadingHook, module: nn.Module) -> None:
        """Project what was changed since the last time, before a module reads it."""
        if self._hiding is not None and self._stepping:
            self._refuse_reading()
        weights = hook.below
        if not hook.saving and hook.moved():
            self._hook_modules()
            weights = list(self.weights.values())
        moved = False
        for held in weights:
            parameter = held.parameter
            if not hook.saving:
                for parameters, attribute in held.places:
                    if parameters.get(attribute) is not parameter:
                        self._stand_in(held, parameters, attribute, module)
                if parameter.requires_grad and held.gradient_hook is None and not self._led:
                    self._hook_gradient(held)
            if held.changed():
                moved |= held.gradient_came and not self._stepping
                held.gradient_came = False
                if held.gradient_hook is not None and held.moved():
                    # torch.utils.swap_tensors leaves hooks in Python without their other half.
                    parameter._post_accumulate_grad_hooks = parameter._post_accumulate_grad_hooks
                held.project()
        for _, _, held in hook.own:
            if not held.readable:  # writes through .data would go unnoticed
                and_(held.parameter.data, held.bits)
        if moved and not hook.saving:
            self._count_unexplained()

    def _stand_in(
        self, held: HeldWeight, parameters: dict[str, Any], attribute: str, module: nn.Module
    ) -> None:
        """Deal with another tensor in place of a masked parameter."""
        check_unflattened({held.name: held.parameter})  # FullyShardedDataParallel puts views there
        other = parameters.get(attribute)
        plain = isinstance(other, Tensor) and not isinstance(other, nn.Parameter)
        if other is not None and plain and other.shape == held.parameter.shape:
            # torch.func.functional_call puts it there for one call, and what is read is masked.
            parameters[attribute] = other.masked_fill(~held.mask.to(other.device), 0)
            restore_after_call(module, parameters, attribute, other)
        else:
            self._hook_modules()

    def _refuse_reading(self) -> None:
        self._stepping = False
        raise InvalidInput(
            "Expected an optimizer that does not evaluate the network in its step, under a policy "
            "that lets pruned weights learn, got one that does, such as L-BFGS; use SGD or Adam."
        )

    def _count_unexplained(self) -> None:
        self._unexplained += 1
        if self.after_step is not None and self._unexplained >= _PATIENCE:
            raise InvalidInput(
                f"Expected steps of the optimizer that was given, got {self._unexplained} changes "
                f"of the weights after backward passes and no step: the masks would never change; "
                f"give the optimizer whose step() is called, or detach the binding that is no "
                f"longer used."
            )

    # Modules

    def _hook_modules(self) -> None:
        for handle in self._hooks:
            handle.remove()
        check_names(self._model, self.weights.values())
        weights, forward = self.weights.values(), not self._led
        self._hooks, self._whole = hook_modules(self._model, weights, self, forward=forward)

    # Optimizers

    def _before_step(self, optimizer: Any, *_: object) -> None:
        if torch.compiler.is_compiling():
            if self._hiding is not None:
                raise InvalidInput(
                    "Expected steps that Python takes, under a policy that lets pruned weights "
                    "learn, got one that is compiled; compile the network alone."
                )
            return
        self._stepping = True
        if self._hiding is not None:
            mine = self._owned_by(optimizer)
            weights = [each for each in self.weights.values() if id(each.parameter) in mine]
            self._hiding.reveal(weights, optimizer)
        if self._mask_gradients:
            for held in self.weights.values():
                if not held.gradient_masked and held.parameter.grad is not None:
                    self._masked(held)  # set by hand, not by a backward pass

    def stepped(self, optimizer: Any, number: int) -> None:
        """Write the zeros after a step."""
        if torch.compiler.is_compiling():
            for held in self.weights.values():
                and_(held.parameter, held.bits)
            return
        check, self.at_first_step = self.at_first_step, None
        if check is not None:
            check()
        mine = self._owned_by(optimizer)
        for held in self.weights.values():
            if id(held.parameter) in mine:
                self._project(held)
                held.gradient_masked = held.gradient_came = False
            elif held.changed():
                held.project()
        # A step may call another one: that of a wrapper, or super().step(). One of them counts.
        if self._stepping:
            self._stepping, self._unexplained = False, 0
            if self.after_step is not None:
                self.after_step(number, optimizer)

    def _owned_by(self, optimizer: Any) -> set[int]:
        """What an optimizer trains; asked again only when it has more or fewer parameters."""
        sizes = [len(each["params"]) for each in optimizer.param_groups]
        known = self._mine.get(id(optimizer))
        if known is None or known[0] != sizes:
            known = self._mine[id(optimizer)] = sizes, owned(optimizer)
        return known[1]

    def _owned(self, group: list[Any]) -> set[int]:
        masked = {id(held.parameter) for held in self.weights.values()}
        return {i for each in alive(group) for i in owned(each)} & masked

    def _check_owned(self, weights: list[HeldWeight]) -> None:
        mine = {i for group in self._members for i in self._owned(group)}
        missing = [held.name for held in weights if id(held.parameter) not in mine]
        if missing:
            raise not_owned(missing, self.weights, none=not mine)

    # Gradients

    def _hook_gradient(self, held: HeldWeight) -> None:
        held.gradient_hook = held.parameter.register_post_accumulate_grad_hook(
            lambda _: self._gradient_came(held)
        )

    def _gradient_came(self, held: HeldWeight) -> None:
        if held.parameter.grad is None:
            return
        if not torch.compiler.is_compiling() and held.changed():
            held.check_read()
        if not held.owned:  # it was frozen when the masks were bound
            self._check_owned([held])
            held.owned = True
        held.gradient_came = True
        self._masked(held)

    def _masked(self, held: HeldWeight) -> None:
        if self.before_masking is not None:
            self.before_masking(held.name, held.parameter)
        if self._mask_gradients:
            held.mask_gradient()
            held.gradient_masked = True
        if self.before_masking is not None:
            held.note_gradient()

    # Masks

    def _project(self, held: HeldWeight) -> None:
        if self._hiding is not None and held.whole:
            self._hiding.hide(held)
        else:
            held.project()

    def _project_all(self) -> None:
        for held in self.weights.values():
            self._project(held)
            if self._mask_gradients:
                held.mask_gradient()

    def _forget(self, before: Mapping[str, Tensor] | None) -> None:
        """Let the optimizers forget what is pruned now, and what was pruned before.

        Memory that cannot be assigned to single weights goes where a weight loses its value, or comes
        back. Pruned weights that go on learning need theirs.
        """
        if self._hiding is not None:
            return
        stayed = {}
        flat = sum([total(held.wrong(), held.parameter) for held in self.weights.values()])
        for name, held in self.weights.items():
            stayed[held.parameter] = held.bits
            if before is not None:
                stayed[held.parameter] = held.bits & bits_of(before[name], held.parameter)
                came = int((local(held.mask) & ~local(before[name])).any())
                flat += total(came, held.parameter)
        for group in self._members:
            for optimizer in alive(group):
                forget_(optimizer, stayed, flat=flat > 0)


class _AfterStep:
    """What is done after a step of one of several optimizers."""

    def __init__(self, holding: Holding, number: int) -> None:
        self._holding, self._number = holding, number

    def __call__(self, optimizer: Any, *_: object) -> None:
        self._holding.stepped(optimizer, self._number)
