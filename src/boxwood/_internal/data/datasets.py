"""Your own torch Datasets as `Splits`: examples are read on demand, and a digest identifies the contents."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from boxwood._internal.core.examples import Chosen
from boxwood._internal.core.generators import own_random_numbers
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.data.splits import Splits, fingerprint, hold_out
from boxwood.errors import InvalidInput

Collate = Callable[[list[Any]], Any]
"""A list of examples, as the dataset gives them, to a pair of tensors: inputs and targets."""

_CHUNK = 256
_PROBES = 16


@dataclass(frozen=True, eq=False)
class FromDataset:
    """Examples of a map-style dataset, which are fetched and collated when they are taken.

    Args:
        dataset: ``len(dataset)`` examples ``dataset[i]``, usually pairs (input, class number).
        collate: makes a batch of them; torch's own by default.
        what: what messages call them.

    Raises:
        InvalidInput: on taking, where a batch is no pair of tensors, of numbers that networks take.

    Example:
        >>> examples = FromDataset([(torch.ones(2), 0), (torch.zeros(2), 1)])
        >>> examples.take(torch.tensor([1]))
        (tensor([[0., 0.]]), tensor([1]))
    """

    dataset: Any
    collate: Collate = default_collate
    what: str = "examples"

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Fetch a batch.

        Args:
            indices: int64 [batch], each in [0, n).
        """
        wanted = indices.tolist()
        together = getattr(self.dataset, "__getitems__", None)  # as torch's DataLoader fetches
        examples = together(wanted) if together else [self.dataset[index] for index in wanted]
        try:
            batch = self.collate(examples)
        except (TypeError, RuntimeError) as error:
            raise InvalidInput(
                f"Expected {self.what} that can be put together into tensors, got {error}; give the "
                f"dataset a transform that makes tensors of one shape, or give collate=."
            ) from error
        pair = isinstance(batch, tuple | list) and len(batch) == 2
        if not pair or not all(isinstance(each, Tensor) for each in batch):
            raise InvalidInput(
                f"Expected {self.what} that are pairs (input, target), got {_described(batch)} for a "
                f"batch; give collate=, a function of a list of examples that returns the tensor of "
                f"inputs and that of targets."
            )
        inputs, targets = batch
        if not inputs.shape[:1] == targets.shape[:1] == indices.shape:
            raise InvalidInput(
                f"Expected one input and one target for each of {len(indices)} {self.what}, got "
                f"inputs of shape {tuple(inputs.shape)} and targets of shape "
                f"{tuple(targets.shape)}; correct the dataset, or collate=."
            )
        return self._as_floats(inputs), self._as_integers(targets)

    def raw(self, index: int) -> tuple[Any, int]:
        """Fetch one example as the dataset gives it, which need not be a tensor yet.

        Args:
            index: in [0, n).
        """
        example, target = self.dataset[index]
        return example, int(target)

    def _as_floats(self, inputs: Tensor) -> Tensor:
        if inputs.is_floating_point():
            return inputs.float()
        if inputs.dtype in (torch.int16, torch.int32, torch.int64):
            return inputs.long()
        raise InvalidInput(
            f"Expected inputs of {self.what} that are floating-point numbers, or int64 numbers of "
            f"tokens, got {inputs.dtype}; convert them in the dataset's transform, pixels by "
            f".float().div(255)."
        )

    def _as_integers(self, targets: Tensor) -> Tensor:
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise InvalidInput(
                f"Expected targets of {self.what} that are class numbers, got {targets.dtype}; "
                f"convert them in the dataset, or in collate=."
            )
        return targets.long()


