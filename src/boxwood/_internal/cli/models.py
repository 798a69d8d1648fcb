"""Turn arguments of the command line into a network and an example of its input."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from boxwood._internal.cli import checks
from boxwood._internal.cli.patterns import prune_magnitudes_
from boxwood._internal.cli.target import arguments
from boxwood._internal.core.reading import check_regular
from boxwood._internal.core.spec import load
from boxwood._internal.files.header import read_header
from boxwood._internal.files.quantised import refuse_unprunable_tensors
from boxwood._internal.recipes.phase import load_weights_
from boxwood.errors import InvalidInput

ModelName = Annotated[
    str,
    typer.Argument(
        help="file.py:name or package.module:name of a model, or of a function that "
        "returns one; or a Hugging Face folder."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "--example",
        help="Shape of an input, such as 1x3x224x224, 1x128:int64, or 1x128:99 for "
        "tokens below 99. Repeatable.",
    ),
]
Weights = Annotated[Path | None, typer.Option(help="A .safetensors file with the model's weights.")]
Sparsity = Annotated[
    float,
    typer.Option(
        help="Fraction of weights to prune by magnitude first, in [0, 1).",
        callback=checks.fraction(of_what="zeros", one=False),
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="name=value to pass to the function. Repeatable.")
]
Samples = Annotated[
    int | None,
    typer.Option(
        help="Number of pieces of the text. Default: 128, or fewer if the text is short.",
        callback=checks.whole(1),
    ),
]
Length = Annotated[
    int | None,
    typer.Option(
        help="Tokens in each piece. Default: the most that the model takes, up to "
        "2048, or less if the text is short.",
        callback=checks.whole(1),
    ),
]
Threads = Annotated[int, typer.Option(help="Number of threads.", callback=checks.whole(1, 1024))]


def read_network(
    target: str,
    inputs: Sequence[str],
    settings: Sequence[str] = (),
    weights: Path | None = None,
    sparsity: float = 0.0,
    pattern: str | None = None,
) -> tuple[Any, tuple[Tensor, ...]]:
    """Make a network and an example of its input, out of a file, a package, or a folder.

    Args:
        target: ``file.py:name``, ``package.module:name``, or a Hugging Face folder.
        inputs: shapes; by default two pieces of 16 tokens for a folder of a language model.
        settings: ``name=value`` texts for a function that makes the network.
        weights: a file of its state.
        sparsity: fraction of weights to prune first.
        pattern: which of them are kept or pruned together, as typed.

    Raises:
        InvalidInput: the name, a setting, the file, a shape, the pattern or the sparsity cannot be used.
    """
    if not Path(target).is_dir():
        return model_of(target, settings, weights, sparsity, pattern), example_of(inputs)
    from boxwood._internal.adapters.folders import (
        load_folder,  # transformers takes seconds to import
    )

    if weights is not None or settings:
        raise InvalidInput(
            f"Expected no --weights and no --set with a folder, got {weights or settings[0]}; "
            f"the folder has its own weights and configuration."
        )
    model = load_folder(Path(target))
    for module in model.modules():  # the stacks of an encoder and a decoder hold copies
        held: Any = vars(module).get("config")
        if getattr(held, "use_cache", False):
            held.use_cache = False  # of past tokens: an output of its own
    prune_magnitudes_(model, sparsity, pattern)
    words = getattr(model.config, "vocab_size", None)
    return model, example_of(inputs or ([f"2x16:{words}"] if words else ()))


def model_of(
    name: str,
    settings: Sequence[str] = (),
    weights: Path | None = None,
    sparsity: float = 0.0,
    pattern: str | None = None,
) -> nn.Module:
    """Build or find a network in evaluation mode, with its weights loaded and pruned.

    Raises:
        InvalidInput: the name, a setting, the file, the sparsity or the pattern cannot be used.
    """
    found = load(name)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise InvalidInput(
                f"Expected {name} to be a model or a function that returns one, got "
                f"{type(found).__name__}; name one of these."
            )
        found = found(**arguments(found, name, None, settings))
    if not isinstance(found, nn.Module):
        raise InvalidInput(
            f"Expected {name} to return a model, got {type(found).__name__}; return an nn.Module."
        )
    if weights is not None:
        _load_(found, weights)
    prune_magnitudes_(found, sparsity, pattern)
    return found.eval()


def example_of(inputs: Sequence[str]) -> tuple[Tensor, ...]:
    """Draw an example for shapes such as ``1x3x224x224``, ``1x128:int64`` or ``1x128:99``.

    What follows the colon is a dtype, or the number below which whole numbers are drawn.

    Raises:
        InvalidInput: a text is not a shape.

    Example:
        >>> floats, tokens = example_of(["2x3", "1x50:99"])
        >>> floats.dtype, tokens.dtype, 2 < int(tokens.max()) < 99
        (torch.float32, torch.int64, True)
    """
    if not inputs:
        raise InvalidInput(
            "Expected the shape of at least one input, got none; give --input 1x3x224x224."
        )
    generator = torch.Generator().manual_seed(0)
    return tuple(_drawn(text, generator) for text in inputs)


def _drawn(text: str, generator: torch.Generator) -> Tensor:
    sizes, _, kind = text.partition(":")
    below = int(kind) if kind.isdecimal() else 2
    dtype = torch.int64 if kind.isdecimal() else getattr(torch, kind or "float32", None)
    try:
        shape = [int(size) for size in sizes.split("x")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1 or below < 1 or not isinstance(dtype, torch.dtype):
        raise InvalidInput(
            f"Expected a shape such as 1x3x224x224, 1x128:int64 or 1x128:99, got {text!r}; give "
            f"positive sizes with an x between them, and a dtype of torch or a number above all "
            f"tokens."
        )
    try:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        return torch.randint(below, shape, generator=generator).to(dtype)
    except RuntimeError as error:  # more than there is memory, or numbers for
        raise InvalidInput(
            f"Expected an input that fits into memory, got {text!r}, of which torch says: "
            f"{_first_line(error)}; give a smaller shape."
        ) from error


def check_takes(model: nn.Module, example: Sequence[Tensor]) -> None:
    """Run a copy of a network, so that inputs that it does not take are refused before any work.

    Raises:
        InvalidInput: it raises something.

    Example:
        >>> check_takes(nn.Linear(3, 2), [torch.ones(1, 3)])
    """
    trial = model
    with suppress(Exception):  # not every network can be copied
        trial = copy.deepcopy(model)  # a network may count its calls, or keep what it has seen
    try:
        with torch.no_grad():
            trial(*example)
    except Exception as error:
        shapes = " and ".join(f"{'x'.join(map(str, x.shape))}:{x.dtype}" for x in example)
        raise InvalidInput(
            f"Expected inputs that {type(model).__name__} takes, got {shapes.replace('torch.', '')}, "
            f"for which it raises {type(error).__name__}: {_first_line(error)}; give others with "
            f"--input."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _load_(model: nn.Module, path: Path) -> None:
    if path.is_file():
        refuse_unprunable_tensors(read_header(path), path)
    try:
        check_regular(path)
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(
            f"Expected the model's weights in {path}, got {str(error).splitlines()[0]}; give a "
            f".safetensors file of its state_dict."
        ) from error
    load_weights_(model, weights)
