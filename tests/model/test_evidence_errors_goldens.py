"""What evidence cannot be gathered from, and how it says so; and what it can be gathered from."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood import criteria
from boxwood._internal.core.examples import InBatches
from boxwood._internal.data.splits import InMemory
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.evidence.activations import feature_rank, input_norm, norm_scale
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gathering import gather
from boxwood._internal.model.evidence.gradients import flow_gradient, gradient
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import Matrices, Named, linear_and_conv
from boxwood._internal.model.scoring import score
from boxwood._internal.train.losses import cross_entropy
from boxwood.errors import BoxwoodError

BATCH = (torch.ones(2, 4), torch.tensor([0, 1]))


def snip(net: nn.Module, batches: Any, loss: Any = cross_entropy) -> None:
    find_masks(net, 0.5, criterion=criteria.snip, batches=batches, loss=loss)


@pytest.mark.parametrize(
    ("batches", "loss", "message"),
    [
        ([BATCH], None, r"a loss for evidence from gradients, got None; give loss="),
        ([], cross_entropy, r"batches to gather evidence from, got none; give batches="),
        (iter([BATCH]), cross_entropy, r"read several times, .* got a list_iterator; give list"),
        ([BATCH[0]], cross_entropy, r"batches of \(inputs, targets\) .* got a Tensor; pair"),
        ([BATCH], lambda z, y: z.sum(1), r"loss that is one number .* got shape \(2,\)"),
        ([BATCH], lambda z, y: z.sum().detach(), r"depends on the weights, got shape \(\)"),
        ([BATCH], lambda z, y: 3.0, r"loss that is one number .* got float"),
        ([BATCH], lambda z, y: z.sum() / 0 * 0, r"a finite loss, got nan; check the batches"),
    ],
)
def test_bad_batches_and_losses(batches: Any, loss: Any, message: str) -> None:
    """Each is named, before any mask is made."""
    with pytest.raises(BoxwoodError, match=message):
        snip(nn.Linear(4, 2), batches, loss)


def test_evidence_that_nothing_gives() -> None:
    """Unknown names, evidence of other tensors, and movement without a training."""
    net = nn.Linear(4, 2)

    def mine(weight: Tensor, flair: Tensor) -> Tensor:
        return weight * flair

    with pytest.raises(
        BoxwoodError, match=r"got 'flair'; put settings after a `\*`, and pass your own"
    ):
        find_masks(net, 0.5, criterion=mine)
    given = {"flair": {"weight": torch.ones(2, 4)}}
    assert int(find_masks(net, 0.5, criterion=mine, evidence=given)["weight"].sum()) == 4
    with pytest.raises(BoxwoodError, match=r"the evidence 'flair' of every weight, got none for '"):
        find_masks(net, 0.5, criterion=mine, evidence={"flair": {"other": torch.ones(2, 4)}})
    with pytest.raises(BoxwoodError, match=r"TrackMovement.* of 1 tensors, got none; attach"):
        find_masks(net, 0.5, criterion=criteria.movement)


def test_scores_of_another_shape() -> None:
    """Ones may stand for whole dimensions; anything else is refused."""
    weights = {"w": torch.ones(2, 3)}
    assert score(weights, lambda weight: torch.ones(2, 1))["w"].shape == (2, 3)
    for shape in ((3, 2), (3,), (1, 2, 3)):
        with pytest.raises(BoxwoodError, match=r"scores of shape \(2, 3\) for 'w', or with ones"):
            score(weights, lambda weight, *, shape=shape: torch.ones(shape))


def test_layers_that_do_not_fit_the_evidence() -> None:
    """Biases have no inputs, linear layers no feature maps, and lonely layers no norm."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    seen = Calibration(net, linear_and_conv(net), [torch.rand(2, 1, 2, 2)])
    with pytest.raises(BoxwoodError, match=r"weights of Conv2d layers .* got '3\.weight'"):
        feature_rank(seen)
    with pytest.raises(
        BoxwoodError, match=r"batch norm .* none after '3\.weight'; leave it out .*'3\.weight'"
    ):
        norm_scale(seen)
    with pytest.raises(BoxwoodError, match=r"Linear, Conv1d.* got '0\.bias', which is not one"):
        input_norm(Calibration(net, Named(("*.bias",))(net), [torch.rand(2, 1, 2, 2)]))
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False))
    with pytest.raises(BoxwoodError, match=r"batch norm with a scale"):
        norm_scale(Calibration(plain, linear_and_conv(plain), [torch.rand(2, 1, 2, 2)]))
    padded = nn.ConvTranspose1d(1, 1, 3, stride=2, output_padding=1)
    with pytest.raises(BoxwoodError, match="without output padding, got ConvTranspose1d"):
        input_norm(Calibration(padded, {"weight": padded.weight}, [torch.rand(2, 1, 5)]))


