"""Training, validation and test examples, standardised and with a name for their contents."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.core.examples import Examples
from boxwood._internal.core.seeds import generator_for
from boxwood.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class InMemory:
    """Examples held as two tensors; a batch is one gather from each.

    Args:
        inputs: float32 [n, ...], finite, or int64 numbers of tokens; n >= 1.
        targets: int64 [n, ...].

    Raises:
        InvalidInput: a dtype, a length or a value is different.

    Example:
        >>> data = InMemory(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([5, 6, 7]))
        >>> data.take(torch.tensor([2, 0]))
        (tensor([[2.],
                [0.]]), tensor([7, 5]))
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        inputs, targets = self.inputs, self.targets
        if inputs.dtype not in (torch.float32, torch.int64) or targets.dtype != torch.int64:
            raise InvalidInput(
                f"Expected float32 (or int64) inputs and int64 targets, got {inputs.dtype} and "
                f"{targets.dtype}; convert them with .float() and .long()."
            )
        _check_lengths("examples", inputs, targets)
        _check_finite("examples", inputs)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch: ``inputs[indices], targets[indices]``.

        Args:
            indices: int64 [batch], each in [0, n).
        """
        inputs, targets = self.inputs, self.targets
        return (
            inputs.index_select(0, indices.to(inputs.device)),
            targets.index_select(0, indices.to(targets.device)),
        )


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set in three parts: train on the first, decide on the second, report the third.

    Args:
        name: what reports call it.
        train: examples to learn from.
        validation: examples to choose by, such as when to stop.
        test: examples for the number that is reported.
        classes: targets lie in [0, classes).
        identity: hex digest of the contents and of the assignment of examples to parts; see
            `fingerprint`.

    Example:
        >>> data = InMemory(torch.eye(3), torch.arange(3))
        >>> Splits("three", data, data, data, classes=3, identity="").shape
        (3,)
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    classes: int
    identity: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        inputs, _ = self.train.take(torch.tensor([0]))
        return tuple(inputs.shape[1:])


def fingerprint(*parts: Tensor | str) -> str:
    """Name contents: SHA-256 over each part's dtype, shape and bytes, or its text.

    Strides, device and ``requires_grad`` do not count; the order of the parts does.

    Args:
        parts: tensors of any dtype and shape, or texts.

    Returns:
        64 hex digits.

    Example:
        >>> fingerprint(torch.zeros(2, 3)) == fingerprint(torch.zeros(3, 2).T)
        True
        >>> fingerprint(torch.zeros(2, 3)) == fingerprint(torch.zeros(3, 2))
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            text = part.encode()
            digest.update(f"text {len(text)}\n".encode() + text)
        else:
            digest.update(f"{part.dtype} {tuple(part.shape)}\n".encode())
            flat = part.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hold_out(
    count: int, held: int, *, seed: int, purpose: str = "validation"
) -> tuple[Tensor, Tensor]:
    """Choose at random which of ``count`` examples are held out.

    Both parts come in random order, so that the first examples of either are a fair sample of it
    even where the source is sorted.

    Args:
        count: examples there are.
        held: examples to hold out, in [1, count).
        seed: decides the choice together with ``purpose``, and nothing else does.
        purpose: what they are held out for.

    Returns:
        Indices kept, int64 [count - held], and indices held out, int64 [held].

    Raises:
        InvalidInput: ``held`` leaves one of the parts empty.

    Example:
        >>> kept, held = hold_out(5, 2, seed=0)
        >>> len(kept), len(held), sorted([*kept.tolist(), *held.tolist()])
        (3, 2, [0, 1, 2, 3, 4])
    """
    if not 0 < held < count:
        raise InvalidInput(
            f"Expected between 1 and {count - 1} examples held out for {purpose}, got {held} of "
            f"{count}; change {purpose}=, or give more examples."
        )
    order = torch.randperm(count, generator=generator_for(seed, purpose))
    return order[held:], order[:held]


