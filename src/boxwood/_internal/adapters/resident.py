"""A Hugging Face model whose weights are in memory only while they are used.

The modules are those of transformers; their weights stay in the folder's safetensors files until a
part of the model is asked for.
"""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from boxwood._internal.adapters.block_lists import find_blocks
from boxwood._internal.adapters.stored_tensors import Stored, stored_by_name
from boxwood._internal.core.extras import extra
from boxwood._internal.files.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from boxwood._internal.files.quantised import refuse_unprunable
from boxwood._internal.model.evidence.calibration import wide
from boxwood.errors import InvalidInput

with extra("transformers", "transformers and accelerate for pretrained models"):
    import transformers
    from accelerate import init_empty_weights
    from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Resident:
    """A model without its weights, and where they are.

    Args:
        model: parameters are on the ``meta`` device unless they are asked for.
        checkpoint: the folder's files.
        stored: what its parameters are made of, by the names that the model has for them.
        blocks: dotted names of the blocks, in order.
        turned: names of weights that lie transposed in the file.
    """

    model: nn.Module
    checkpoint: Checkpoint
    stored: Mapping[str, Stored]
    blocks: tuple[str, ...]
    turned: frozenset[str]

    @contextmanager
    def loaded(self, name: str) -> Iterator[nn.Module]:
        """Hold a part of the model in memory, in float32 at least.

        Raises:
            InvalidInput: the checkpoint lacks one of its parameters.
        """
        part = self.model.get_submodule(name)
        self._load_(part, f"{name}.", list(part.state_dict()))
        try:
            yield part
        finally:
            _unload_(part)

    def resident(self) -> Iterator[nn.Module]:
        """Yield the blocks in order, each in memory until the next one is asked for."""
        for name in self.blocks:
            with self.loaded(name) as block:
                yield block

    @contextmanager
    def loading_when_called(self) -> Iterator[nn.Module]:
        """Hold the first block, and of the rest of the model what is called."""
        modules = dict(self.model.named_modules())
        inside = tuple(f"{name}." for name in self.blocks)
        outside = {n: m for n, m in modules.items() if not f"{n}.".startswith(inside)}
        with ExitStack() as stack:
            for name, module in outside.items():
                own = [each for each, _ in module.named_parameters(recurse=False)]
                if own:
                    load = self._loader(name, own)
                    stack.callback(module.register_forward_pre_hook(load).remove)
                    stack.callback(_unload_, module)
            stack.enter_context(self.loaded(self.blocks[0]))
            yield self.model

    @contextmanager
    def block_by_block(self) -> Iterator[nn.Module]:
        """Run the whole model with one of its blocks in memory at a time, and of the rest what is called.

        Every call reads the blocks again.
        """
        with self.loading_when_called() as model, ExitStack() as stack:
            for name in self.blocks:
                block = model.get_submodule(name)
                load = partial(self._load_block, name)
                stack.callback(block.register_forward_pre_hook(load).remove)
                stack.callback(block.register_forward_hook(_forget).remove)
            yield model

    def _load_block(self, name: str, block: nn.Module, args: Any) -> None:  # noqa: ARG002
        self._load_(block, f"{name}.", list(block.state_dict()))

    def weights(self, block: str) -> dict[str, StoredTensor]:
        """Find the weights of a block's linear layers, by their names in the block.

        Raises:
            InvalidInput: the checkpoint lacks one of them.
        """
        layers = self.model.get_submodule(block).named_modules()
        names = [f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Linear)]
        found = {name: self._find(f"{block}.{name}") for name in names}
        for name, each in found.items():
            if each.convert is not None:
                raise InvalidInput(
                    f"Expected the weight of a linear layer to be one tensor of the file, got "
                    f"{', '.join(t.name for t in each.tensors[:3])} for {f'{block}.{name}'!r}; "
                    f"prune this model with boxwood.find_masks."
                )
        return {name: each.tensors[0] for name, each in found.items()}

    def as_stored(self, name: str, tensor: Tensor) -> Tensor:
        """Give a weight, or its mask, the way in which it lies in the file; or back again."""
        return tensor.T.contiguous() if name in self.turned else tensor

    def _loader(self, name: str, own: list[str]) -> Any:
        def load(module: nn.Module, args: Any) -> None:  # noqa: ARG001
            if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
                self._load_(module, f"{name}." if name else "", own)

        return load

    def _load_(self, module: nn.Module, prefix: str, names: list[str]) -> None:
        parameters = dict(module.named_parameters(remove_duplicate=False))
        # Buffers that are not stored have been computed by the model already.
        wanted = [n for n in names if n in parameters or prefix + n in self.stored]
        state = {n: self._read(prefix + n) for n in wanted}
        for name, tensor in state.items():
            place = parameters.get(name)
            if place is not None and place.shape != tensor.shape:
                raise InvalidInput(
                    f"Expected {prefix + name!r} of shape {tuple(place.shape)}, as in "
                    f"config.json, got {tuple(tensor.shape)}; give the config.json of these "
                    f"weights."
                )
        module.load_state_dict(state, strict=False, assign=True)

    def _read(self, name: str) -> Tensor:
        tensor = self._find(name).read()
        wanted = wide(tensor) if tensor.is_floating_point() else tensor
        return self.as_stored(name, wanted)

    def _find(self, name: str) -> Stored:
        if name not in self.stored:
            raise InvalidInput(
                f"Expected a tensor for {name!r} of {type(self.model).__name__}, got none in "
                f"{self.checkpoint.shards[0].path.parent}; give a folder as save_pretrained of "
                f"this version of transformers writes it."
            )
        return self.stored[name]


