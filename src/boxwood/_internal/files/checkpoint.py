"""Checkpoints on disk: one safetensors file, or a folder of shards with an index.

Opening one reads and checks every header and no tensor. A tensor is read in chunks; its file is
read, not mapped, so that what the process holds is a chunk and not what it has ever touched.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from boxwood._internal.core.reading import opened, strict_json
from boxwood._internal.files.header import LONGEST, Entry, Header, read_header
from boxwood.errors import BoxwoodError, CheckpointError

CHUNK = 1 << 20
"""Elements that are read at a time; a multiple of 8, so that masks fill whole bytes."""

INDEX = ".safetensors.index.json"
PACKED = "packed-"  # begins the names of packed files in folders
"""How the name of an index ends."""

_TEXTS = {".json", ".txt", ".model", ".jinja", ".md"}  # nothing that runs


OnRead = Callable[[int], None]
"""Called with the number of bytes that were read, or made, since the last call."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Args:
        name: its dotted name.
        path: the file.
        entry: where it lies there.
    """

    name: str
    path: Path
    entry: Entry

    def chunks(self, elements: int = CHUNK) -> Iterator[memoryview]:
        """Read the bytes of that many elements at a time, into a buffer that is used again.

        Raises:
            CheckpointError: the file has become shorter, or cannot be read.
        """
        return read_chunks(self.path, self.entry.start, self.entry.end, elements * self._itemsize)

    @property
    def _itemsize(self) -> int:
        return max(self.entry.itemsize, 1)  # types below a byte are only ever copied


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint.

    Args:
        path: the file.
        header: what it holds.
    """

    path: Path
    header: Header

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return self.path.name

    @property
    def bytes(self) -> int:
        """Bytes of the file."""
        last = next(reversed(self.header.entries.values()), None)
        return last.end if last else 8 + len(self.header.text)

    def tensors(self) -> list[StoredTensor]:
        """List its tensors in the order of their bytes."""
        return [StoredTensor(name, self.path, e) for name, e in self.header.entries.items()]


@dataclass(frozen=True)
class Checkpoint:
    """All that a checkpoint holds.

    Args:
        shards: its files, sorted by name.
        index: the index, or None for a single file.
    """

    shards: tuple[Shard, ...]
    index: Path | None

    def tensors(self) -> list[StoredTensor]:
        """List all tensors, sorted by name: an order that does not depend on the sharding."""
        found = [tensor for shard in self.shards for tensor in shard.tensors()]
        return sorted(found, key=lambda tensor: tensor.name)


def open_checkpoint(source: Path | str, *, follow_links: bool = False) -> Checkpoint:
    """Find and check the files of a checkpoint.

    Args:
        source: a safetensors file, an index, or a folder with one of either.
        follow_links: follow links from shards of an index to other folders, as in a download cache.

    Raises:
        CheckpointError: a file is missing, damaged or outside the folder; the index and the shards
            contradict each other; or the folder holds no checkpoint, or several.

    Example:
        >>> open_checkpoint(Path("gone"))
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected a safetensors file at gone, got none; check the path.
    """
    index, files = find_files(source, follow_links=follow_links)
    shards = [Shard(file, read_header(file)) for file in files]
    if index is not None:
        for shard in shards:
            _agree(shard, files[shard.path], index)
    return Checkpoint(tuple(shards), index)


def find_files(
    source: Path | str, *, follow_links: bool = False
) -> tuple[Path | None, dict[Path, set[str]]]:
    """Find the files of a checkpoint, dense or packed, without opening them.

    Args:
        source: a safetensors file, an index of shards, or a folder with one of either.
        follow_links: let shards of an index be links out of its folder.

    Returns:
        The index, if there is one; and the files, sorted by name, with the tensors that it promises.

    Raises:
        CheckpointError: the index is damaged or leads out of its folder, or there is no checkpoint.

    Example:
        >>> find_files(Path("a.safetensors"))
        (None, {PosixPath('a.safetensors'): set()})
    """
    source = Path(source)
    path = _only_checkpoint(source) if source.is_dir() else source
    if path.suffix != ".json":
        return None, {path: set()}
    promised: dict[str, set[str]] = {}
    for tensor, name in read_index(path).items():
        promised.setdefault(name, set()).add(tensor)
    # The index of a packed checkpoint is the dense one, byte for byte, under another name.
    named = packed_name if path.name.startswith(PACKED) else str
    return path, {
        _inside(path.parent, named(name), path, follow_links=follow_links): promised[name]
        for name in sorted(promised)
    }


