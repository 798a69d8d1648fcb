"""Distillation of hidden features as well as logits.

Shape suffixes: N examples, C classes, F features of all layers together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.distill.ensembles import Forward, forward_of
from boxwood._internal.distill.losses import Distillation, TeacherTargets, feature_matching
from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class FeatureDistillation(Distillation):
    """`Distillation` with hidden features of the teacher: ``+ weight · mean((h - g)²) / 2``.

    A loss for any recipe whose teacher has layers of the same names and widths. An earlier phase of
    the same network has them, unless units were removed in between.

    Args:
        layers: names of the modules whose outputs h should match those of the teacher, g.
        weight: >= 0, units of loss per squared unit of feature.

    Raises:
        InvalidInput: there are no layers, or a number is out of range.

    Example:
        >>> loss = FeatureDistillation(layers=("0",), weight=2.0, soft=0.0, hard=1.0)
        >>> lesson = TeacherTargets(torch.tensor([0]), torch.tensor([[0.0, 0.0, 3.0]]))
        >>> loss((torch.zeros(1, 2), torch.tensor([[1.0]])), lesson)  # log 2 + 2 · (1 - 3)² / 2
        tensor(4.6931)

    Source: Romero et al., arXiv:1412.6550, 2015, equation 3.
    Differs from the paper: layers are matched while the labels are learnt, not in a stage before,
    and need no regressor, since they are as wide as the teacher's.
    """

    layers: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or not self.weight >= 0:
            raise InvalidInput(
                f"Expected names of layers and a weight >= 0, got {self.layers} and "
                f"{self.weight}; without layers, use Distillation."
            )

    def __call__(self, outputs: Any, targets: TeacherTargets | Tensor) -> Tensor:
        """Compute it from (logits [N, C], features [N, F]); from logits and labels, without them.

        Raises:
            InvalidInput: the teacher's layers are not as wide.
        """
        if isinstance(targets, Tensor):
            return super().__call__(outputs, targets)
        logits, features = outputs
        classes = logits.shape[1]
        wanted, theirs = targets.logits[:, :classes], targets.logits[:, classes:]
        if features.shape != theirs.shape:
            raise InvalidInput(
                f"Expected {', '.join(self.layers)} to be as wide as the teacher's, "
                f"{theirs.shape[1]} features together, got {features.shape[1]}; name layers that "
                f"pruning leaves as wide as they are."
            )
        soft = super().__call__(logits, TeacherTargets(targets.labels, wanted))
        return soft + self.weight * feature_matching(features, theirs)


def forward_with_features(model: nn.Module, layers: Sequence[str]) -> Forward:
    """Return a network's forward function as `forward_of` does, with hidden features after the logits.

    Args:
        model: outputs [N, C]; a layer's output is flattened to [N, features].
        layers: names of modules; none for the logits alone.

    Returns:
        Inputs [N, ...] to [N, C + F] on the CPU.

    Raises:
        InvalidInput: the network has no layer of a name, or, when called, a layer returns no tensor.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.Flatten())
        >>> forward_with_features(net, ("0",))(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2., 1., 2.]])
    """
    forward = forward_of(model)
    if not layers:
        return forward

    def both(inputs: Tensor) -> Tensor:
        with _recording(model, layers) as features:
            return torch.cat([forward(inputs), features().cpu()], 1)

    return both


@contextmanager
def returning_features(model: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """Let a network return (logits [N, C], features [N, F]) in training mode, logits in evaluation mode.

    Args:
        model: changed while the context is open.
        layers: names of modules; none changes nothing.

    Raises:
        InvalidInput: the network has no layer of a name, or a layer returns no tensor in a pass.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.Flatten())
        >>> with returning_features(net, ("0",)):
        ...     net(torch.ones(1, 1))
        (tensor([[1.]]), tensor([[1.]]))
    """
    if not layers:
        yield
        return
    with _recording(model, layers) as features:

        def both(_: nn.Module, __: Any, logits: Tensor) -> Any:
            return (logits, features()) if model.training else logits

        handle = model.register_forward_hook(both)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def _recording(model: nn.Module, layers: Sequence[str]) -> Iterator[Callable[[], Tensor]]:
    """Record what layers return; the callable concatenates the features of the last pass."""
    modules = dict(model.named_modules())
    unknown = [name for name in layers if not name or name not in modules]
    if unknown:
        raise InvalidInput(
            f"Expected names of layers of {type(model).__name__}, got {unknown[0]!r}; it has "
            f"{', '.join(filter(None, modules))}."
        )
    seen: dict[str, Tensor] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_: nn.Module, __: Any, returned: Any) -> None:
            # An LSTM returns its outputs first.
            first = returned[0] if isinstance(returned, tuple) else returned
            if isinstance(first, Tensor):
                seen[name] = first.flatten(1)

        return note

    def features() -> Tensor:
        silent = [name for name in layers if name not in seen]
        if silent:
            raise InvalidInput(
                f"Expected every layer to return a tensor in a pass, got none of {silent[0]!r}; "
                f"name layers that the network runs."
            )
        made = torch.cat([seen[name] for name in layers], 1)
        seen.clear()
        return made

    handles = [modules[name].register_forward_hook(noting(name)) for name in layers]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
