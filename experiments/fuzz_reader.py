"""A million damaged headers, indexes, packed and shrunken files and checkpoints against the readers.

The law: whatever is given, a reader raises a BoxwoodError, or what it says is true. A header that is
accepted must be read alike by the library of the format; a packed file that unpacks must give the
bytes that were packed, and a file of masks or of a shrunken network what was written; a checkpoint is never written to, and nothing appears outside the output.
Anything else, such as another exception, is a failure and is kept with the case that caused it.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file

from boxwood import find_units, select_units, shrink
from boxwood._internal.files.checkpoint import read_index
from boxwood._internal.files.header import announced_length, parse_header
from boxwood._internal.graph.record import load_shrunken, record_of, save_shrunken
from boxwood._internal.runs.provenance import provenance
from boxwood.errors import BoxwoodError
from boxwood.files import load_masks, pack_file, unpack_file
from boxwood.oneshot import prune_checkpoint

PATH = Path("fuzzed.safetensors")
SHARES = {"headers": 0.94, "indexes": 0.03, "packed": 0.018, "masks": 0.01, "checkpoints": 0.002, "shrunken": 0.01}  # fmt: skip
NASTY = [
    -1, 0, 1, 2, 3, 4, 7, 8, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30,
    0.5, 1.0, -0.0, 1e308, True, False, None, "", "F32", "F4", "BOOL", "U8", "../x", "/x", [], [0], [1, 2],
    [-1], [2**63], [1] * 40, [[]], {}, {"a": 1}, "\ud800", "\n", "x" * 500, float("nan"), float("inf"),
]  # fmt: skip
SNIPPETS = [b"-", b"0", b"9" * 25, b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\u0000", b"\\ud800",
            b"NaN", b"null", b"1e5", b"\x80\x04", b"PK", b"\xff", b" ", b"\n", b"[" * 2000]  # fmt: skip


def main() -> None:
    """Run the cases and write the counts down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_050_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("experiments/results/fuzz.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that a file lacks checksums
    begin = time.perf_counter()
    counts: dict[str, Counter[str]] = {}
    failures: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.kinds:
            chance = random.Random(f"{given.seed} {name}")
            attempt = KINDS[name](Path(folder) / name, chance)
            counts[name] = Counter()
            for case in range(round(SHARES[name] * given.cases)):
                try:
                    outcome = attempt()
                except BoxwoodError:
                    outcome = "refused"
                except Exception as error:  # noqa: BLE001 - the very thing that is looked for
                    outcome = "FAILED"
                    what = f"{type(error).__name__}: {error}"[:300]
                    failures.append({"kind": name, "case": str(case), "error": what})
                counts[name][outcome] += 1
    found = {
        "cases": sum(sum(each.values()) for each in counts.values()),
        "seed": given.seed,
        "outcomes": {name: dict(sorted(each.items())) for name, each in counts.items()},
        "failures": failures[:50],
        "seconds": round(time.perf_counter() - begin, 1),
        "safetensors": safetensors.__version__,
        "machine": provenance(),
    }
    given.out.write_text(json.dumps(found, indent=1, default=str) + "\n")
    print(json.dumps(found, indent=1, default=str))


def must(held: bool) -> None:
    """Fail if a law does not hold."""
    if not held:
        raise AssertionError("the law does not hold")


def headers(folder: Path, chance: random.Random) -> Callable[[], str]:
    """Headers in memory, compared with the library of the format."""
    del folder
    tensors = {
        "a": torch.zeros(2, 3), "b.weight": torch.zeros(5, dtype=torch.bfloat16),
        "c": torch.zeros(0, 4), "d": torch.tensor(1), "e": torch.zeros(3, dtype=torch.bool),
    }  # fmt: skip
    seeds = [
        save(dict(list(tensors.items())[:n]), {"format": "pt"} if n % 2 else None) for n in range(6)
    ]

    def attempt() -> str:
        data = mutated(chance.choice(seeds), chance)
        try:
            length = announced_length(data[:8], len(data), PATH)
            header = parse_header(data[8 : 8 + length], len(data), PATH)
        except BoxwoodError:
            try:
                safetensors.deserialize(data)
            except SafetensorError:
                return "refused by both"
            return "refused by us alone"
        theirs = dict(safetensors.deserialize(data))
        must(header.entries.keys() == theirs.keys())
        for name, entry in header.entries.items():
            must(entry.dtype == theirs[name]["dtype"])
            must(list(entry.shape) == theirs[name]["shape"])
            must(data[entry.start : entry.end] == bytes(theirs[name]["data"]))
        return "read alike"

    return attempt


def indexes(folder: Path, chance: random.Random) -> Callable[[], str]:
    """Indexes: every name that is accepted is a plain file of the folder."""
    folder.mkdir()
    path = folder / "model.safetensors.index.json"
    right = {
        "metadata": {"total_size": 9},
        "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"},
    }
    names = [
        "../m.safetensors",
        "/m.safetensors",
        "a/m.safetensors",
        "..",
        "m\\.safetensors",
        ".m.safetensors",
    ]

    def attempt() -> str:
        listed = json.loads(json.dumps(right))
        if chance.random() < 0.5:
            listed["weight_map"]["a"] = chance.choice(names)
        text = json.dumps(change(listed, chance) if chance.random() < 0.5 else listed).encode()
        path.write_bytes(text if chance.random() < 0.3 else scratched(text, chance))
        for name in read_index(path).values():
            file = (folder / name).resolve()
            must(file.parent == folder.resolve())
            must(file.suffix == ".safetensors")
        return "read"

    return attempt


