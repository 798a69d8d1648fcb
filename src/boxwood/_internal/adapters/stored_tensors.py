"""Which tensors of a checkpoint make up a parameter, by transformers' own rules.

Most parameters are a tensor of the file under the same name, with or without the prefix of the bare
model. Others have been renamed, and some are several tensors of the file, such as all experts of a
mixture, which transformers stacks when it loads them.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.files.checkpoint import Checkpoint, StoredTensor
from boxwood._internal.files.rewriting import read_tensor


@dataclass(frozen=True)
class Stored:
    """What a parameter is made of.

    Args:
        tensors: of the file.
        convert: tensors to the parameter; None where it is the one tensor itself.
    """

    tensors: tuple[StoredTensor, ...]
    convert: Callable[[Sequence[Tensor]], Tensor] | None = None

    def read(self) -> Tensor:
        """Read the parameter into memory."""
        tensors = [read_tensor(each) for each in self.tensors]
        return tensors[0] if self.convert is None else self.convert(tensors)


def stored_by_name(model: Any, checkpoint: Checkpoint) -> dict[str, Stored]:
    """Find the tensors of a file by the names that a model has for them.

    Args:
        model: of transformers; its parameters may be without data.
        checkpoint: its folder's files.
    """
    there = {tensor.name: tensor for tensor in checkpoint.tensors()}
    prefix = f"{model.base_model_prefix}."
    found: dict[str, Stored] = {}
    used: set[str] = set()
    for name in model.state_dict():
        for stored in (name, name.removeprefix(prefix), prefix + name):
            if stored in there:
                found[name] = Stored((there[stored],))
                used.add(stored)
                break
    # Of what is tied, a file holds one.
    ties: dict[int, str] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in found:
        if name in parameters:
            ties.setdefault(id(parameters[name]), name)
    for name, parameter in parameters.items():
        if name not in found and id(parameter) in ties:
            found[name] = found[ties[id(parameter)]]
    left = {name: tensor for name, tensor in there.items() if name not in used}
    return found | {n: each for n, each in _converted(model, left).items() if n not in found}


def _converted(model: Any, left: Mapping[str, StoredTensor]) -> dict[str, Stored]:
    """Apply the renamings and conversions that from_pretrained applies."""
    try:  # transformers 5
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )
    except ImportError:
        return {}
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted = dict(model.state_dict())
    found: dict[str, Stored] = {}
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(left, key=dot_natural_key):
        to, pattern = rename_source_key(
            name, renamings, converters, model.base_model_prefix, wanted
        )
        if pattern is None:
            if to in wanted:
                found[to] = Stored((left[name],))
        else:
            groups.setdefault(to, []).append((name, pattern))
    for to, members in groups.items():
        names, patterns = zip(*members, strict=True)
        rule = by_pattern[patterns[0]]
        group = _Group(rule, to, names, patterns, model)
        tensors = tuple(left[name] for name in names)
        # Without data, to learn the names of what comes out.
        for name in group([torch.empty(each.entry.shape, device="meta") for each in tensors]):
            if name in wanted:
                found[name] = Stored(tensors, partial(group.one, name))
    return found


@dataclass(frozen=True)
class _Group:
    """Tensors of a file that one of transformers' rules makes parameters of."""

    rule: Any
    to: str
    names: Sequence[str]
    patterns: Sequence[str]
    model: Any

    def __call__(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        rule = copy.deepcopy(self.rule)
        for name, pattern, tensor in zip(self.names, self.patterns, tensors, strict=True):
            rule.add_tensor(self.to, name, pattern, tensor)
        made = rule.convert(self.to, model=self.model, config=self.model.config)
        return {n: each[0] if isinstance(each, list) else each for n, each in made.items()}

    def one(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        return self(tensors)[name]
