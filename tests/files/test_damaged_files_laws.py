"""Damage to a file of masks, a packed or a shrunken one: refused, or without any consequence."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from boxwood._internal.core.tensor_files import checksum_of
from boxwood._internal.files.mask_files import load_masks, masks_file_of, write_with_masks
from boxwood._internal.files.packed import pack_file, unpack_file
from boxwood._internal.graph.record import load_shrunken, record_of, save_shrunken
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError

GENERATOR = torch.Generator().manual_seed(0)
MASKS = {name: torch.rand(*shape, generator=GENERATOR) < 0.4 for name, shape in (("a", (5, 7)), ("b.weight", (2, 3, 4)), ("empty", (0, 3)))}  # fmt: skip
EXAMPLE = torch.ones(1, 4)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def mask_file(folder: Path) -> Path:
    weights = {name: torch.ones(mask.shape) * mask for name, mask in MASKS.items()}
    write_with_masks(folder / "a.safetensors", weights, MASKS)
    return masks_file_of(folder / "a.safetensors")


def packed_file(folder: Path) -> Path:
    mask_file(folder)
    pack_file(folder / "a.safetensors", folder / "packed.safetensors")
    return folder / "packed.safetensors"


def shrunken_file(folder: Path) -> Path:
    torch.manual_seed(0)
    first = net()
    selection = select_units(find_units(first, EXAMPLE), 0.5)
    save_shrunken(
        shrink(first, selection), record_of(first, selection), folder / "small.safetensors"
    )
    return folder / "small.safetensors"


def unpacked(path: Path) -> dict[str, Tensor]:
    out = path.with_name("out.safetensors")
    unpack_file(path, out)
    return {"bytes": torch.frombuffer(bytearray(out.read_bytes()), dtype=torch.uint8)}


def loaded(path: Path) -> dict[str, Tensor]:
    small = load_shrunken(path, net)
    weights = {
        name: tensor.clone() for name, tensor in small.state_dict().items()
    }  # not the file's
    return {**weights, "sizes": torch.tensor([*small[1].normalized_shape, small[0].out_features])}  # fmt: skip


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], dict[str, Tensor]]]] = {
    "masks": (mask_file, load_masks),
    "packed": (packed_file, unpacked),
    "shrunken": (shrunken_file, loaded),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_changed_bit_changes_what_is_read(kind: str, tmp_path: Path) -> None:
    """One bit of a byte, the header's and the tensors', each in a file of its own."""
    write, read = KINDS[kind]
    path = write(tmp_path)
    whole, right = path.read_bytes(), read(path)
    refused, places = 0, range(0, len(whole), 1 if kind == "masks" else 3)
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                found = read(path)
        except BoxwoodError:
            refused += 1
            continue
        assert found.keys() == right.keys(), place
        assert all(torch.equal(found[name], right[name]) for name in right), place
    assert refused > 0.9 * len(places)


def rewritten(path: Path, key: str, change: Callable[[dict], object], *, seal: bool) -> None:
    """Change what the metadata say, with the checksum that fits or with none."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    about = json.loads(header["__metadata__"][key])
    change(about)
    header["__metadata__"][key] = json.dumps(about)
    if key == "boxwood.structure":
        header["__metadata__"].pop("boxwood.sha256")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    if seal:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = file.metadata()
        told["boxwood.sha256"] = checksum_of(tensors, told[key])
        save_file(tensors, path, told)


def test_masks_without_checksums_are_read_with_a_warning(tmp_path: Path) -> None:
    """Files of the first version stay readable, and say what they lack."""
    path = mask_file(tmp_path)
    rewritten(path, "boxwood.masks", lambda about: (about.update(version=1), about.pop("crc32")), seal=False)  # fmt: skip
    with pytest.warns(UserWarning, match=r"written by an older Boxwood without checksums"):
        found = load_masks(path)
    assert all(torch.equal(found[name], mask) for name, mask in MASKS.items())


@pytest.mark.parametrize("version", [0, 3, "2", True, None])
def test_masks_of_an_unknown_version_are_refused(tmp_path: Path, version: object) -> None:
    """Newer than known, or no version at all."""
    path = mask_file(tmp_path)
    rewritten(path, "boxwood.masks", lambda about: about.update(version=version), seal=False)
    with pytest.raises(BoxwoodError, match="where this Boxwood knows 2"):
        load_masks(path)


@pytest.mark.parametrize("part", ["crc32", "shapes"])
def test_masks_that_lack_a_part_are_refused(tmp_path: Path, part: str) -> None:
    """Without checksums it is no file of version 2."""
    path = mask_file(tmp_path)
    rewritten(path, "boxwood.masks", lambda about: about.pop(part), seal=False)
    with pytest.raises(BoxwoodError, match="Expected bool masks, or bits with their shapes"):
        load_masks(path)


def test_shrunken_networks_without_a_checksum_are_read_with_a_warning(tmp_path: Path) -> None:
    """Files of the first format stay readable."""
    path = shrunken_file(tmp_path)
    right = loaded(path)
    rewritten(path, "boxwood.structure", lambda about: about.update(format=1), seal=False)
    with pytest.warns(UserWarning, match="written by an older Boxwood without a checksum"):
        found = loaded(path)
    assert all(torch.equal(found[name], right[name]) for name in right)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3}, {"format": "2"}, {"format": None},
        {"attributes": [[["gone"], 3]]}, {"attributes": [[[], 3]]},
        {"attributes": [[["__dict__"], 3]]}, {"attributes": [[["0", "__class__"], 3]]},
        {"attributes": [[["forward"], 3]]}, {"attributes": [[["0", "forward"], 3]]},
        {"attributes": [[["training"], 0]]}, {"attributes": [[["0", "weight"], 3]]},
        {"attributes": [[["0"], 3]]}, {"attributes": [[["1", "normalized_shape", 9], 3]]},
        {"attributes": [[["1", "normalized_shape", -1], 3]]},
        {"attributes": [[["1", "normalized_shape"], 3]]},
        {"attributes": [[["0", "in_features"], "3"]]}, {"attributes": [[["0", "in_features"], True]]},
        {"attributes": [[["0", "in_features"], 10**30]]}, {"attributes": 3}, {"attributes": [3]},
        {"attributes": [[["_modules", "0", "in_features", "real"], 3]]},
        {"kept": {"0.weight": [[9, [[0, 3]]]]}}, {"kept": {"0.weight": [[-1, [[0, 3]]]]}},
        {"kept": {"0.weight": [["0", [[0, 3]]]]}}, {"kept": {"0.weight": [[0, [[3, 0]]]]}},
        {"kept": {"0.weight": [[0, [[-3, 0]]]]}}, {"kept": {"0.weight": [[0, [[4, 7]]]]}},
        {"kept": {"0.weight": [[0, [["a", "b"]]]]}}, {"kept": []}, {"kept": {"0.weight": 3}},
        {"shapes": {}}, {"shapes": {"0.weight": "x"}}, {"shapes": []}, {"shapes": {"gone": [3]}},
        {"baked": [["gone", "weight"]]}, {"baked": [["0"]]}, {"baked": 3}, {"baked": [["0", "weight"]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_that_lies_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """With the right checksum over it: paths to nowhere, methods, axes and ranges that are not there."""
    path = shrunken_file(tmp_path)
    rewritten(path, "boxwood.structure", lambda about: about.update(change), seal=True)
    with pytest.raises(BoxwoodError, match="Expected"):
        load_shrunken(path, net)