def packed(folder: Path, chance: random.Random) -> Callable[[], str]:
    """Packed files: what unpacks are the bytes that were packed."""
    dense, data, _ = small_pack(folder)
    bad, out = folder / "bad.safetensors", folder / "out.safetensors"

    def attempt() -> str:
        bad.write_bytes(repacked(data, chance) if chance.random() < 0.5 else mutated(data, chance))
        try:
            unpack_file(bad, out)
        finally:
            must(not any(path.name.startswith(".") for path in folder.iterdir()))
        must(out.read_bytes() == dense)
        out.unlink()
        return "the same bytes"

    return attempt


def masks(folder: Path, chance: random.Random) -> Callable[[], str]:
    """Files of masks: what loads are the masks that were written."""
    small_pack(folder)
    unpack_file(folder / "packed.safetensors", folder / "back.safetensors")
    data = (folder / "masks" / "back.safetensors").read_bytes()
    right = load_masks(folder / "masks" / "back.safetensors")
    bad = folder / "bad.safetensors"

    def attempt() -> str:
        bad.write_bytes(mutated(data, chance))
        found = load_masks(bad)
        must(found.keys() == right.keys())
        must(all(torch.equal(found[name], right[name]) for name in right))
        return "read rightly"

    return attempt


def checkpoints(folder: Path, chance: random.Random) -> Callable[[], str]:
    """Whole checkpoints: the input stays as it is, and nothing appears next to the output."""
    source = folder / "in"
    source.mkdir(parents=True)
    where = {}
    for shard in range(2):
        name = f"model-{shard}.safetensors"
        save_file({f"w{shard}": torch.randn(4, 5), f"b{shard}": torch.ones(5)}, source / name)
        where |= {f"w{shard}": name, f"b{shard}": name}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    right = {path.name: path.read_bytes() for path in source.iterdir()}

    def attempt() -> str:
        victim = chance.choice(sorted(right))
        spoil = mutated if victim.endswith(".safetensors") else scratched
        bad = spoil(right[victim], chance)
        (source / victim).write_bytes(bad)
        try:
            prune_checkpoint(source, folder / "out", 0.5)
            return "pruned"
        finally:
            must((source / victim).read_bytes() == bad)
            must({path.name for path in folder.iterdir()} <= {"in", "out"})
            must({path.name for path in source.iterdir()} == right.keys())
            (source / victim).write_bytes(right[victim])
            shutil.rmtree(folder / "out", ignore_errors=True)

    return attempt


