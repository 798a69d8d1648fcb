"""The documented format: the page's own reader reads it, and a small file has these bytes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from boxwood._internal.files.packed import pack_file, unpack_file

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]


@pytest.fixture(scope="module")
def read_packed():
    """Run the code of the page; it may import numpy and the standard library, nothing else."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
    modules = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
    assert modules == {"json", "math", "zlib", "numpy"}
    assert len(code.splitlines()) <= 72  # a page
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - the point of the test
    return names["read_packed"]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.9, 0.99])
def test_the_reader_of_the_page_reads_what_pack_wrote(sparsity, tmp_path, read_packed):
    """Every tensor and mask that went in comes out in numpy alone, whatever its type."""
    generator = torch.Generator().manual_seed(0)
    tensors, masks = {"steps": torch.arange(5), "on": torch.tensor([True, False])}, {}
    for dtype in DTYPES:
        name = f"a {dtype}"
        masks[name] = torch.rand(37, 41, generator=generator) >= sparsity
        values = torch.randn(37, 41, generator=generator)
        values[0, 0], values[0, 1], values[0, 2] = -0.0, float("nan"), 0.0
        masks[name][0, :3] = True
        tensors[name] = values.masked_fill(~masks[name], 0).to(dtype)
        tensors[f"b {dtype}"] = tensors[name].clone()
    save_file(tensors, tmp_path / "dense.safetensors")
    save_file(masks, tmp_path / "masks.safetensors")
    pack_file(
        tmp_path / "dense.safetensors", tmp_path / "p.safetensors", tmp_path / "masks.safetensors"
    )
    found, kept = read_packed(tmp_path / "p.safetensors")
    assert kept.keys() == masks.keys()
    assert all(np.array_equal(kept[name], masks[name].numpy()) for name in masks)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:
            expected = tensor.float().view(torch.int32).numpy()
            assert np.array_equal(found[name].view("<i4"), expected)
        else:
            assert found[name].tobytes() == tensor.view(torch.uint8).numpy().tobytes()


def test_a_small_file_has_the_bytes_that_the_page_says(tmp_path):
    """One tensor of 64 float16 with three values, worked out by hand."""
    dense = torch.zeros(4, 64, dtype=torch.float16)
    dense[0, 1], dense[0, 6], dense[3, 63] = 1.0, -0.0, 2.0
    save_file({"w": dense}, tmp_path / "dense.safetensors")
    pack_file(tmp_path / "dense.safetensors", tmp_path / "packed.safetensors")
    data = (tmp_path / "packed.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    about = json.loads(header["__metadata__"]["boxwood.packed"])["tensors"]["w"]
    # Runs of 1, 4 and 248: three fields of 8 bits take 3 bytes; of 7 bits they are four, as 248 is
    # 127 + 121, and take 4 bytes.
    assert (about["kept"], about["index_bits"], about["fields"]) == (3, 8, 3)
    assert data[start:].hex() == "003c" + "0080" + "0040" + "0104f8" + "00" * 5
    assert header["values/w"] == {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]}
    assert header["mask/w"] == {"dtype": "U8", "shape": [8], "data_offsets": [6, 14]}


def test_unpacking_gives_back_a_header_however_it_was_written(tmp_path):
    """Padding, order and escapes of the dense header survive, because it is kept as it was."""
    body = torch.eye(128).numpy().tobytes()
    text = (
        '{"é\\u00e9" : {"data_offsets":[0, 65536],  "shape":[128,128],"dtype":"F32"},'
        '"__metadata__":{"by":"h\\u00e4nd"}}     '
    ).encode()
    dense = len(text).to_bytes(8, "little") + text + body
    (tmp_path / "dense.safetensors").write_bytes(dense)
    layouts = pack_file(tmp_path / "dense.safetensors", tmp_path / "packed.safetensors")
    assert layouts[0].packed
    unpack_file(tmp_path / "packed.safetensors", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == dense
