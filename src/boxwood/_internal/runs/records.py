"""The formats of a store's texts: notes of runs, and records of finished phases.

Whatever is read has been checked, so that nobody who uses it has to. A text says by `SEAL` what it
was when it was written; older ones say nothing of the kind and are checked by their form alone.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boxwood._internal.core.digests import digest
from boxwood._internal.core.reading import read_whole, shown, strict_json
from boxwood.errors import BoxwoodError, CheckpointError

FORMAT = 2
"""The form of notes, records and snapshots. In form 1 classes had other names and other fields."""

SEAL = "seal"
"""Key of the digest of everything else in a text."""

_LONGEST = 1e12
"""More seconds than any phase took."""

_KEY = re.compile(r"[0-9A-Za-z_-]{1,64}")


class OtherFormatError(CheckpointError):
    """An older or a newer Boxwood wrote this file, so it is whole, and stays."""


def sealed_text(content: Mapping[str, Any]) -> str:
    """Write JSON in which a change is noticed.

    Example:
        >>> print(sealed_text({"a": 1}), end="")
        {
         "a": 1,
         "seal": "015abd7f5cc57a2dd94b"
        }
    """
    plain = json.loads(json.dumps(content, allow_nan=False))  # as it will be read
    whole = {**plain, SEAL: digest(plain)}
    return json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_note(path: Path) -> dict[str, Any]:
    """Read what was asked for: name, chain, genesis, recipe.

    Raises:
        FileNotFoundError: it is not there.
        CheckpointError: it is damaged, of a newer form, or no file at all.
    """
    found = _read(path)
    chain, recipe, genesis = found.get("chain"), found.get("recipe"), found.get("genesis")
    _expect(path, isinstance(found.get("name"), str), "no name")
    _expect(path, _is_chain(chain), "no chain of keys")
    _expect(path, isinstance(genesis, dict), "no start")
    _expect(path, type(_of(genesis, "seed", 0)) is int, "a seed that is no whole number")
    named = _of(genesis, "checkpoint_sha256", None)
    _expect(path, named is None or isinstance(named, str), "no name of a checkpoint")
    specs = isinstance(recipe, list) and all(isinstance(phase, dict) for phase in recipe)
    _expect(path, specs and len(recipe or ()) + 1 == len(chain or ()), "not a phase for every key")
    return found


def read_record(path: Path) -> dict[str, Any]:
    """Read what is written about a phase: spec, parent, facts, checksum, provenance.

    Raises:
        FileNotFoundError: it is not there.
        CheckpointError: it is damaged, of a newer form, or no file at all.
    """
    found = _read(path)
    spec, provenance = found.get("spec"), found.get("provenance")
    parent = found.get("parent", "")
    _expect(path, isinstance(spec, dict) and isinstance(_of(spec, "is", 0), str), "no phase")
    _expect(path, parent is None or is_key(parent), "no key of the phase before it")
    _expect(path, isinstance(found.get("facts"), dict), "no facts")
    _expect(path, isinstance(found.get("sha256"), str), "no checksum")
    plain = str | int | float | None
    flat = isinstance(provenance, dict) and all(isinstance(v, plain) for v in provenance.values())
    _expect(path, flat, "no provenance")
    seconds = _of(provenance, "seconds", 0.0)
    _expect(path, isinstance(seconds, int | float) and 0 <= seconds < _LONGEST, "no time")
    return found


def is_key(value: object) -> bool:
    """Say whether a value can name a phase, and no other place on the disk.

    Example:
        >>> is_key("3f2a"), is_key("../3f2a")
        (True, False)
    """
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def check_format(found: Any, path: Path) -> None:
    """Refuse what a newer or an older Boxwood wrote.

    Raises:
        OtherFormatError: its form is another one than `FORMAT`.
        CheckpointError: its form is none.

    Example:
        >>> check_format(1, Path("phase.json"))
        Traceback (most recent call last):
        ...
        boxwood._internal.runs.records.OtherFormatError: Expected a file of format 2, got format 1 in phase.json, which an older Boxwood wrote; run the experiment again into a new store, or use that Boxwood.
        >>> check_format(3, Path("phase.json"))
        Traceback (most recent call last):
        ...
        boxwood._internal.runs.records.OtherFormatError: Expected a file of format 2, got format 3 in phase.json; use the newer Boxwood that wrote it, or another store.
    """
    _expect(path, type(found) is int and found >= 1, f"the format {shown(found)}")
    if found < FORMAT:
        raise OtherFormatError(
            f"Expected a file of format {FORMAT}, got format {found} in {path}, which an older "
            f"Boxwood wrote; run the experiment again into a new store, or use that Boxwood."
        )
    if found > FORMAT:
        raise OtherFormatError(
            f"Expected a file of format {FORMAT}, got format {found} in {path}; use the newer "
            f"Boxwood that wrote it, or another store."
        )


def damaged(path: Path, why: object) -> CheckpointError:
    """Make the error for a file of a store that is not what was written."""
    return CheckpointError(
        f"Expected an undamaged file at {path}, got one that cannot be used ({why}); "
        f"delete {path.parent if path.parent.parent.name == 'phases' else path} "
        f"and run again, or copy the file again."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = strict_json(read_whole(path))
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # halves of characters
        check_format(found.get("format", 1), path)
        seal = found.pop(SEAL, None)
        if seal not in (None, digest(found)):
            raise damaged(path, "its text is not what was written")
    except (FileNotFoundError, BoxwoodError):
        raise
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    return found


def _expect(path: Path, held: bool, what: str) -> None:
    if not held:
        raise damaged(path, what)


def _of(value: Any, key: str, default: Any) -> Any:
    return value.get(key, default) if isinstance(value, dict) else None


def _is_chain(chain: object) -> bool:
    return isinstance(chain, list) and len(chain) > 0 and all(map(is_key, chain))
