"""A policy held on a network in anybody's training loop: masks that change as the steps go."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood.core.errors import BoxwoodError
from boxwood.core.evidence import evidence_of
from boxwood.core.policies import Policy
from boxwood.core.ranks import Group, all_or_none
from boxwood.model.binding import MaskBinding
from boxwood.model.evidence.calibration import Batches, Calibration, Loss
from boxwood.model.evidence.gathering import Evidence, check_same_network, gather
from boxwood.model.layer_kinds import as_stored, layouts_of, outputs_first
from boxwood.model.prunable import Where, linear_and_conv
from boxwood.model.scoring import score
from boxwood.model.synchronised import check_same_masks, mean_gradients


class SparseTraining:
    """Let a policy decide the masks of a network while any loop trains it.

    Behind every ``optimizer.step()`` pruned weights are set to zero, as `MaskBinding` does; and
    when the policy is due, the weights are scored and it decides new masks.

    Args:
        model: the network, on its device.
        optimizer: any ``torch.optim`` optimizer over its parameters.
        policy: `Gradual`, `LayerByLayer`, `RigL`, `SET` or `Static`, or your own.
        where: which parameters are pruned.
        loss: with ``batches``, what a criterion's evidence is gathered from at an update, as for
            `boxwood.prune`; magnitudes need neither.
        batches: likewise.
        evidence: returns evidence at hand, such as ``TrackMovement(...).evidence``.
        state: where to go on: what `state_dict` returned, or the masks of a network that is
            sparse already; by default the policy makes the first masks.
        group: ranks of ``torch.distributed`` that train copies of this network; all ranks by
            default. At an update gradients and evidence are averaged over them, so that all
            decide the same masks.

    Raises:
        BoxwoodError: nothing matches ``where``, or the optimizer has none of the parameters; at an
            update, ranks hold different weights.

    Example:
        >>> from boxwood.core.policies import Gradual
        >>> from boxwood.core.schedules import Cubic
        >>> net = nn.Linear(10, 10)
        >>> optimizer = torch.optim.Adam(net.parameters())
        >>> policy = Gradual(schedule=Cubic(final=0.9, end=4), every=1)
        >>> training = SparseTraining(net, optimizer, policy)
        >>> for _ in range(4):
        ...     net(torch.ones(1, 10)).sum().backward()
        ...     optimizer.step()
        >>> int((net.weight != 0).sum())
        10

    Source: Zhu and Gupta (2017), section 3: "seamlessly incorporated within the training process".
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        policy: Policy,
        *,
        where: Where = linear_and_conv,
        loss: Loss | None = None,
        batches: Batches = (),
        evidence: Callable[[], Evidence] | None = None,
        state: Mapping[str, Tensor] | None = None,
        group: Group = None,
    ) -> None:
        self.policy = policy
        self.steps, masks = _split(state or {})
        self._weights = where(model)
        self._layouts = layouts_of(model, self._weights)
        self._seen = Calibration(model, self._weights, batches, loss, group=group)
        self._evidence = evidence
        self._dense: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        if policy.wants_gradients:
            # Before the masks are held: hooks run in the order in which they came, and behind
            # those of the MaskBinding the gradients of pruned weights are gone.
            for name, parameter in self._weights.items():
                hook = self._gradient_hook(name)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))
        if not masks:
            masks = policy.init({name: p.detach() for name, p in self._weights.items()})
        elif set(masks) != set(self._weights):
            raise BoxwoodError(
                f"Expected masks for {', '.join(self._weights)}, got masks for "
                f"{', '.join(masks)}; say with `where` which parameters are pruned."
            )
        self._held = MaskBinding(model, optimizer, masks, group=group)
        self._handles.append(optimizer.register_step_post_hook(self._after_step))

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks as they are now; True keeps."""
        return self._held.masks

    def state_dict(self) -> dict[str, Tensor]:
        """Return all there is to save beside model and optimizer: the steps taken and the masks."""
        return {"steps": torch.tensor(self.steps), **self._held.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken; load model and optimizer first.

        Raises:
            BoxwoodError: the state is of another model, or has no number of steps.
        """
        if "steps" not in state:
            raise BoxwoodError(
                f"Expected a state with the number of steps, got {', '.join(state) or 'nothing'}; "
                f"give what SparseTraining.state_dict returned."
            )
        steps, masks = _split(state)
        self._held.load_state_dict(masks)
        self.steps = steps

    def detach(self) -> None:
        """Let go: from now on nothing changes the masks or keeps pruned weights at zero."""
        self._held.detach()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        def keep_dense_gradient(parameter: Tensor) -> None:
            # With several backward passes to a step, the last one counts.
            if parameter.grad is not None and self.policy.due(self.steps + 1):
                self._dense[name] = parameter.grad.detach().clone()

        return keep_dense_gradient

    def _after_step(self, *_: object) -> None:
        self.steps += 1
        if not self.policy.due(self.steps):
            return
        with all_or_none(self._seen.group):
            self._update()

    def _update(self) -> None:
        masks = self.masks
        check_same_network(self._seen)
        criterion = self.policy.criterion
        given = None if self._evidence is None else self._evidence()
        found = gather(evidence_of(criterion), replace(self._seen, masks=masks), given)
        scores = score(self._weights, criterion, masks=masks, evidence=found, layouts=self._layouts)
        if self.policy.wants_gradients:
            self._dense = mean_gradients(self._weights, self._dense, self._seen.group)
            self._check_gradients()
        shown = (outputs_first(self._layouts, each) for each in (masks, scores, self._dense))
        new = as_stored(self._layouts, self.policy.update(self.steps, *shown))
        check_same_masks(new, self._seen.group)
        self._held.replace_masks(new)
        self._dense = {}

    def _check_gradients(self) -> None:
        missing = [name for name in self._weights if name not in self._dense]
        if missing:
            raise BoxwoodError(
                f"Expected a gradient of every pruned parameter at step {self.steps}, got none of "
                f"{', '.join(missing[:4])}; let the loss depend on them, or leave them out by "
                f"`where`."
            )


def _split(state: Mapping[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
    """Tell the number of steps from the masks, which no parameter named ``steps`` disturbs."""
    masks = {name: mask for name, mask in state.items() if name != "steps"}
    return int(state.get("steps", 0)), masks