def from_tensors(
    name: str,
    train_xy: tuple[Tensor, Tensor],
    test_xy: tuple[Tensor, Tensor],
    *,
    validation: int,
    seed: int = 0,
) -> Splits:
    """Make `Splits` from your own tensors.

    Inputs become ``(x - mean) / sd`` with mean and standard deviation (divisor n) of the training
    part alone, so nothing of validation or test leaks into them: one mean and sd per channel for
    4-D inputs, one of each otherwise. The identity is computed from the given tensors, so it is the
    same on every machine.

    Args:
        name: what reports call it.
        train_xy: inputs [n, ...] (4-D: [n, channels, height, width]), and integer targets [n] in
            [0, classes). Inputs of dtype uint8 are pixels in 0..255 and are divided by 255 first;
            other inputs must be floating point.
        test_xy: the same for the test part, with the dtype and shape of the training inputs.
        validation: examples held out of ``train_xy``, in [1, n).
        seed: decides which examples are held out.

    Raises:
        InvalidInput: the tensors do not fit together, the targets are not 0..classes-1, an input
            is not finite or does not vary, or ``validation`` leaves a part empty.

    Example:
        >>> pixels = torch.arange(8, dtype=torch.uint8).reshape(8, 1, 1, 1)
        >>> labels = torch.arange(8) % 2
        >>> data = from_tensors("toy", (pixels, labels), (pixels, labels), validation=2)
        >>> len(data.train), len(data.validation), len(data.test), data.classes, data.shape
        (6, 2, 8, 2, (1, 1, 1))
    """
    for part, (inputs, targets) in (("training", train_xy), ("test", test_xy)):
        _check_part(f"{part} examples of {name}", inputs, targets)
    (train_x, train_y), (test_x, test_y) = train_xy, test_xy
    if (train_x.dtype, train_x.shape[1:]) != (test_x.dtype, test_x.shape[1:]):
        raise InvalidInput(
            f"Expected training and test inputs of {name} of one dtype and shape, got "
            f"{train_x.dtype} {tuple(train_x.shape[1:])} and {test_x.dtype} "
            f"{tuple(test_x.shape[1:])} for one input; convert one of them."
        )
    classes = _count_classes(name, torch.cat([train_y, test_y]))
    kept, held = hold_out(len(train_x), validation, seed=seed)
    pixels = _as_float(train_x.index_select(0, kept.to(train_x.device)))
    mean, sd = _mean_and_sd(name, pixels)

    def part_of(inputs: Tensor, targets: Tensor) -> InMemory:
        return InMemory(inputs.sub(mean).div_(sd), targets.long())

    return Splits(
        name=name,
        train=part_of(pixels, train_y[kept]),
        validation=part_of(
            _as_float(train_x.index_select(0, held.to(train_x.device))), train_y[held]
        ),
        test=part_of(_as_float(test_x), test_y),
        classes=classes,
        identity=fingerprint(train_x, train_y, test_x, test_y, kept, held),
    )


def _as_float(inputs: Tensor) -> Tensor:
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs.float()


def _mean_and_sd(name: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    dims = (0, 2, 3) if inputs.dim() == 4 else tuple(range(inputs.dim()))
    variance, mean = torch.var_mean(inputs, dim=dims, correction=0, keepdim=True)
    low, high = inputs.amin(dims, keepdim=True), inputs.amax(dims, keepdim=True)
    useless = ((low == high) | ~variance.isfinite()).flatten().nonzero().flatten().tolist()
    if useless:
        raise InvalidInput(
            f"Expected training inputs of {name} that vary, with a variance that float32 can "
            f"hold, got values from {float(low.min()):g} to {float(high.max()):g} and no usable "
            f"standard deviation in channel {useless[0]}; drop the channel, or rescale the inputs."
        )
    return mean, variance.sqrt()


def _check_part(what: str, inputs: Tensor, targets: Tensor) -> None:
    _check_lengths(what, inputs, targets)
    if not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        raise InvalidInput(
            f"Expected floating-point or uint8 inputs in the {what}, got {inputs.dtype}; convert "
            f"them with .float()."
        )
    integral = not (targets.is_floating_point() or targets.is_complex())
    if targets.dim() != 1 or targets.dtype == torch.bool or not integral:
        raise InvalidInput(
            f"Expected one integer target per example in the {what}, got {targets.dtype} targets "
            f"of shape {tuple(targets.shape)}; give class numbers as int64 [n]."
        )
    if inputs.is_floating_point():
        _check_finite(what, inputs.float())


def _check_lengths(what: str, inputs: Tensor, targets: Tensor) -> None:
    if not (inputs.dim() and inputs.numel()) or inputs.shape[:1] != targets.shape[:1]:
        raise InvalidInput(
            f"Expected as many inputs as targets in the {what}, and at least one, got inputs of "
            f"shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}; give "
            f"tensors that agree in their first dimension."
        )


def _check_finite(what: str, inputs: Tensor) -> None:
    # The extremes of a tensor show every NaN and infinity in one pass that allocates nothing.
    if not torch.stack(inputs.aminmax()).isfinite().all():
        count = int((~inputs.isfinite()).sum())
        raise InvalidInput(
            f"Expected finite inputs in the {what}, got {count} of {inputs.numel()} values that "
            f"are NaN, infinite or beyond float32; remove or repair them."
        )


def _count_classes(name: str, targets: Tensor) -> int:
    distinct = targets.unique()
    if not torch.equal(distinct, torch.arange(len(distinct)).to(distinct)):
        raise InvalidInput(
            f"Expected the targets of {name} to be the class numbers 0 to classes - 1, each in "
            f"use, got {len(distinct)} distinct values from {int(distinct[0])} to "
            f"{int(distinct[-1])}; renumber them, such as by targets.unique(return_inverse=True)."
        )
    return len(distinct)
