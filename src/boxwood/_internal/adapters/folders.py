"""The model in a Hugging Face folder, whose weights may be packed."""

from pathlib import Path
from typing import Any, cast

import safetensors.torch
from torch import Tensor

from boxwood._internal.adapters.resident import architecture_of, open_config
from boxwood._internal.core.extras import extra
from boxwood._internal.files.checkpoint import find_files
from boxwood._internal.files.header import read_header
from boxwood._internal.files.layout import is_packed
from boxwood._internal.files.packed import dense_pieces
from boxwood._internal.files.quantised import refuse_unprunable
from boxwood.errors import BoxwoodError, InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers


def load_folder(folder: Path | str) -> transformers.PreTrainedModel:
    """Load the model in a folder, as ``from_pretrained`` does, or out of packed weights.

    Args:
        folder: of ``save_pretrained``, ``boxwood prune``, ``boxwood shrink`` or ``boxwood pack``.

    Returns:
        The model in evaluation, in the types of the file.

    Raises:
        InvalidInput: the folder holds no model that transformers knows, or one that is quantised or an
            adapter.

    Example:
        >>> load_folder(Path("gone"))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a folder with config.json at gone, got none; give a folder as save_pretrained writes it.
    """
    folder = Path(folder)
    config = open_config(folder)
    files = find_files(folder)[1]
    packed = any(is_packed(read_header(file)) for file in files)
    if not packed:  # what is packed was asked when it was packed
        refuse_unprunable(folder, files)
    kind = architecture_of(config, folder)
    try:
        if packed:
            state: dict[str, Tensor] = {}
            for file in files:
                state |= safetensors.torch.load(b"".join(map(bytes, dense_pieces(file))))
            model = kind.from_pretrained(None, config=config, state_dict=state, dtype="auto")
        else:
            model = kind.from_pretrained(
                folder, local_files_only=True, dtype="auto", use_safetensors=True
            )
    except BoxwoodError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"Expected the weights of {kind.__name__} in {folder}, got "
            f"{str(error).splitlines()[0]}; give a folder as save_pretrained writes it."
        ) from error
    return cast("transformers.PreTrainedModel", model.eval())


def quiet_loading() -> None:
    """Let transformers draw no bars of its own while it loads and writes weights.

    Example:
        >>> quiet_loading()
    """
    silence: Any = transformers.utils.logging.disable_progress_bar
    silence()
