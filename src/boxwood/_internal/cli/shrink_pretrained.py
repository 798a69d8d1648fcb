"""``boxwood shrink`` on a Hugging Face folder: a text chooses the units, repairs the rest, and measures."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.adapters.calibration_text import Tokens, batches_for, held_out
from boxwood._internal.adapters.perplexity import perplexity
from boxwood._internal.adapters.shrunken import Shrunken, repaired, shrink_pretrained
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.prune_blocks import read_text
from boxwood._internal.core.criteria.activations import squared_activations, wanda
from boxwood._internal.core.criteria.gradients import taylor
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.extras import extra
from boxwood._internal.graph.scoring import UnitScores
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.units import Group, Units
from boxwood._internal.model.evidence.calibration import Batches
from boxwood._internal.recipes.unit_selection import unit_scores
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers

CRITERIA: Mapping[str, Callable[..., Tensor]] = {
    "magnitude": magnitude,
    "taylor": taylor,
    "wanda": wanda,
    "activations": squared_activations,
}


@dataclass(frozen=True)
class Reading:
    """Text as a model reads it.

    Args:
        calibration: what decides and repairs.
        test: the last tenth, which is only measured on.
    """

    calibration: list[Tokens]
    test: list[Tokens]

    def pairs(self) -> Batches:
        """Inputs, and the tokens that are to be predicted from them."""
        return [(batch, batch["input_ids"]) for batch in self.calibration]


@dataclass(frozen=True)
class Outcome:
    """A smaller model, and the perplexity before, right after the cut, and after the repair.

    Args:
        shrunken: the model.
        perplexity: by the three words; empty where nothing is predicted.
    """

    shrunken: Shrunken
    perplexity: Mapping[str, float]


def reading_of(folder: Path, text: Path, samples: int | None, length: int | None) -> Reading:
    """Cut a text into what decides and what is measured on.

    Raises:
        InvalidInput: the text cannot be read or is too short, or the folder has no tokenizer.
    """
    calibration, test = held_out(read_text(text))
    pieces = batches_for(folder, calibration, samples=samples, length=length)
    longest = pieces[0]["input_ids"].shape[1]
    return Reading(pieces, batches_for(folder, test, length=length or min(longest, 512)))


def criterion_of(
    model: transformers.PreTrainedModel, by: str | None, text: Path | None
) -> Callable[..., Tensor]:
    """Say what ranks the units.

    Raises:
        InvalidInput: an unknown name, or text is missing.
    """
    if by is not None and by not in CRITERIA:
        raise InvalidInput(f"Expected --by {', '.join(CRITERIA)}, got {by!r}; choose one.")
    name = by or ("wanda" if text is not None or is_causal(model) else "magnitude")
    if text is None and name != "magnitude":
        raise InvalidInput(
            f"Expected --text for {by or type(model).__name__}, got none: magnitudes alone destroy a "
            f"language model; give --text FILE, or --by magnitude to do it anyway."
        )
    return CRITERIA[name]


def is_causal(model: transformers.PreTrainedModel) -> bool:
    """Say whether a model predicts the next token."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def shrink_by(
    found: Units,
    criterion: Callable[..., Tensor],
    choose: Callable[[UnitScores, Callable[[Group], int]], UnitSelection],
    reading: Reading | None,
    *,
    multiple: int | None,
    repair: bool,
    quiet: bool,
) -> Outcome:
    """Shrink a model, repair it, and measure what it has lost.

    Args:
        found: units of the model.
        criterion: what ranks them.
        choose: what stays, by scores, and of how many units each group keeps a multiple.
        reading: text; without it nothing is repaired or measured.
        multiple: of how many units each group keeps a multiple; None for what fits.
        repair: refit what read the removed.
        quiet: show no progress.
    """
    model: Any = found.model
    shown = () if reading is None else reading.pairs()
    scores = unit_scores(found, criterion, batches=shown, loss=next_token_loss)
    # Of neurons of experts that are one tensor, a text says nothing: all of them stay.
    blank = {group.name for group in found.groups if not scores[group.units].any()}

    def chosen(multiple_of: Callable[[Group], int]) -> UnitSelection:
        return choose(
            scores,
            lambda group: len(group.units) if group.name in blank else multiple_of(group),
        )

    even = partial(evened, scores=scores, multiple=multiple or 1)
    done = shrink_pretrained(model, found, chosen, multiple=multiple, even=even)
    done = replace(done, whole=(*done.whole, *sorted(blank - set(done.whole))))
    values: dict[str, float] = {}
    measured = reading is not None and is_causal(model)
    if reading is not None and measured:
        values["dense"] = perplexity(model, reading.test)
        values["cut"] = perplexity(done.built, reading.test)
    if reading is not None and repair:
        ids = [batch["input_ids"] for batch in reading.calibration]
        with bar("repair", quiet=quiet) as watch:
            done = repaired(model, done, ids, watch=watch)
        if measured:
            values["repaired"] = perplexity(done.built, reading.test)
    return Outcome(done, values)


def evened(
    selection: UnitSelection, names: Collection[str], *, scores: UnitScores, multiple: int
) -> UnitSelection:
    """Let groups of one size keep the same number of units, those of the highest scores.

    Args:
        selection: what each of them has kept.
        names: of the groups.
        scores: of all units.
        multiple: of how many units each keeps a multiple.
    """
    sizes: dict[int, list[Group]] = {}
    for group in selection.units.groups:
        if group.name in names:
            sizes.setdefault(len(group.units), []).append(group)
    kept = selection.kept.copy()
    for groups in sizes.values():
        mean = sum(int(kept[group.units].sum()) for group in groups) / len(groups)
        count = max(round(mean) // multiple * multiple, min(multiple, len(groups[0].units)))
        for group in groups:
            best = np.argsort(-scores[group.units], kind="stable")[:count]
            kept[group.units] = False
            kept[group.units[best]] = True
    return UnitSelection(selection.units, kept)


def next_token_loss(outputs: Any, ids: Tensor) -> Tensor:
    """Cross-entropy of the next token: what gradients are taken of."""
    logits = outputs.logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