class Attending(nn.Module):
    """Attention, a recurrent layer, and a layer that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.read = nn.LSTM(4, 4, batch_first=True)
        self.leave, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.read(self.attend(x, x, x)[0])[0])


def test_modules_that_never_run() -> None:
    """What flows into the matrices of attention and recurrent layers cannot be seen from outside."""
    net, batches = Attending(), [torch.rand(2, 3, 4)]
    inside = (
        "attend.in_proj_weight",
        "attend.out_proj.weight",
        "read.weight_hh_l0",
        "read.weight_ih_l0",
    )
    with pytest.raises(
        BoxwoodError, match=r"are called .* 'attend\.in_proj_weight', which is"
    ) as all_:
        find_masks(net, 0.5, criterion=criteria.wanda, batches=batches)
    assert f"layers=Matrices(without={inside})" in str(all_.value)
    with pytest.raises(
        BoxwoodError, match=r"no activations for 'unused\.weight'.*called"
    ) as unused:
        find_masks(
            net, 0.5, criterion=criteria.wanda, batches=batches, layers=Matrices(without=inside)
        )
    assert "layers=Matrices(without=('unused.weight',))" in str(unused.value)
    left = Matrices(without=(*inside, "unused.weight"))
    assert list(find_masks(net, 0.5, criterion=criteria.wanda, batches=batches, layers=left)) == [
        "leave.weight"
    ]


def test_synflow_needs_floats() -> None:
    """An embedding cannot be shown ones."""
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    seen = Calibration(net, {"1.weight": net[1].weight}, [torch.tensor([[1, 2]])])
    with pytest.raises(BoxwoodError, match=r"float tensors for SynFlow, .* got torch\.int64"):
        flow_gradient(seen)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) + self.right(right)


def test_kinds_of_inputs() -> None:
    """Tuples are positional arguments, mappings keywords; both split into single examples."""
    net = TwoInputs()
    left, right, targets = torch.rand(3, 4), torch.rand(3, 3), torch.tensor([0, 1, 1])
    shapes = [
        [((left, right), targets)],
        [({"left": left, "right": right}, targets)],
        [((left[:1], right[:1]), targets[:1]), ((left[1:], right[1:]), targets[1:])],
    ]
    found = [
        gather(
            ["gradient", "gradient_square", "input_norm"],
            Calibration(net, linear_and_conv(net), batches, cross_entropy),
        )
        for batches in shapes
    ]
    for kind, tensors in found[0].items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[1][kind][name], tensor)
            torch.testing.assert_close(found[2][kind][name], tensor)


def test_tied_weights_and_unused_ones() -> None:
    """A weight with two uses gets both uses' evidence; one without any has no gradient."""
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    net["c"] = nn.Linear(3, 3, bias=False)
    net["b"].weight = net["a"].weight

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = net

        def forward(self, x: Tensor) -> Tensor:
            return net["b"](net["a"](x))

    model = Twice()
    x = torch.rand(5, 3)
    weights = {"parts.a.weight": net["a"].weight}
    norms = input_norm(Calibration(model, weights, [x]))["parts.a.weight"]
    middle = net["a"](x).detach()
    torch.testing.assert_close(norms[0], (x.square() + middle.square()).sum(0).sqrt())
    seen = Calibration(
        model,
        {"c": net["c"].weight},
        [(x, None)],
        lambda z, y: (z + 0 * net["c"].weight.sum()).sum(),
    )
    assert gradient(seen)["c"].tolist() == torch.zeros(3, 3).tolist()


def test_half_precision_is_summed_in_single() -> None:
    """A bfloat16 network gives float32 evidence."""
    net = nn.Linear(4, 2).bfloat16()
    batches = [(torch.ones(2, 4, dtype=torch.bfloat16), torch.tensor([0, 1]))] * 3
    seen = Calibration(net, {"weight": net.weight}, batches, cross_entropy)
    for kind, tensors in gather(["gradient", "gradient_square", "input_norm"], seen).items():
        assert tensors["weight"].dtype == torch.float32, kind


def test_movement_counts_each_step_once() -> None:
    """Accumulated gradients count as the step sees them; nothing is summed once detached."""
    net = nn.Linear(2, 1, bias=False)
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    track = TrackMovement(sgd, {"weight": net.weight})
    for _ in range(2):
        net(torch.ones(1, 2)).sum().backward()
    sgd.step()
    wanted = -2 * net.weight.detach()
    torch.testing.assert_close(track.evidence()["weight_movement"]["weight"], wanted)
    track.detach()
    sgd.step()
    torch.testing.assert_close(track.evidence()["weight_movement"]["weight"], wanted)


def test_gathering_under_a_binding() -> None:
    """Masks that an optimizer holds neither hide the dense gradient nor are disturbed."""
    net = nn.Linear(4, 2)
    masks = find_masks(net, 0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    held = MaskBinding(net, optimizer, masks)
    seen = Calibration(net, {"weight": net.weight}, [BATCH], cross_entropy, masks)
    found = gradient(seen)["weight"]
    assert (found[~masks["weight"]] != 0).all()
    assert net.weight.grad is None
    held.detach()


def test_batches_of_examples() -> None:
    """They can be read again, and refuse to be empty."""
    batches = InBatches(InMemory(torch.eye(5), torch.arange(5)), 2)
    assert [len(y) for _, y in batches] == [len(y) for _, y in batches] == [2, 2, 1]
    for settings in ({"size": 0}, {"size": 2, "first": 0}):
        with pytest.raises(BoxwoodError, match=r"at least one of the 5 examples, got size="):
            InBatches(batches.examples, **settings)
