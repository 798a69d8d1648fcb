"""The folder of a healed model: the files of the student, and a record of the training."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.adapters.resident import open_config
from boxwood._internal.core.replacing import disk_errors, replacing_folder
from boxwood._internal.files.checkpoint import companion_files, find_files
from boxwood._internal.files.header import read_header
from boxwood._internal.files.mask_files import FOLDER, write_masks
from boxwood._internal.files.writing import check_new_folder
from boxwood.errors import CheckpointError

RECORD = "healing.json"


def write_healed(
    model: Any,
    out: Path,
    source: Path,
    *,
    dtypes: Mapping[str, torch.dtype],
    masks: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Write a model into a new folder, whole or not at all.

    Args:
        model: of transformers; its parameters take the types that they were stored with.
        out: new or empty.
        source: the student's folder, for tokenizer, generation settings and other texts.
        dtypes: of the parameters, by name.
        masks: by parameter name; they are written next to the weights, whose zeros are checked.
        record: what is written as healing.json.

    Raises:
        CheckpointError: the folder holds something, a pruned weight is not zero, or the disk is full.
    """
    check_new_folder(out)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if parameters[name].detach().cpu().masked_select(~mask).count_nonzero():
            raise CheckpointError(
                f"Expected zeros in {name!r} where it is pruned, got other values after "
                f"training; please report this as a bug."
            )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to("cpu", dtypes[name])
    with disk_errors(out), replacing_folder(out) as new:
        index, _ = find_files(source)
        for path in companion_files(source, index):
            if path != index:  # of other shards
                shutil.copyfile(path, new / path.name)
        model.config.use_cache = open_config(source).use_cache
        model.save_pretrained(new)
        left = dict(masks)
        for file in find_files(new)[1]:
            inside = {name: left.pop(name) for name in read_header(file).entries if name in left}
            if inside:
                write_masks(new / FOLDER / file.name, inside)
        if left:
            raise CheckpointError(
                f"Expected a tensor for every mask in {out}, got none for {min(left)!r}; transformers "
                f"stores it under another name."
            )
        (new / RECORD).write_text(json.dumps(record, indent=1))
