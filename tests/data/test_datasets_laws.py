"""One's own Datasets and DataLoaders give the examples that they hold, whole and repeatably."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import boxwood
from boxwood._internal.core.examples import Examples
from boxwood.data import Splits, from_datasets
from boxwood.errors import BoxwoodError
from boxwood.optim import SGD
from boxwood.phases import Train
from boxwood.recipes import Genesis, dense
from boxwood.runs import Store
from boxwood.training import Training

INPUTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 4
PAIRS = TensorDataset(INPUTS, LABELS)
FEW = TensorDataset(INPUTS[:9], LABELS[:9])


class Words(Dataset):
    """Examples as rows of a table, as some packages have them, fetched several at once."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": [index] * (index + 1), "label": index % 2}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


class Flipping(Dataset):
    """An image that is flipped at random, as transforms of training sets do."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = INPUTS[index]
        return (image.flip(0) if torch.rand(()) < 0.5 else image), index % 2


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield INPUTS[0], 0


def padded(rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    texts = [torch.tensor(row["text"]) for row in rows]
    labels = torch.tensor([row["label"] for row in rows])
    return nn.functional.pad(nn.utils.rnn.pad_sequence(texts, True), (0, 9))[:, :6], labels


def everything(part: Examples) -> tuple[Tensor, Tensor]:
    return part.take(torch.arange(len(part)))


def rows(part: Examples) -> list[tuple[float, ...]]:
    inputs, targets = everything(part)
    return sorted(
        (*row, label) for row, label in zip(inputs.tolist(), targets.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    "given", [PAIRS, DataLoader(PAIRS, 7, shuffle=True, drop_last=True), list(PAIRS)], ids=type
)
def test_examples_are_those_of_the_dataset(given: Any) -> None:
    """Whatever holds them, each example is there once, with its own target, in every part."""
    data = from_datasets("mine", given, FEW, PAIRS)
    whole = sorted((*x, y) for x, y in zip(INPUTS.tolist(), LABELS.tolist(), strict=True))
    assert rows(data.train) == rows(data.test) == whole
    assert rows(data.validation) == sorted((*INPUTS[i].tolist(), int(LABELS[i])) for i in range(9))
    assert (data.classes, data.shape) == (4, (5,))
    inputs, targets = everything(data.test)
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(targets, LABELS)


def test_the_order_is_a_fair_sample_and_follows_from_the_seed() -> None:
    """The first examples of a sorted dataset are of all classes; another seed, another order."""
    ordered = TensorDataset(INPUTS, torch.arange(40) // 10)
    first, again, other = (from_datasets("m", ordered, FEW, FEW, seed=s) for s in (0, 0, 1))
    assert len(first.train.take(torch.arange(16))[1].unique()) == 4
    assert torch.equal(everything(first.train)[0], everything(again.train)[0])
    assert not torch.equal(everything(first.train)[0], everything(other.train)[0])
    assert first.identity == again.identity != other.identity


def test_examples_can_be_held_out() -> None:
    """A number of validation examples leaves the others to training, none in both."""
    data = from_datasets("mine", PAIRS, 10, FEW)
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert sorted(rows(data.train) + rows(data.validation)) == rows(from_datasets("x", PAIRS, FEW, FEW).train)  # fmt: skip


def test_the_identity_is_that_of_the_contents() -> None:
    """It does not ask how examples are held, and one number that differs makes another."""
    first = from_datasets("mine", PAIRS, FEW, FEW).identity
    assert first == from_datasets("other", DataLoader(PAIRS, 3), list(FEW), FEW).identity
    changed = INPUTS.clone()
    changed[39, 4] += 1e-6
    assert first != from_datasets("mine", TensorDataset(changed, LABELS), FEW, FEW).identity
    moved = TensorDataset(INPUTS, LABELS.roll(1))
    assert first != from_datasets("mine", moved, FEW, FEW).identity


def test_a_name_stands_for_the_contents() -> None:
    """With an identity only a few examples are read, and it changes with the name."""
    asked = []

    class Counting(Dataset):
        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            asked.append(index)
            return torch.tensor([float(index)]), 0

    one, same, two = (
        from_datasets("big", Counting(), FEW, FEW, classes=4, identity=name).identity
        for name in ("v1", "v1", "v2")
    )
    assert one == same != two
    assert len(asked) < 200
    with pytest.raises(BoxwoodError, match="number of classes with an identity"):
        from_datasets("big", Counting(), FEW, FEW, identity="v1")


def test_a_function_of_ones_own_puts_examples_together() -> None:
    """Rows of a table become padded tokens, by an argument or by that of a DataLoader."""
    given = from_datasets("words", Words(), Words(), Words(), collate=padded)
    loader = DataLoader(Words(), 2, collate_fn=padded)
    assert torch.equal(given.test.take(torch.tensor([2]))[0], torch.tensor([[2, 2, 2, 0, 0, 0]]))
    assert given.identity == from_datasets("words", loader, loader, loader).identity
    with pytest.raises(BoxwoodError, match="give the dataset a transform that makes tensors"):
        from_datasets("words", Words(), Words(), Words())


def test_nobodys_random_numbers_are_disturbed() -> None:
    """Looking for random transforms draws no numbers that others would have had."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    from_datasets("mine", PAIRS, 10, FEW)
    with pytest.raises(BoxwoodError, match=r"others the second time; .* Training\(augment=…\)"):
        from_datasets("mine", Flipping(), FEW, FEW)
    assert torch.equal(torch.get_rng_state(), before)


