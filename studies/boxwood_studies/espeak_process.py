"""The process in which eSpeak NG speaks: lines as JSON on stdin, what was spoken on stdout.

`boxwood_studies.espeak` starts this file with ``python -I``. eSpeak NG keeps random numbers and voices
in global variables, so the same line sounds different after another one: in a process of its own,
the same lines always sound the same. Nothing but Python's own modules is imported here.

For every line, the answer is one line of JSON, ``{"samples": n, "phones": [[start, name], ...]}``,
and then n samples as native int16. A reason why that cannot be goes to stderr, with exit status 3.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

CANNOT = 3
_SYNCHRONOUS, _PHONE_EVENTS, _DO_NOT_EXIT = 2, 1, 0x8000
_PHONE, _END = 7, 0
_RATE, _UTF8, _CHARACTERS = 1, 1, 1


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h; its last member is a union, of which phones use the text."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Speaker:
    """The library, opened once in a process.

    Args:
        library: name of the shared library.
    """

    def __init__(self, library: str) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            cannot(str(error))
        self.rate: int = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, None, _PHONE_EVENTS | _DO_NOT_EXIT
        )
        if self.rate <= 0:
            cannot("eSpeak NG finds none of its voices")
        self._library.espeak_Info.restype = ctypes.c_char_p
        folder = ctypes.c_char_p()
        self._library.espeak_Info(ctypes.byref(folder))
        self._variants = Path((folder.value or b"").decode()) / "voices" / "!v"
        self._samples = bytearray()
        self._phones: list[tuple[int, str]] = []
        # Kept: ctypes does not, and the library calls it later.
        self._callback = _Callback(self._heard)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(
        self, voice: str, words_per_minute: int, text: str
    ) -> tuple[bytes, list[tuple[int, str]]]:
        """Speak one line: its samples, and where which phone starts."""
        # An unknown variant is not an error to eSpeak NG, it speaks with the plain voice.
        _, _, variant = voice.partition("+")
        if variant and not (self._variants / variant).is_file():
            cannot(f"eSpeak NG has no variant {variant!r} of voices in {self._variants}")
        if self._library.espeak_SetVoiceByName(voice.encode()):
            cannot(f"eSpeak NG has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._samples.clear()
        self._phones.clear()
        said = text.encode()
        failed = self._library.espeak_Synth(
            said, len(said) + 1, 0, _CHARACTERS, 0, _UTF8, None, None
        )
        if failed or self._library.espeak_Synchronize():
            cannot(f"eSpeak NG does not speak {text!r}")
        return bytes(self._samples), list(self._phones)

    def _heard(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._samples += ctypes.string_at(samples, 2 * count)
        index = 0
        while events[index].type != _END:
            if events[index].type == _PHONE:
                name = events[index].string.decode("utf-8", "replace")
                self._phones.append((events[index].sample, name))
            index += 1
        return 0


def cannot(why: str) -> NoReturn:
    """Say why, and end."""
    sys.stderr.write(why)
    sys.exit(CANNOT)


def main() -> None:
    """Speak all lines."""
    order = json.load(sys.stdin)
    speaker = Speaker(order["library"])
    out = sys.stdout.buffer
    out.write(json.dumps({"rate": speaker.rate}).encode() + b"\n")
    for voice, words_per_minute, text in order["lines"]:
        samples, phones = speaker.say(voice, words_per_minute, text)
        out.write(json.dumps({"samples": len(samples) // 2, "phones": phones}).encode() + b"\n")
        out.write(samples)


if __name__ == "__main__":
    main()