def from_datasets(
    name: str,
    train: Any,
    validation: Any,
    test: Any,
    *,
    classes: int | None = None,
    identity: str | None = None,
    collate: Collate | None = None,
    seed: int = 0,
) -> Splits:
    """Make `Splits` from your own torch Datasets.

    Examples are fetched whenever they are needed and are not changed, so inputs should be
    standardised by the dataset. Their order in training follows from the run's seed, and `Training`
    sets the batch size. The training and validation parts are shuffled once by ``seed``, so that
    their first examples are a fair sample even if a dataset is sorted.

    Args:
        name: what reports call it.
        train: a map-style Dataset of pairs (input, class number), or any other object with a length
            and indexed examples. For a DataLoader, its dataset and its ``collate_fn`` are used.
        validation: the same; or the number of examples of ``train`` to hold out, in [1, n).
        test: likewise.
        classes: targets lie in [0, classes); None counts up to the largest target there is.
        identity: a name for the contents, such as ``"imagenet 2012, 224 pixels"``; change it when
            they change. None reads every example once, each time the splits are made, and computes
            a digest.
        collate: turns a list of examples into inputs and targets.
        seed: determines the order, and which examples are held out.

    Raises:
        InvalidInput: a dataset has no length or no examples, cannot be collated into tensors, or
            returns another example the second time; a DataLoader samples; ``classes`` is
            missing though ``identity`` is given; a target or an input is out of range.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> pairs = TensorDataset(torch.eye(6), torch.arange(6) % 3)
        >>> data = from_datasets("toy", DataLoader(pairs, shuffle=True), 2, pairs)
        >>> len(data.train), len(data.validation), len(data.test), data.classes, data.shape
        (4, 2, 6, 3, (6,))
    """
    if identity is not None and classes is None:
        raise InvalidInput(
            f"Expected the number of classes with an identity, got none; give classes=, or leave "
            f"identity={identity!r} out to have every example read once."
        )
    own = not isinstance(validation, int)
    learned = _examples(train, f"training examples of {name}", collate)
    checked = _examples(validation, f"validation examples of {name}", collate) if own else learned
    tested = _examples(test, f"test examples of {name}", collate)
    parts = [learned, *([checked] if own else []), tested]
    for part in parts:
        _check_repeatable(part)
    if own:
        kept = _shuffled(len(learned), seed, "order of training examples")
        held = _shuffled(len(checked), seed, "order of validation examples")
    else:
        kept, held = hold_out(len(learned), validation, seed=seed)
    if identity is None:
        read = [_read(part, classes) for part in parts]
        contents = [digest for digest, _ in read]
        classes = classes or max(most for _, most in read) + 1
    else:
        contents = [identity, *(str(len(part)) for part in parts)]
    assert classes is not None  # noqa: S101 - given, or counted
    return Splits(
        name=name,
        train=Chosen(learned, kept),
        validation=Chosen(checked, held),
        test=tested,
        classes=classes,
        identity=fingerprint(*contents, kept, held),
    )


def _examples(source: Any, what: str, collate: Collate | None) -> FromDataset:
    dataset: Any = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(dataset, IterableDataset | Mapping | str) or not all(
        hasattr(dataset, name) for name in ("__len__", "__getitem__")
    ):
        raise InvalidInput(
            f"Expected a map-style dataset of {what}, with a length and numbered examples, got "
            f"{type(dataset).__name__}; a run can only be resumed if its examples can be read "
            f"again: give list(dataset) if it fits into memory."
        )
    if isinstance(source, DataLoader):
        _check_sampling(source, what)
        # Without batches of its own, a loader's function is for single examples.
        if collate is None and source.collate_fn is not default_convert:
            collate = source.collate_fn
    if not len(dataset):
        raise InvalidInput(f"Expected {what}, got an empty dataset; correct its folder or split.")
    return FromDataset(dataset, collate or default_collate, what)


def _check_sampling(loader: DataLoader[Any], what: str) -> None:
    """Refuse a loader that takes some examples only, or some of them more often."""
    sampler = loader.sampler
    whole = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    )
    usual = loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler
    if not (whole and usual):
        other = sampler if usual else loader.batch_sampler
        raise InvalidInput(
            f"Expected a DataLoader that reads all {what} once an epoch, got one with "
            f"{type(other).__name__}, which Boxwood would ignore; give the Dataset, such as "
            f"torch.utils.data.Subset(dataset, indices)."
        )


def _check_repeatable(part: FromDataset) -> None:
    """Refuse random transforms, by asking for some examples twice."""
    some = torch.linspace(0, len(part) - 1, min(_PROBES, len(part))).long()
    with _random_numbers_kept():
        first, again = part.take(some), part.take(some)
    same = [torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, again, strict=True)]
    if not all(same):
        raise InvalidInput(
            f"Expected {part.what} that are the same whenever they are taken, got others the second "
            f"time; leave random transforms out of the dataset and give Training(augment=…) one, such as "
            f"FlipAndCrop, or Training(loading=Loading(transform=…)), whose random numbers follow "
            f"from the run's seed."
        )


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what transforms use
    try:
        with own_random_numbers(()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _read(part: FromDataset, classes: int | None) -> tuple[str, int]:
    """Read all examples: a digest of them, and the largest target."""
    digests, most = [], 0
    for indices in torch.arange(len(part)).split(_CHUNK):
        inputs, targets = part.take(indices)
        if not torch.isfinite(inputs).all():
            raise InvalidInput(
                f"Expected finite inputs in the {part.what}, got NaN or infinity among numbers "
                f"{int(indices[0])} to {int(indices[-1])}; remove or repair them."
            )
        most = max(most, int(targets.max()))
        digests.append(fingerprint(inputs, targets))
    if classes is not None and most >= classes:
        raise InvalidInput(
            f"Expected targets of {part.what} in [0, {classes}), got {most}; correct classes=."
        )
    return fingerprint(*digests), most


def _shuffled(count: int, seed: int, purpose: str) -> Tensor:
    return torch.randperm(count, generator=generator_for(seed, purpose))


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with the keys {', '.join(map(str, batch))}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"{len(batch)} values ({', '.join(type(each).__name__ for each in batch)})"
    return f"a {type(batch).__name__}"