HALF = list(range(20))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Endless(), "map-style dataset of training examples .* got Endless; .* list"),
        (DataLoader(Endless()), "map-style dataset of training examples .* got Endless"),
        (iter([1]), "got list_iterator"),
        (None, "got NoneType"),
        ({"train": PAIRS, "test": PAIRS}, "got dict"),
        ("a/folder", "got str"),
        ([], "got an empty dataset"),
        (DataLoader(PAIRS, sampler=SubsetRandomSampler(HALF)), "SubsetRandomSampler, .*Subset"),
        (DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * 40, 40)), "WeightedRandomSampler"),
        (DataLoader(PAIRS, sampler=RandomSampler(PAIRS, num_samples=5)), "with RandomSampler"),
        (DataLoader(PAIRS, batch_sampler=[[0, 1], [2]]), "with list, which Boxwood would ignore"),
        ([(torch.ones(2), 0, 1)] * 3, r"pairs \(input, target\), got 3 values"),
        ([{"x": 1.0, "y": 0}] * 3, "a dict with the keys x, y"),
        ([(torch.ones(i + 1), 0) for i in range(3)], "tensors of one shape"),
        ([("text", 0)] * 3, "pairs .* got 2 values"),
        ([(torch.ones(2).byte(), 0)] * 3, r"got torch.uint8; .* \.float\(\)\.div\(255\)"),
        ([(torch.ones(2), 0.5)] * 3, "class numbers, got torch.float64"),
        ([(torch.tensor([float("nan")]), 0)] * 3, "finite inputs"),
    ],
)
def test_what_cannot_be_taken_is_refused(given: Any, words: str) -> None:
    """Each message names what came and the way out."""
    with pytest.raises(BoxwoodError, match=words):
        from_datasets("mine", given, FEW, FEW)


def test_targets_are_held_to_the_classes() -> None:
    """A target that is no class is refused, and so is a batch that lost an example."""
    with pytest.raises(
        BoxwoodError, match=r"targets of training examples of mine in \[0, 3\), got 3"
    ):
        from_datasets("mine", PAIRS, FEW, FEW, classes=3)
    with pytest.raises(BoxwoodError, match="one input and one target for each of 9"):
        from_datasets(
            "mine", FEW, FEW, FEW, collate=lambda rows: (torch.ones(1, 2), torch.zeros(1))
        )


def net() -> nn.Module:
    return nn.Linear(5, 4)


SHIFT = {"by": 0.0}


def data() -> Splits:
    return from_datasets(
        "mine", TensorDataset(INPUTS + SHIFT["by"], LABELS), 10, Subset(PAIRS, HALF)
    )


def test_runs_resume_and_go_on_with_the_same_data_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores agree to the last bit; with other contents a run that began is not gone on with."""
    start = Genesis(model=net, data=data)
    training = Training(epochs=2, batch=7, optimizer=SGD(lr=0.1))
    recipe = (*dense(training), Train(training=training))
    ends = [boxwood.runs.run_recipe(start, recipe, Store(tmp_path / name)) for name in ("a", "b")]
    assert torch.equal(ends[0].weights["weight"], ends[1].weights["weight"])
    boxwood.runs.run_recipe(start, recipe[:1], Store(tmp_path / "c"))
    monkeypatch.setitem(SHIFT, "by", 1.0)
    with pytest.raises(BoxwoodError, match="Expected mine as it was when this run began"):
        boxwood.runs.run_recipe(start, recipe, Store(tmp_path / "c"))
