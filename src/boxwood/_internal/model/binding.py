"""Masks held under an optimizer: what is pruned stays zero, whatever the optimizer does."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from boxwood._internal.core.agreement import check_same_masks, placed, together
from boxwood._internal.core.arguments import check_network, checked_masks
from boxwood._internal.core.masks import Masks, validate
from boxwood._internal.core.placement import check_data, check_unflattened
from boxwood._internal.core.ranks import Group
from boxwood._internal.model.holding import Holding
from boxwood._internal.model.optimizer_memory import Optimizers, check_optimizers
from boxwood._internal.model.policy_memory import Hiding
from boxwood._internal.model.reading import named_parameters
from boxwood.errors import InvalidInput


class MaskBinding:
    """Hold masks on a network while any optimizer trains it.

    After every ``optimizer.step()`` the weights outside the masks are set to zero, and their
    gradients are set to zero as soon as they are accumulated, so that gradient clipping, momentum
    and weight decay never see them. Before every forward pass and before ``state_dict``, pruned
    weights that anything else has changed are set to zero as well, such as by a loaded checkpoint,
    swapped averages, or an optimizer that was not given. Parameters keep their names: checkpoints,
    ``deepcopy`` and ``torch.compile`` work as without masks.

    Args:
        model: the network, compiled or not; move it to its device first.
        optimizer: any ``torch.optim`` optimizer over its parameters, a wrapper of one, or a list of
            all optimizers that train it.
        masks: bool tensors by parameter name; True keeps. A parameter with two names (tied weights)
            takes one mask, under either name. If parameters are ``DTensor`` shards, give masks of
            the whole network, the same on every rank; each rank takes its part.
        mask_gradients: False keeps the gradients of pruned weights, for methods that regrow weights
            by them; the weights themselves still stay zero.
        group: ranks of ``torch.distributed`` that train copies of this network; all ranks by
            default.
        hiding: how pruned weights continue to learn; `SparseTraining` passes it for such policies.

    Raises:
        InvalidInput: a mask does not fit, two names of one parameter have different masks, or a
            masked parameter learns and no optimizer has it; at a forward pass, a masked parameter
            was replaced.
        DistributedError: ranks hold different masks; this is found at the first step, or at once if
            parameters are shards.

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
    Differs from the paper: it masks in the forward pass; masking at the optimizer computes the same
    and does not change the module.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        masks: Masks | None = None,
        *,
        mask_gradients: bool = True,
        group: Group = None,
        hiding: Hiding | None = None,
    ) -> None:
        check_network(model)
        check_optimizers(optimizer)
        self._group = group
        self._named = named_parameters(model)
        with together(self._named.values(), group):
            masks = checked_masks(masks)
            check_unflattened(self._named)
            check_data({name: p for name, p in self._named.items() if name in masks})
            self.holding = Holding(
                model,
                optimizer,
                self._merged(masks),
                mask_gradients=mask_gradients and hiding is None,
                hiding=hiding,
            )
        self._check_ranks_once()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks as they are now; True keeps."""
        return self.holding.masks()

    def replace_masks(self, masks: Masks) -> None:
        """Take new masks, for instance as a schedule goes.

        Newly pruned weights become zero, and so does the optimizer's memory of them. Weights that
        come back start at zero with an empty memory.

        Args:
            masks: bool tensors for the same parameters as before.

        Raises:
            InvalidInput: the names or shapes differ; nothing is changed then.
        """
        with together(self._named.values(), self._group):
            self.holding.set_masks(self._checked(masks), forget=True)
        self._check_ranks_once()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks, for saving with the weights and the optimizer."""
        return self.masks

    def load_state_dict(
        self, state: Mapping[str, Tensor], hidden: Mapping[str, Tensor] | None = None
    ) -> None:
        """Take masks that `state_dict` returned; load model and optimizer before.

        The optimizer's memory of what is kept stays: it was saved under these masks.

        Args:
            state: the masks.
            hidden: of weights that go on learning, what the forward pass does not see.

        Raises:
            InvalidInput: they are of another model; nothing is changed then.
        """
        with together(self._named.values(), self._group):
            self.holding.restore(self._checked(state), hidden or {})
        self._check_ranks_once()

    def detach(self) -> None:
        """Write the zeros once more, and let go: from now on nothing keeps pruned weights at zero."""
        self.holding.release()

    def _merged(self, masks: Masks) -> dict[str, Tensor]:
        validate(self._named, masks)
        return _merge_tied(self._named, placed(masks, self._named, self._group))

    def _checked(self, masks: Masks) -> dict[str, Tensor]:
        masks = self._merged(masks)
        if set(masks) != set(self.holding.weights):
            raise InvalidInput(
                f"Expected masks for {', '.join(self.holding.weights)}, got masks for "
                f"{', '.join(masks) or 'nothing'}; make a new MaskBinding for other parameters."
            )
        return masks

    def _check_ranks_once(self) -> None:
        # At the first step all ranks have their masks, and train.
        self.holding.at_first_step = lambda: check_same_masks(self.masks, self._group)


def _merge_tied(named: Mapping[str, nn.Parameter], masks: Masks) -> dict[str, Tensor]:
    """Keep one of the masks that fall on the same parameter."""
    first: dict[int, str] = {}
    for name, parameter in named.items():
        first.setdefault(id(parameter), name)
    merged: dict[str, Tensor] = {}
    for name, mask in masks.items():
        known = first[id(named[name])]
        if known not in merged:
            merged[known] = mask
        elif not torch.equal(merged[known], mask):
            raise InvalidInput(
                f"Expected one mask for the tied parameters {known!r} and {name!r}, got two that "
                f"differ; give one of them."
            )
    return merged
