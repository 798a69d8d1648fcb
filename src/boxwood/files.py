"""Files: packed checkpoints and masks."""

from boxwood._internal.files.checkpoint import open_checkpoint
from boxwood._internal.files.mask_files import load_masks
from boxwood._internal.files.packed import pack_file, unpack_file

__all__ = [
    "load_masks",
    "open_checkpoint",
    "pack_file",
    "unpack_file",
]
