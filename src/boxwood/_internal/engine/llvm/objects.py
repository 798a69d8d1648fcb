"""Machine code: compile LLVM text into a relocatable object, and load one without LLVM.

The code of kernels calls nothing outside itself, so that loading needs no linker: sections are
laid into one mapping, references within it are filled in, and it is made executable.
"""

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Mapping
from typing import Any

from boxwood._internal.core.extras import extra
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput

_ALLOCATED, _NO_BITS, _RELOCATIONS, _SYMBOLS = 2, 8, 4, 2
_PC32, _PLT32 = 2, 4  # R_X86_64_*: both are S + A − P for code that is not shared
_X86_64 = 62


class Library:
    """Loaded functions; their addresses hold as long as this object lives.

    Args:
        addresses: symbol to address.
        owner: what keeps the memory alive.
    """

    def __init__(self, addresses: Mapping[str, int], owner: object) -> None:
        self._addresses = dict(addresses)
        self._owner = owner

    def address(self, entry: str) -> int:
        """Where the function starts.

        Raises:
            InvalidInput: the library has no such function.
        """
        if entry not in self._addresses:
            raise InvalidInput(
                f"Expected a function {entry!r} among {len(self._addresses)} compiled ones, got "
                "none; compile the program again."
            )
        return self._addresses[entry]

    def function(self, entry: str) -> Any:
        """The kernel as a ctypes function of (arguments, thread, threads)."""
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        return kind(self.address(entry))


def llvm() -> Any:
    """The binding of llvmlite, ready for every target.

    Raises:
        MissingDependency: llvmlite is not installed.
    """
    instead = "load a compiled model, which needs none"
    with extra("engine", "llvmlite to compile kernels", instead=instead):
        import llvmlite.binding as binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return binding


def compile_text(text: str, target: Target) -> bytes:
    """Compile LLVM text into a relocatable object.

    Args:
        text: a module.
        target: the family to compile for.

    Raises:
        MissingDependency: llvmlite is missing.
        InvalidInput: LLVM refuses the text.
    """
    machine, module = _optimized(text, target)
    return bytes(machine.emit_object(module))


def assembly(text: str, target: Target) -> str:
    """The assembly text of a module, for people.

    Raises:
        MissingDependency: llvmlite is missing.
        InvalidInput: LLVM refuses the text.
    """
    machine, module = _optimized(text, target)
    return str(machine.emit_assembly(module))


def _optimized(text: str, target: Target) -> tuple[Any, Any]:
    binding = llvm()
    machine = binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
    )
    try:
        module = binding.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        raise InvalidInput(
            f"Expected LLVM text that verifies, got an error ({error}); report it with the layer."
        ) from error
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    # Kernels are written as vectors already: widening or unrolling their loops again spills.
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    tuning.loop_unrolling = False
    passes = binding.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    return machine, module


def load_library(objects: Mapping[str, bytes]) -> Library:
    """Load objects; on Linux with x86-64 this needs no LLVM.

    Args:
        objects: entry symbol to the object that holds it.

    Raises:
        InvalidInput: an object is damaged, or for another machine.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return _load_by_llvm(objects)
    images = {entry: _Image(entry, data) for entry, data in objects.items()}
    total = sum(image.size for image in images.values())
    if not total:
        return Library({}, None)
    memory = mmap.mmap(-1, total, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    addresses, start = {}, 0
    for entry, image in images.items():
        image.write_(memory, start)
        addresses[entry] = base + start + image.entry_offset()
        start += image.size
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(
        ctypes.c_void_p(base), ctypes.c_size_t(total), mmap.PROT_READ | mmap.PROT_EXEC
    ):
        raise InvalidInput(
            "Expected to make compiled code executable, got a refusal from the system (errno "
            "{ctypes.get_errno()}); allow executable memory or run the model in torch."
        )
    return Library(addresses, memory)


def _load_by_llvm(objects: Mapping[str, bytes]) -> Library:
    binding = llvm()
    engine = binding.create_mcjit_compiler(
        binding.parse_assembly(""), binding.Target.from_default_triple().create_target_machine()
    )
    for data in objects.values():
        engine.add_object_file(binding.object_file.ObjectFileRef.from_data(data))
    engine.finalize_object()
    return Library({entry: engine.get_function_address(entry) for entry in objects}, engine)


class _Image:
    """The allocated sections of one ELF object, laid out one after the other."""

    def __init__(self, entry: str, data: bytes) -> None:
        self.entry = entry
        self.data = data
        try:
            self._read()
        except (struct.error, IndexError, ValueError) as error:
            raise InvalidInput(
                f"Expected an x86-64 object that holds {entry!r}, got {len(data)} bytes that "
                f"are not one ({error}); compile the program again."
            ) from error

    def _read(self) -> None:
        data = self.data
        if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18)[0] != _X86_64:
            raise ValueError("wrong header")
        table = struct.unpack_from("<Q", data, 40)[0]
        size, count, _ = struct.unpack_from("<HHH", data, 58)
        # name, type, flags, address, offset, size, link, info, align, entry size
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)
        ]
        self.places: dict[int, int] = {}
        position = 0
        for index, (_, kind, flags, _, offset, length, _, _, align, _) in enumerate(self.sections):
            if kind != _NO_BITS and offset + length > len(data):
                raise ValueError("cut short")
            if flags & _ALLOCATED and length and self._name(index) != b".eh_frame":
                position += -position % max(align, 1)
                self.places[index] = position
                position += length
        self.size = position + -position % mmap.PAGESIZE
        self.symbols: list[tuple[bytes, int, int]] = []
        for _, kind, _, _, offset, length, link, _, _, _ in self.sections:
            if kind == _SYMBOLS:
                strings = self.sections[link][4]
                for place in range(offset, offset + length, 24):
                    name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, place)
                    self.symbols.append((self._string(strings + name), section, value))

    def _string(self, place: int) -> bytes:
        return self.data[place : self.data.index(b"\0", place)]

    def _name(self, index: int) -> bytes:
        names = struct.unpack_from("<H", self.data, 62)[0]
        return self._string(self.sections[names][4] + self.sections[index][0])

    def entry_offset(self) -> int:
        """Where the entry is in the image."""
        for name, section, value in self.symbols:
            if name == self.entry.encode() and section in self.places:
                return self.places[section] + value
        raise InvalidInput(
            f"Expected an object that holds {self.entry!r}, got one without it; "
            "compile the program again."
        )

    def write_(self, memory: mmap.mmap, start: int) -> None:
        """Copy the sections to ``start`` and fill in what they say of each other."""
        for index, place in self.places.items():
            _, kind, _, _, offset, length, *_ = self.sections[index]
            if kind != _NO_BITS:
                memory[start + place : start + place + length] = self.data[offset : offset + length]
        for _, kind, _, _, offset, length, _, info, _, _ in self.sections:
            if kind != _RELOCATIONS or info not in self.places:
                continue
            for place in range(offset, offset + length, 24):
                at, what, addend = struct.unpack_from("<QQq", self.data, place)
                name, section, value = self.symbols[what >> 32]
                if what & 0xFFFFFFFF not in {_PC32, _PLT32} or section not in self.places:
                    raise InvalidInput(
                        f"Expected an object that refers to nothing outside itself, got "
                        f"{name.decode()!r} (relocation {what & 0xFFFFFFFF}); "
                        "compile the program again."
                    )
                here = self.places[info] + at
                struct.pack_into(
                    "<i", memory, start + here, self.places[section] + value + addend - here
                )
