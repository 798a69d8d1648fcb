"""`SparseTraining`: a policy in any training loop, with masks that change from step to step."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.agreement import (
    check_same_masks,
    check_same_request,
    spelled,
    together,
)
from boxwood._internal.core.arguments import check_network, described
from boxwood._internal.core.constant_fan_in import SRigL
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.granularity import Elements
from boxwood._internal.core.masks import sparsity
from boxwood._internal.core.policies import Policy
from boxwood._internal.core.ranks import Group, all_or_none, meet, size
from boxwood._internal.core.shards import any_distributed, local, total
from boxwood._internal.core.straight_through import Moment, StraightThrough
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.evidence.calibration import Batches, Calibration, Loss
from boxwood._internal.model.evidence.gathering import Evidence, check_same_network, gather
from boxwood._internal.model.holding import Holding
from boxwood._internal.model.layer_kinds import as_stored, layouts_of, outputs_first
from boxwood._internal.model.optimizer_memory import Optimizers
from boxwood._internal.model.policy_memory import Hiding, PolicyMemory
from boxwood._internal.model.prunable import Layers, check_layers, linear_and_conv
from boxwood._internal.model.rounds import Rounds, overflow
from boxwood._internal.model.saved_training import SavedTraining
from boxwood._internal.model.scoring import score
from boxwood._internal.model.synchronised import mean_gradients
from boxwood.errors import InvalidInput

_AHEAD = 100_000  # steps in which a policy that changes masks at all changes them
_END = 1_000_000  # steps in which a policy that is not at its end changes masks again
_NEAR = 5e-4  # a difference of sparsities that is not worth a warning


class SparseTraining:
    """Let a policy choose and update the masks of a network while any loop trains it.

    After every ``optimizer.step()`` pruned weights are set to zero, as by `MaskBinding`. When an
    update is due, the weights are scored and the policy chooses new masks.

    Args:
        model: the network, on its device.
        optimizer: any ``torch.optim`` optimizer over its parameters, a wrapper of one, or a list
            of all that train it; a step is over when all have stepped.
        policy: one of `boxwood.policies`, or your own.
        layers: which parameters are pruned.
        loss: with ``batches``, what a criterion's evidence is gathered from at an update, as for
            `boxwood.find_masks`; magnitudes need neither.
        batches: likewise.
        evidence: returns evidence at hand, such as ``TrackMovement(...).evidence``.
        state: where to resume: what `state_dict` returned, or the masks of a network that is
            already sparse; by default the policy makes the first masks.
        group: ranks of ``torch.distributed`` that train copies of this network; all ranks by
            default. At an update, gradients and evidence are averaged over them, so that all choose
            the same masks.

    Raises:
        InvalidInput: nothing matches ``layers``, or the optimizer has none of the parameters; at an
            update, ranks hold different weights; in a step, the optimizer evaluates the network,
            and the policy lets pruned weights learn.

    Example:
        >>> from boxwood.policies import Gradual
        >>> from boxwood.schedules import Cubic
        >>> net = nn.Linear(10, 10)
        >>> optimizer = torch.optim.Adam(net.parameters())
        >>> policy = Gradual(schedule=Cubic(final=0.9, end=4), every=1)
        >>> training = SparseTraining(net, optimizer, policy)
        >>> for _ in range(4):
        ...     net(torch.ones(1, 10)).sum().backward()
        ...     optimizer.step()
        >>> int((net.weight != 0).sum())
        10
        >>> training.sparsity, training.finished
        (0.9, True)

    Source: Zhu and Gupta (2017), section 3: "seamlessly incorporated within the training process".
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        policy: Policy,
        *,
        layers: Layers = linear_and_conv,
        loss: Loss | None = None,
        batches: Batches = (),
        evidence: Callable[[], Evidence] | None = None,
        state: Mapping[str, Tensor] | None = None,
        group: Group = None,
    ) -> None:
        check_network(model)
        check_layers(layers)
        if isinstance(policy, type) or not hasattr(policy, "update"):
            raise InvalidInput(
                f"Expected a policy, got {described(policy)}; give one such as "
                f"Gradual(schedule=Cubic(final=0.9, end=10_000))."
            )
        self.policy = policy
        saved = SavedTraining.of(state or {})
        masks = saved.masks
        self._weights = layers(model)
        self._layouts = layouts_of(model, self._weights)
        self._seen = Calibration(model, self._weights, batches, loss, group=group)
        self._evidence = evidence
        self._dense: dict[str, Tensor] = {}
        self._over = False
        with together(self._weights.values(), group):
            self._check_placed(policy)
            asked = {"policy": policy, "steps": saved.steps, "masks": sorted(masks)}
            check_same_request(self._weights, asked, group)
            if not masks:
                masks = self._first_masks()
            elif set(masks) != set(self._weights):
                raise InvalidInput(
                    f"Expected masks for {', '.join(self._weights)}, got masks for "
                    f"{', '.join(masks)}; say with `layers` which parameters are pruned."
                )
            self._memory = PolicyMemory(policy, self._placed(saved.memory))
            hiding = None
            if isinstance(policy, StraightThrough):
                hiding = Hiding(policy, self._memory, lambda: self._rounds.most, saved.hidden)
            self._held = MaskBinding(model, optimizer, masks, group=group, hiding=hiding)
            self._explored = saved.explored_by(self._held.masks)
            self._count()
        self._rounds = Rounds(self.holding.trainers, saved.steps)
        self.holding.at_first_step = self._check_ranks
        self.holding.after_step = self._after_step
        if policy.wants_gradients:
            self.holding.before_masking = self._keep_dense_gradient

    @property
    def steps(self) -> int:
        """The steps taken: with several optimizers, those that all of them have taken."""
        return self._rounds.steps()

    @property
    def holding(self) -> Holding:
        """The hooks that hold the masks."""
        return self._held.holding

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks as they are now; True keeps."""
        return self._held.masks

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the pruned parameters, in [0, 1]; of all shards together."""
        return sparsity(self.masks) if self._counted is None else self._counted[0]

    @property
    def exploration(self) -> float:
        """The fraction of weights that some mask has kept so far, in [0, 1].

        Source: Liu, Yin, Mocanu and Pechenizkiy (2021), the In-Time Over-Parameterization rate R_s.
        """
        return 1 - (sparsity(self._explored) if self._counted is None else self._counted[1])

    @property
    def finished(self) -> bool:
        """Whether the policy changes masks no more, in the next million steps at least."""
        return self.next_update() is None

    def next_update(self) -> int | None:
        """The step after which masks change next; None where they stay for a million steps."""
        now = self._rounds.most
        return next(filter(self.policy.due, range(now + 1, now + _END)), None)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all there is to save with model and optimizer.

        These are the steps taken and the masks, by their names; and, where there are such, what the
        policy remembers, what the forward pass does not see of weights that go on learning, and
        which weights have ever been kept, after ``memory/``, ``hidden/`` and ``explored/``.
        """
        saved = SavedTraining(
            steps=self.steps,
            masks=self._held.state_dict(),
            memory=self._memory.tensors,
            hidden=self.holding.hidden(),
            explored=self._explored,
        )
        return saved.tensors()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken; load model and optimizer first.

        Raises:
            InvalidInput: the state is of another model, or has no number of steps.
        """
        if "steps" not in state:
            raise InvalidInput(
                f"Expected a state with the number of steps, got {', '.join(state) or 'nothing'}; "
                f"give what SparseTraining.state_dict returned."
            )
        saved = SavedTraining.of(state)
        self._held.load_state_dict(saved.masks, saved.hidden)
        self._memory.tensors = self._placed(saved.memory)
        self._explored = saved.explored_by(self._held.masks)
        self._count()
        self._rounds = Rounds(self.holding.trainers, saved.steps)
        self._dense = {}

    def detach(self, *, early: bool = False) -> None:
        """Write the zeros once more, and let go: nothing changes masks or weights from now on.

        A warning says so where the policy has not reached its final sparsity.

        Args:
            early: whether that is meant, as where training goes on elsewhere; nothing is said then.
        """
        if not early and not self._over:
            warn_if_unfinished(self)
        self._over = True
        self._held.detach()

    def _check_placed(self, policy: Policy) -> None:
        more = isinstance(policy, StraightThrough | SRigL) or hasattr(policy, "remember")
        if more and any_distributed(self._weights.values()):
            raise InvalidInput(
                f"Expected a policy that ranks single weights and remembers masks alone, for a "
                f"network in shards, got {type(policy).__name__}; take Gradual, RigL or SET, or train "
                f"whole copies under DistributedDataParallel."
            )

    def _count(self) -> None:
        # Shards can only be counted where all ranks are; later one of them may ask alone.
        self._counted: tuple[float, float] | None = None
        if any_distributed(self._weights.values()):
            self._counted = sparsity(self.masks), sparsity(self._explored)

    def _check_ranks(self) -> None:
        steps = f"steps={self._rounds.most}"
        meet(["training", spelled(self.policy, "policy"), steps], self._seen.group)
        check_same_masks(self.masks, self._seen.group)

    def _keep_dense_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Keep what the mask is about to take out of a gradient, summed up as the rest of it is."""
        if not (self._memory.used or self.policy.due(self._rounds.most + 1)):
            return
        assert parameter.grad is not None  # noqa: S101 - the gradient just came
        gradient = parameter.grad.detach()
        dense = gradient.to_dense() if gradient.is_sparse else gradient.clone()
        held = self.holding.weights[name]
        if name in self._dense and held.accumulates(averaged=size(self._seen.group) > 1):
            # The sum so far is in the gradient where the mask keeps, and nowhere but here else.
            dense += self._dense[name].masked_fill_(held.mask, 0)
        self._dense[name] = dense

    def _after_step(self, trainer: int, optimizer: Any) -> None:
        if not self._rounds.stepped(trainer, optimizer):
            return
        self._check_captured()
        step = self._rounds.most
        if self._memory.used and self._dense:
            self._remember(optimizer)
        if self.policy.due(step) and self.steps == step:
            with all_or_none(self._seen.group), self.holding.whole_weights():
                self._update()
        self._dense = {}

    def _placed(self, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: each.to(self._weights[name].device) for name, each in memory.items()}

    def _first_masks(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {name: p.detach() for name, p in self._weights.items()}
        # Groups run along the inputs, wherever a layer stores them; single weights run nowhere.
        grouped = not isinstance(getattr(self.policy, "granularity", Elements()), Elements)
        layouts = self._layouts if grouped else {}
        return as_stored(layouts, self.policy.init(outputs_first(layouts, weights)))

    def _remember(self, optimizer: Any) -> None:
        """Let the policy remember the dense gradients of the step that was just taken."""
        masks, step = self.masks, self._rounds.most - 1
        for name, gradient in self._dense.items():
            weight = self._weights[name].detach()
            moment = Moment(step, weight, gradient, masks[name], None, rate=0.0)
            self._memory.seen(name, moment, overflow(optimizer))

    def _update(self) -> None:
        masks = self.masks
        meet(["update", f"steps={self.steps}"], self._seen.group)
        check_same_network(self._seen)
        criterion = self.policy.criterion
        given = None if self._evidence is None else self._evidence()
        found = gather(evidence_of(criterion), replace(self._seen, masks=masks), given)
        scores = score(self._weights, criterion, masks=masks, evidence=found, layouts=self._layouts)
        shown: Mapping[str, Tensor] = self._memory.tensors
        if self.policy.wants_gradients:
            shown = self._gradients()
            if sum([_not_finite(each) for each in shown.values()]):
                warnings.warn(
                    f"Expected finite gradients of the pruned weights, got others at step "
                    f"{self.steps}; the masks stay as they are until the next update.",
                    stacklevel=2,
                )
                return
        layouts, steps = self._layouts, self.steps
        # What a policy remembers need not lie as the weight does.
        alike = {n: layouts[n] for n in layouts if n in shown and shown[n].shape == masks[n].shape}
        new = self.policy.update(
            steps,
            outputs_first(layouts, masks),
            outputs_first(layouts, scores),
            outputs_first(alike, shown),
        )
        new = as_stored(layouts, new)
        check_same_masks(new, self._seen.group)
        self._held.replace_masks(new)
        self._explored = {n: self._explored[n] | mask for n, mask in self.masks.items()}
        self._count()

    def _gradients(self) -> dict[str, Tensor]:
        """Average over the ranks what the policy grows by: the dense gradients, or what it made of them."""
        mine = self._memory.tensors if self._memory.used else self._dense
        mine = mean_gradients(self._weights, mine, self._seen.group)
        self._check_gradients(mine)
        if self._memory.used:
            self._memory.tensors = mine
        return mine

    def _check_captured(self) -> None:
        if not _is_captured(next(iter(self._weights.values()))):
            return
        step = self._rounds.most
        if any(self.policy.due(later) for later in range(step, step + _AHEAD)):
            raise InvalidInput(
                "Expected steps that Python takes, got one that is captured into a CUDA graph, "
                "in which masks would never change; leave the optimizer's step out of the "
                "graph, or "
                "use a MaskBinding, whose masks a graph can hold."
            )

    def _check_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        missing = [name for name in self._weights if name not in gradients]
        if missing:
            raise InvalidInput(
                f"Expected a gradient of every pruned parameter at step {self.steps}, got none of "
                f"{', '.join(missing[:4])}; let the loss depend on them, or leave them out by "
                f"`layers`."
            )


def warn_if_unfinished(training: SparseTraining) -> None:
    """Warn where training ends before the policy has reached its final sparsity.

    Policies without a sparsity ``final``, as `RigL`, are as sparse at any step as at their end.

    Example:
        >>> from boxwood.policies import Static
        >>> net = nn.Linear(10, 10)
        >>> sgd = torch.optim.SGD(net.parameters())
        >>> warn_if_unfinished(SparseTraining(net, sgd, Static(sparsity=0.5)))
    """
    final, reached = getattr(training.policy, "final", None), training.sparsity
    if not training.steps or final is None or final - reached < _NEAR:
        return
    due = training.next_update()
    if due is not None:
        warnings.warn(
            f"Expected training to go on until the schedule has ended, got its end after "
            f"{training.steps:,} steps, at a sparsity of {reached:.3f} on the way to {final:.3f}, "
            f"with the next update due at step {due:,}; train longer, or end the schedule earlier.",
            stacklevel=3,
        )


def _not_finite(gradient: Tensor) -> int:
    return total(int(not torch.isfinite(local(gradient)).all()), gradient)


def _is_captured(weight: Tensor) -> bool:
    return weight.is_cuda and torch.cuda.is_current_stream_capturing()
