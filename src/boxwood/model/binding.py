"""Masks held under an optimizer: what is pruned stays zero, whatever the optimizer does."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood.core.errors import BoxwoodError
from boxwood.core.masks import Masks, and_, bits_of, validate
from boxwood.core.placement import check_data, check_unflattened
from boxwood.core.ranks import Group
from boxwood.model.prunable import plain_name, unwrapped
from boxwood.model.synchronised import check_same_masks


class MaskBinding:
    """Hold masks on a network while any optimizer trains it.

    After every ``optimizer.step()`` the weights outside the masks are set to zero, and their
    gradients are set to zero as soon as they are accumulated, so that gradient clipping, momentum
    and weight decay never see them. Parameters keep their names: checkpoints, ``deepcopy`` and
    ``torch.compile`` work as without masks.

    Args:
        model: the network, compiled or not; move it to its device first.
        optimizer: any ``torch.optim`` optimizer over its parameters.
        masks: bool tensors by parameter name; True keeps. A parameter with two names (tied
            weights) takes one mask, under either name.
        mask_gradients: False leaves gradients at pruned places as they are, for methods that
            regrow weights by them; the weights themselves still stay zero.
        group: ranks of ``torch.distributed`` that train copies of this network; all ranks by
            default.

    Raises:
        BoxwoodError: a mask does not fit, two names of one parameter have different masks, or the
            optimizer has none of the masked parameters; at the first step under new masks, ranks
            hold different ones.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.1)
        >>> held = MaskBinding(net, optimizer, {"weight": torch.tensor([[True, False]])})
        >>> for _ in range(3):
        ...     net(torch.ones(1, 2)).sum().backward()
        ...     optimizer.step()
        >>> net.weight[0, 1].item()
        0.0

    Source: Han, Pool, Tran and Dally (2015), section 3.
    Differs from the paper: it masks in the forward pass; masking under the optimizer computes the
    same and leaves the module as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        masks: Masks,
        *,
        mask_gradients: bool = True,
        group: Group = None,
    ) -> None:
        self._optimizer = optimizer
        self._mask_gradients = mask_gradients
        self._group = group
        self._named = {
            plain_name(name): parameter
            for name, parameter in unwrapped(model).named_parameters(remove_duplicate=False)
        }
        check_unflattened(self._named)
        check_data({name: p for name, p in self._named.items() if name in masks})
        masks = _merge_tied(self._named, masks)
        self._parameters = {name: self._named[name] for name in masks}
        self._check_optimizer()
        self._bits: dict[str, Tensor] = {}
        self._set(masks)
        self._handles = [optimizer.register_step_post_hook(self._after_step)]
        for name, parameter in self._parameters.items():
            if mask_gradients and parameter.requires_grad:
                hook = self._gradient_hook(name)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks as they are now; True keeps."""
        return {name: bits != 0 for name, bits in self._bits.items()}

    def replace_masks(self, masks: Masks) -> None:
        """Take new masks, for instance as a schedule goes.

        Newly pruned weights become zero, and so does the optimizer's memory of them. Weights that
        come back start at zero with an empty memory.

        Args:
            masks: bool tensors for the same parameters as before.

        Raises:
            BoxwoodError: the names or shapes differ; nothing is changed then.
        """
        self._set(self._checked(masks))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks, for saving beside the weights and the optimizer."""
        return self.masks

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take masks that `state_dict` returned; load model and optimizer before.

        The optimizer's memory of what is kept stays: it was saved under these masks.

        Raises:
            BoxwoodError: they are of another model; nothing is changed then.
        """
        masks = self._checked(state)
        self._bits = {}
        self._set(masks)

    def detach(self) -> None:
        """Let go: from now on nothing keeps pruned weights at zero."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _check_optimizer(self) -> None:
        # Parameters that do not learn need no optimizer to stay zero.
        parameters = {name: p for name, p in self._parameters.items() if p.requires_grad}
        owned = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        if parameters and not any(id(p) in owned for p in parameters.values()):
            raise BoxwoodError(
                f"Expected an optimizer over the masked parameters ({', '.join(parameters)}), got "
                f"one that has none of them; build the optimizer from this model's parameters, "
                f"after moving the model to its device."
            )

    def _checked(self, masks: Masks) -> dict[str, Tensor]:
        masks = _merge_tied(self._named, masks)
        if set(masks) != set(self._parameters):
            raise BoxwoodError(
                f"Expected masks for {', '.join(self._parameters)}, got masks for "
                f"{', '.join(masks) or 'nothing'}; make a new MaskBinding for other parameters."
            )
        return masks

    @torch.no_grad()
    def _set(self, masks: Masks) -> None:
        self._new_to_ranks = True
        for name, parameter in self._parameters.items():
            bits = bits_of(masks[name], parameter)
            # Weights that come back were pruned until now: their memory goes as well.
            stayed = bits & self._bits.get(name, bits)
            self._bits[name] = bits
            and_(parameter, bits)
            if self._mask_gradients and parameter.grad is not None:
                and_(parameter.grad, bits)
            for memory in self._optimizer.state.get(parameter, {}).values():
                if isinstance(memory, Tensor) and memory.shape == parameter.shape:
                    if memory.element_size() == parameter.element_size():
                        and_(memory, stayed)
                    else:
                        memory.masked_fill_(stayed == 0, 0)

    def _gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        def zero_pruned_gradient(parameter: Tensor) -> None:
            if parameter.grad is not None:
                and_(parameter.grad, self._bits[name])

        return zero_pruned_gradient

    def _after_step(self, *_: object) -> None:
        if self._new_to_ranks:  # by now all ranks have their masks, and train
            check_same_masks(self.masks, self._group)
            self._new_to_ranks = False
        for name, parameter in self._parameters.items():
            and_(parameter, self._bits[name])


def _merge_tied(named: Mapping[str, nn.Parameter], masks: Masks) -> dict[str, Tensor]:
    """Check the masks, and keep one of those that fall on the same parameter."""
    validate(named, masks)
    first: dict[int, str] = {}
    for name, parameter in named.items():
        first.setdefault(id(parameter), name)
    merged: dict[str, Tensor] = {}
    for name, mask in masks.items():
        known = first[id(named[name])]
        if known not in merged:
            merged[known] = mask
        elif not torch.equal(merged[known], mask):
            raise BoxwoodError(
                f"Expected one mask for the tied parameters {known!r} and {name!r}, got two that "
                f"differ; give one of them."
            )
    return merged