def open_resident(
    folder: Path | str, *, blocks: str | None = None, follow_links: bool = False
) -> Resident:
    """Build a model from a folder's config.json alone, and find its weights and its blocks.

    Args:
        folder: config.json and safetensors, sharded or not.
        blocks: dotted name of the list of blocks; found by structure by default.
        follow_links: let shards be links out of the folder, as in a download cache.

    Raises:
        InvalidInput: there is no such folder, transformers does not know the architecture, the
            weights are quantised or an adapter, or several lists of blocks could be meant.

    Example:
        >>> open_resident(Path("gone"))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a folder with config.json at gone, got none; give a folder as save_pretrained writes it.
    """
    folder = Path(folder)
    config = open_config(folder)
    config.use_cache = False  # only the copy in memory
    checkpoint = open_checkpoint(folder, follow_links=follow_links)
    refuse_unprunable(folder, [shard.path for shard in checkpoint.shards])
    with init_empty_weights(include_buffers=False):
        model = architecture_of(config, folder)(config).eval()
        _turn_(model)
    model.tie_weights()
    stored = stored_by_name(model, checkpoint)
    for tensor in (tensor for each in stored.values() for tensor in each.tensors):
        if tensor.entry.dtype.startswith("F8"):
            raise InvalidInput(
                f"Expected floats of 16 bits or more, got {tensor.entry.dtype} for "
                f"{tensor.name!r}; convert the checkpoint to bfloat16 first."
            )
    turned = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, _Transposed)}
    return Resident(model, checkpoint, stored, find_blocks(model, blocks), frozenset(turned))


def open_config(folder: Path | str) -> Any:
    """Read a folder's config.json; code that comes with a model is not run.

    Raises:
        InvalidInput: there is none, transformers does not know this kind of model, or the folder says
            that the model is quantised or an adapter.

    Example:
        >>> open_config(Path("gone"))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a folder with config.json at gone, got none; give a folder as save_pretrained writes it.
    """
    folder = Path(folder)
    refuse_unprunable(folder, ())
    if not (folder / "config.json").is_file():
        raise InvalidInput(
            f"Expected a folder with config.json at {folder}, got none; give a folder as "
            f"save_pretrained writes it."
        )
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(
            f"Expected a config.json of a model that transformers {transformers.__version__} knows "
            f"in {folder}, got {str(error).splitlines()[0]}; code that comes with a model is not "
            f"run."
        ) from error


def open_tokenizer(folder: Path | str) -> Any:
    """Load the tokenizer in the folder of a model.

    Raises:
        InvalidInput: there is none.

    Example:
        >>> open_tokenizer(Path("gone"))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a tokenizer in gone, got none that transformers can load; copy tokenizer.json there.
    """
    folder = Path(folder)
    try:
        if not folder.is_dir():
            raise OSError
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise InvalidInput(
            f"Expected a tokenizer in {folder}, got none that transformers can load; copy "
            f"tokenizer.json there."
        ) from error


def architecture_of(config: Any, folder: Path) -> Any:
    """Return the class that a configuration names.

    Raises:
        InvalidInput: it is none of transformers.

    Example:
        >>> architecture_of(transformers.GPT2Config(architectures=["GPT2Model"]), Path()).__name__
        'GPT2Model'
    """
    name = next(iter(config.architectures or ()), None)
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if found is None or not issubclass(found, transformers.PreTrainedModel):
        raise InvalidInput(
            f"Expected one of transformers' models under architectures in {folder / 'config.json'}, "
            f"got {name!r}; code that comes with a model is not run."
        )
    return found


class _Transposed(nn.Linear):
    """A linear layer whose weight is stored as [in, out], as GPT-2's are."""


def _turn_(model: nn.Module) -> None:
    """Put linear layers in place of those of transformers' own kind, so that rows are outputs."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Conv1D):
                setattr(parent, name, _Transposed(child.nx, child.nf))


def _forget(block: nn.Module, args: Any, outputs: Any) -> None:  # noqa: ARG001
    _unload_(block)


def _unload_(part: nn.Module) -> None:
    """Drop the parameters; buffers stay, since some are computed and nowhere stored."""
    empty = {n: p.to("meta") for n, p in part.named_parameters(remove_duplicate=False)}
    part.load_state_dict(empty, strict=False, assign=True)
    # glibc would keep what was freed, and does not find it again for aligned memory such as torch's:
    # a deep model would pile up block by block.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
