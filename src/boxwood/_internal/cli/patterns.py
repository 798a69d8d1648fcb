"""``--pattern``: parse which weights are kept or pruned together."""

import re
from typing import Annotated

import typer
from torch import nn

from boxwood._internal.core.allocation import global_, uniform
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import NofM
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood.errors import InvalidInput


def check_pattern(pattern: str | None) -> str | None:
    """Check what is typed for ``--pattern``.

    Raises:
        InvalidInput: neither n:m nor blocks.

    Example:
        >>> check_pattern("1x4")
        '1x4'
    """
    if pattern is not None:
        _parsed(pattern)
    return pattern


Pattern = Annotated[
    str | None,
    typer.Option(
        help="2:4 keeps 2 of every 4 consecutive inputs. With --sparsity, 1x4 keeps "
        "or prunes four consecutive inputs of an output together.",
        callback=check_pattern,
    ),
]


def read_pattern(pattern: str, sparsity: float | None) -> tuple[float, NofM | Blocks]:
    """Say which sparsity is asked for, and which weights are kept or pruned together.

    Args:
        pattern: ``n:m``, or ``1x4``: outputs times consecutive inputs.
        sparsity: fraction of zeros; None with ``n:m``, which has its own.

    Raises:
        InvalidInput: another text, a sparsity with n:m, or none with blocks.

    Example:
        >>> read_pattern("2:4", None), read_pattern("1x4", 0.8)
        ((0.5, NofM(n=2, m=4)), (0.8, Blocks(rows=1, columns=4)))
    """
    grouped = _parsed(pattern)
    if isinstance(grouped, Blocks):
        if sparsity is None:
            raise InvalidInput(
                f"Expected --sparsity with --pattern {pattern}, got none; give the fraction of "
                f"blocks to remove."
            )
        return sparsity, grouped
    own = 1 - grouped.n / grouped.m
    if sparsity is not None:
        raise InvalidInput(
            f"Expected either --sparsity or --pattern n:m, got both, {sparsity:g} and {pattern}; "
            f"{pattern} is a sparsity of {own:g}."
        )
    return own, grouped


def prune_magnitudes_(model: nn.Module, sparsity: float, pattern: str | None) -> None:
    """Prune by magnitude: all layers by one ranking, or with n:m each to the same sparsity.

    Args:
        model: its pruned weights become zero.
        sparsity: fraction of zeros; 0 is none.
        pattern: as for `read_pattern`.

    Example:
        >>> net = nn.Linear(8, 8)
        >>> prune_magnitudes_(net, 0.75, "1x4")
        >>> int(net.weight.count_nonzero())
        16
    """
    grouped = None
    if pattern is not None:
        sparsity, grouped = read_pattern(pattern, sparsity or None)
    if sparsity:
        allocation = uniform if isinstance(grouped, NofM) else global_
        masks = find_masks(model, sparsity, granularity=grouped, allocation=allocation)
        apply_masks_(model, masks)


def _parsed(pattern: str) -> NofM | Blocks:
    found = re.fullmatch(r"(\d+)([:x])(\d+)", pattern)
    one, other = (int(found[1]), int(found[3])) if found else (0, 0)
    if ":" in pattern and 0 < one < other:
        return NofM(one, other)
    if ":" not in pattern and min(one, other) > 0:
        return Blocks(one, other)
    raise InvalidInput(
        f"Expected --pattern n:m, n kept of every m consecutive inputs with 0 < n < m, or blocks "
        f"such as 1x4, got {pattern!r}; try 2:4 or 1x4."
    )