def packed_name(name: str) -> str:
    """Name a packed file, or the index of packed shards, so that no other program takes it for dense.

    Example:
        >>> packed_name("model.safetensors")
        'packed-model.safetensors'
    """
    return name if name.startswith(PACKED) else PACKED + name


def dense_name(name: str) -> str:
    """Name the dense file of a packed one: the inverse of `packed_name`.

    Example:
        >>> dense_name("packed-model.safetensors")
        'model.safetensors'
    """
    return name.removeprefix(PACKED)


def read_index(path: Path) -> dict[str, str]:
    """Read which tensor lies in which shard.

    Raises:
        CheckpointError: the index is no valid JSON, says nothing, or names what is no plain file.

    Example:
        >>> read_index(Path("gone.safetensors.index.json"))
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected an index at gone.safetensors.index.json, got none; check the path.
    """
    try:
        with opened(path) as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise _wrong(path, f"more than {LONGEST} bytes")
        where = strict_json(text).get("weight_map")
    except FileNotFoundError as error:
        raise CheckpointError(f"Expected an index at {path}, got none; check the path.") from error
    except OSError as error:
        raise CheckpointError(f"Expected to read {path}, got {error}; check it.") from error
    except BoxwoodError:
        raise
    except ValueError as error:
        raise _wrong(path, f"no valid JSON ({error})") from error
    if not isinstance(where, dict) or not where:
        raise _wrong(path, "no weight_map of tensors")
    for name in where.values():
        if not _plain(name):
            raise _wrong(path, f"the shard name {ascii(name)[:80]}")
    return where


def companion_files(source: Path, index: Path | None, *, follow_links: bool = False) -> list[Path]:
    """Find the index, and in a folder the texts without which no model can be loaded from it.

    Example:
        >>> companion_files(Path("gone"), Path("a.safetensors.index.json"))
        [PosixPath('a.safetensors.index.json')]
    """
    found = [] if index is None else [index]
    if source.is_dir():
        found += [
            path
            for path in sorted(source.iterdir())
            if path.suffix in _TEXTS
            and path.is_file()
            and (follow_links or not path.is_symlink())
            and not path.name.startswith(".")
            and path != index
        ]
    return found


def read_chunks(path: Path, start: int, end: int, size: int) -> Iterator[memoryview]:
    """Read a part of a file in pieces of ``size`` bytes, into one buffer.

    Raises:
        CheckpointError: the file ends too early, or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_bytes(b"boxwood")
        ...     [bytes(piece) for piece in read_chunks(Path(file.name), 1, 6, 3)]
        [b'oxw', b'oo']
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            buffer = memoryview(bytearray(min(size, end - start)))
            for at in range(start, end, size):
                piece = buffer[: min(size, end - at)]
                filled = 0
                while filled < len(piece):
                    if not (more := file.readinto(piece[filled:])):
                        raise CheckpointError(
                            f"Expected {end} bytes in {path}, got {at + filled}; it was changed "
                            f"while it was read: let nothing write there, and run again."
                        )
                    filled += more
                yield piece
    except OSError as error:
        raise CheckpointError(f"Expected to read {path}, got {error}; check it.") from error


def _only_checkpoint(folder: Path) -> Path:
    """Find the index of a folder, or else its one file."""
    found = sorted(folder.glob(f"*{INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found[:6]) or "none"
        raise CheckpointError(
            f"Expected one safetensors file or one index of shards in {folder}, got {listed}; "
            f"name the file that you mean."
        )
    return found[0]


def _plain(name: object) -> bool:
    """Say whether a shard's name can be nothing but a file of its folder."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and len(name.encode()) <= 200
    )


def _inside(folder: Path, name: str, index: Path, *, follow_links: bool) -> Path:
    path = folder / name
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise _wrong(index, f"{name!r}, a link that leads nowhere") from error
    if real.parent != folder.resolve() and not follow_links:
        raise CheckpointError(
            f"Expected shards of {index} in its folder, got {name!r}, a link to {real}; copy "
            f"the file there, or give --follow-links if you trust whoever made the links."
        )
    return path


def _agree(shard: Shard, promised: set[str], index: Path) -> None:
    found = shard.header.entries.keys()
    if found != promised:
        lacking, extra = sorted(promised - found)[:3], sorted(found - promised)[:3]
        raise CheckpointError(
            f"Expected {shard.path} to hold what {index.name} says, got a shard that lacks "
            f"{lacking} and has also {extra}; download or copy the checkpoint again."
        )


def _wrong(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"Expected {path} to name the shard of every tensor, plain names that end in "
        f".safetensors, got {what}; download or copy it again."
    )
