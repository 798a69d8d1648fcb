"""Write test sequences as a user of the network would, and hold them against the right ones."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.examples import Examples
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.train.answers import Answers
from boxwood.errors import InvalidInput
from boxwood.recipes import State, World
from boxwood_studies.beam_search import Carry, beam_search
from boxwood_studies.error_rates import error_rates

Tokens = tuple[int, ...]

Score = Callable[[Sequence[Tokens], Sequence[Sequence[Tokens]]], Any]
"""Answers, and for each the references, to a frozen dataclass of numbers."""


class Writer(Protocol):
    """A network that writes sequences token by token, such as `boxwood_studies.seq2seq.Seq2Seq`."""

    def begin(self, sources: Tensor) -> Carry:
        """Read sources."""
        ...

    def next(self, last: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Score what comes after the last tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode test sources by beam search, and score them against all targets that they are given.

    Test examples of one source, such as the pronunciations of a word, are one sequence to write
    with several references.

    Args:
        width: of the beam; 1 is the greedy choice.
        length_penalty: α of the length normalisation.
        score: such as `error_rates`, whose rates are those of phonemes and words where these are
            the tokens and sequences, or `token_bleu`.
        first: decode this number of test sources, from the first on; None for all.
        batch: sources at a time.
        label: a name for later phases.

    Source: Wu et al., arXiv:1609.08144, 2016, section 7.
    """

    revision: ClassVar[int] = 0

    width: int = 4
    length_penalty: float = 0.6
    score: Score = error_rates
    first: int | None = None
    batch: int = 250
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Decode; the state passes through unchanged but for its facts.

        They are what ``score`` returns, and which sources were written as one of their references.
        """
        model = world.network(state)
        if not (hasattr(model, "begin") and hasattr(model, "next")):
            raise InvalidInput(
                f"Expected a network with the methods begin and next to decode with, got "
                f"{type(model).__name__}; use one such as Seq2Seq."
            )
        writer = cast("Writer", model)
        given, _ = world.data.train.take(torch.tensor([0]))
        references = _references(world.data.test)
        # Sources of like length together, since a batch takes as long as its longest.
        sources = sorted(list(references)[: self.first], key=len)
        answers: list[Tokens] = []
        with evaluating(model), torch.no_grad():
            for start in range(0, len(sources), self.batch):
                batch = [torch.tensor(each) for each in sources[start : start + self.batch]]
                padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
                answers += beam_search(
                    writer.next,
                    writer.begin(padded.to(world.device)),
                    width=self.width,
                    longest=given.shape[2],
                    length_penalty=self.length_penalty,
                )
                if world.progress is not None:
                    world.progress(len(answers), len(sources))
        wanted = [references[source] for source in sources]
        right = torch.tensor([answer in each for answer, each in zip(answers, wanted, strict=True)])
        facts = asdict(self.score(answers, wanted))
        facts["written_answers"] = Answers.of_classes(right).facts()
        return State(state.weights, state.masks, facts)


def _references(examples: Examples) -> dict[Tokens, list[Tokens]]:
    """Sources in their order, each with the targets of all examples that have it."""
    inputs, targets = examples.take(torch.arange(len(examples)))
    found: dict[Tokens, list[Tokens]] = {}
    for source, target in zip(inputs[:, 0].tolist(), targets.tolist(), strict=True):
        # 0 fills a source up and ends a target; what comes after the end is below it.
        read = tuple(token for token in source if token > 0)
        found.setdefault(read, []).append(tuple(token for token in target if token > 0))
    return found