def shrunken(folder: Path, chance: random.Random) -> Callable[[], str]:
    """Shrunken networks: what loads is the network that was written."""
    folder.mkdir()

    def build() -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 2)
        )

    first = build()
    selection = select_units(find_units(first, torch.ones(1, 4)), 0.5)
    path, bad = folder / "small.safetensors", folder / "bad.safetensors"
    save_shrunken(shrink(first, selection), record_of(first, selection), path)
    data, right = path.read_bytes(), load_shrunken(path, build)

    def attempt() -> str:
        broken = bytearray(mutated(data, chance))
        if chance.random() < 0.3:
            broken = bytearray(repacked(data, chance, ["boxwood.structure"]))
        bad.unlink(missing_ok=True)  # what was loaded may still lie in it
        bad.write_bytes(broken)
        found = load_shrunken(bad, build)
        must(str(found) == str(right))
        weights = found.state_dict()
        must(all(torch.equal(weights[n], t) for n, t in right.state_dict().items()))
        return "read rightly"

    return attempt


KINDS = {
    "headers": headers,
    "indexes": indexes,
    "packed": packed,
    "masks": masks,
    "checkpoints": checkpoints,
    "shrunken": shrunken,
}


def small_pack(folder: Path) -> tuple[bytes, bytes, Path]:
    """Write a packed file with every kind of tensor in it, and a mask."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(16, 16, generator=generator) < 0.3
    tensors = {
        "a": torch.randn(16, 16, generator=generator) * keep,
        "b": (
            torch.randn(16, 16, generator=generator)
            * (torch.rand(16, 16, generator=generator) < 0.05)
        ).half(),
        "c": torch.ones(3),
        "d": torch.arange(3),
    }
    tensors["a"] = tensors["a"].masked_fill(~keep, 0)
    tensors["b"] = tensors["b"].masked_fill(tensors["b"] == 0, 0)
    save_file(tensors, folder / "dense.safetensors")
    save_file({"a": keep}, folder / "bools.safetensors")
    target = folder / "packed.safetensors"
    pack_file(folder / "dense.safetensors", target, folder / "bools.safetensors")
    return (folder / "dense.safetensors").read_bytes(), target.read_bytes(), target


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Damage a safetensors file: its bytes, its length, or the values in its header."""
    start = 8 + int.from_bytes(data[:8], "little")
    if chance.random() < 0.5:
        listed = change(json.loads(data[8:start]), chance)
        text = json.dumps(listed, ensure_ascii=chance.random() < 0.9).encode(
            "utf-8", "surrogatepass"
        )
        text += b" " * chance.choice([0, 0, -len(text) % 8])
        body = data[start:] if chance.random() < 0.9 else data[start:-1]
        return len(text).to_bytes(8, "little") + text + body
    if chance.random() < 0.2:
        return (start - 8 + chance.choice([-1, 1, 8, 2**20, 2**40, 2**63])).to_bytes(
            8, "little"
        ) + data[8:]
    return scratched(data, chance)


def scratched(data: bytes, chance: random.Random) -> bytes:
    """Change, remove, insert or repeat a few bytes."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                del made[at : at + chance.choice([1, 2, 8, 1000])]
            case 2:
                made[at:at] = chance.choice(SNIPPETS)
            case _:
                made[at:at] = made[at : at + chance.choice([1, 4, 30])]
    return bytes(made)


def change(value: object, chance: random.Random) -> object:
    """Put something nasty at one random place of a JSON value, or take something out."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        if chance.random() < 0.08:
            return {k: v for k, v in value.items() if k != key}
        if chance.random() < 0.08:
            return {**value, str(chance.choice(NASTY)): value[key]}
        return {**value, key: change(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], change(value[at], chance), *value[at + 1 :]]
    if isinstance(value, int) and chance.random() < 0.4:
        return value + chance.choice([-8, -4, -1, 1, 2, 4, 8])
    return chance.choice(NASTY)


PACKED = ["boxwood.packed", "boxwood.packed", "boxwood.header"]


def repacked(data: bytes, chance: random.Random, keys: list[str] = PACKED) -> bytes:
    """Damage what a file says of itself, in a file that is otherwise right."""
    start = 8 + int.from_bytes(data[:8], "little")
    listed = json.loads(data[8:start])
    key = chance.choice(keys)
    inner = change(json.loads(listed["__metadata__"][key]), chance)
    listed["__metadata__"][key] = json.dumps(inner)
    text = json.dumps(listed).encode()
    return len(text).to_bytes(8, "little") + text + data[start:]


if __name__ == "__main__":
    main()
