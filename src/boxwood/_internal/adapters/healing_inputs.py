"""What healing begins with: the student, its masks, pieces of text, and the teacher; all checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.adapters.calibration_text import token_ids
from boxwood._internal.adapters.evaluating import check_causal
from boxwood._internal.adapters.folders import load_folder
from boxwood._internal.adapters.resident import open_config, open_tokenizer
from boxwood._internal.files.checkpoint import find_files
from boxwood._internal.files.header import read_header
from boxwood._internal.files.layout import is_packed
from boxwood._internal.files.mask_files import FOLDER as MASKS
from boxwood._internal.files.mask_files import load_masks
from boxwood.errors import InvalidInput

_COMPARED = 100_000  # characters by which two tokenizers are compared
_LEAST_HELD_OUT, _MOST_HELD_OUT = 1, 32  # pieces


@dataclass(frozen=True)
class Student:
    """A language model that is about to be trained.

    Args:
        folder: where it came from.
        model: in float32.
        dtypes: of its parameters as they were stored.
        masks: by parameter name; empty for a dense one.
    """

    folder: Path
    model: Any
    dtypes: Mapping[str, torch.dtype]
    masks: Mapping[str, Tensor]


@dataclass(frozen=True)
class Pieces:
    """A text cut into pieces of the same number of tokens.

    Args:
        learned: int64 [P, T].
        held_out: [H, T], from the end of the text, which is only measured on.
    """

    learned: Tensor
    held_out: Tensor


def open_student(folder: Path) -> Student:
    """Load a student and its masks.

    Raises:
        InvalidInput: the folder holds no causal language model, its weights are packed, or its masks
            do not fit them.
    """
    check_causal(open_config(folder), folder)
    if any(is_packed(read_header(file)) for file in find_files(folder)[1]):
        raise InvalidInput(
            f"Expected a folder written by save_pretrained, got {folder}, whose weights are "
            f"packed; "
            f"do `boxwood unpack {folder} --out DENSE` first."
        )
    model: Any = load_folder(folder)
    dtypes = {name: each.dtype for name, each in model.named_parameters()}
    masks = load_masks(folder) if (folder / MASKS).is_dir() else {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        _check_mask(name, mask, parameters, folder)
    return Student(folder, model.float(), dtypes, masks)


def check_vocabulary(student: Path, teacher: Path, text: str) -> None:
    """Refuse a teacher that has other words.

    Raises:
        InvalidInput: sizes of the vocabularies differ, or the tokenizers cut a text in different ways.
    """
    mine, other = open_config(student), open_config(teacher)
    check_causal(other, teacher)
    if mine.vocab_size != other.vocab_size:
        raise InvalidInput(
            f"Expected a teacher with the student's vocabulary of {mine.vocab_size} tokens, got "
            f"{other.vocab_size} in {teacher}; distil from the model that the student was made "
            f"from."
        )
    part = text[:_COMPARED]
    if token_ids(open_tokenizer(student), part) != token_ids(open_tokenizer(teacher), part):
        raise InvalidInput(
            f"Expected a teacher with the student's tokenizer, got one in {teacher} that cuts the "
            f"text into other tokens; distil from the model that the student was made from."
        )


def cut(folder: Path, text: str, length: int) -> Pieces:
    """Cut a text by a folder's tokenizer; the last 2 % of the pieces, at most 32, are held out.

    Raises:
        InvalidInput: the text is shorter than two pieces, or has tokens that the model does not know,
            or the model does not take as many tokens.
    """
    config = open_config(folder)
    most = getattr(config, "max_position_embeddings", None) or length
    if not 2 <= length <= most:
        raise InvalidInput(
            f"Expected a length in [2, {most}], which is what the model in {folder} takes, got "
            f"{length}; give such a length."
        )
    ids = token_ids(open_tokenizer(folder), text)
    if len(ids) < 2 * length:
        raise InvalidInput(
            f"Expected text of at least two pieces of {length} tokens, one to learn and one to "
            f"measure on, got {len(ids)} tokens; give more text, or a smaller length."
        )
    if max(ids) >= config.vocab_size:
        raise InvalidInput(
            f"Expected a tokenizer of at most {config.vocab_size} tokens, which is what the model in "
            f"{folder} has, got token {max(ids)}; copy the tokenizer of this model there."
        )
    pieces = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
    held = min(max(len(pieces) // 50, _LEAST_HELD_OUT), _MOST_HELD_OUT)
    return Pieces(pieces[:-held], pieces[-held:])


def _check_mask(name: str, mask: Tensor, parameters: Mapping[str, Tensor], folder: Path) -> None:
    weight = parameters.get(name)
    if weight is None:
        raise InvalidInput(
            f"Expected masks of parameters of the model in {folder}, got one of {name!r}, which it "
            f"does not have; delete {folder / MASKS}, or copy the masks of these weights there."
        )
    if weight.shape != mask.shape:
        raise InvalidInput(
            f"Expected a mask of shape {tuple(weight.shape)} for {name!r} in {folder}, got "
            f"{tuple(mask.shape)}; copy the masks of these weights to {folder / MASKS}."
        )
    if weight.masked_select(~mask).count_nonzero():
        raise InvalidInput(
            f"Expected zeros in {name!r} in {folder} where its mask prunes, got other values: the "
            f"masks belong to other weights; copy those of these weights to {folder / MASKS}."
        )
