"""Speech from eSpeak NG, with the phone at every moment."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boxwood.errors import InvalidInput
from boxwood_studies import espeak_process

LIBRARY = "libespeak-ng.so.1"
"""Name of eSpeak NG's shared library, as the loader of programs knows it."""


@dataclass(frozen=True)
class Line:
    """Something to say, and who says it.

    Args:
        voice: a voice of eSpeak NG, with a variant or without: ``"en-us"``, ``"en-us+f3"``.
        text: one sentence.
        words_per_minute: how fast, in [80, 450].
    """

    voice: str
    text: str
    words_per_minute: int = 170


@dataclass(frozen=True, eq=False)
class Utterance:
    """What was said.

    Args:
        samples: the wave, float32 [n] in [-1, 1).
        rate: samples in a second.
        starts: sample at which each phone starts, int64 [p], ascending.
        phones: names of the p phones, in eSpeak NG's own alphabet; those of pauses begin with _.
    """

    samples: Tensor
    rate: int
    starts: Tensor
    phones: tuple[str, ...]

    def phone_at(self, places: Tensor) -> list[str]:
        """Name the phone at each of some samples; before the first one it is the pause ``_``.

        Args:
            places: int64 [k].

        Example:
            >>> said = Utterance(torch.zeros(9), 9, torch.tensor([2, 5]), ("h", "aI"))
            >>> said.phone_at(torch.tensor([0, 2, 4, 5, 8]))
            ['_', 'h', 'h', 'aI', 'aI']
        """
        # The last of several phones that start at one sample is the one that is heard.
        found = torch.searchsorted(self.starts, places, right=True) - 1
        return [self.phones[index] if index >= 0 else "_" for index in found.tolist()]


def speak(lines: Sequence[Line], *, library: str = LIBRARY) -> list[Utterance]:
    """Speak some lines, one after the other, in a process of its own.

    The times of phones are the synthesiser's own, and so exact. The same lines in the same order
    sound the same with one version of eSpeak NG; a line by itself may not, because the noise in it
    goes on from the line before.

    Args:
        lines: what to say.
        library: name of the shared library.

    Raises:
        InvalidInput: eSpeak NG is not installed, or has no such voice.

    Example:
        >>> (said,) = speak([Line("en-us", "Hi.")])  # doctest: +SKIP
        >>> said.phones  # doctest: +SKIP
        ('h', 'aI', '_:', '_')

    Source: eSpeak NG, the interface of its speak_lib.h. It is under the GPL, version 3 or later, and
    not shipped: the process opens it where it is installed.
    """
    order = {
        "library": library,
        "lines": [(line.voice, line.words_per_minute, line.text) for line in lines],
    }
    # -I: nothing of the folder or the environment is imported in place of Python's own modules.
    done = subprocess.run(  # noqa: S603 - this interpreter, a file of ours
        [sys.executable, "-I", str(Path(espeak_process.__file__))],
        input=json.dumps(order).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else f"the exit status {done.returncode}"
        raise InvalidInput(
            f"Expected eSpeak NG to speak {len(lines)} lines, got {why}; do apt-get install "
            f"espeak-ng (version 1.51 or later), or give voices that `espeak-ng --voices=en` and "
            f"`espeak-ng --voices=variant` list."
        )
    return _read(done.stdout, len(lines))


def _read(answer: bytes, count: int) -> list[Utterance]:
    place = answer.index(b"\n") + 1
    rate = int(json.loads(answer[:place])["rate"])
    found = []
    for _ in range(count):
        end = answer.index(b"\n", place) + 1
        about = json.loads(answer[place:end])
        place = end + 2 * about["samples"]
        samples = np.frombuffer(answer[end:place], np.int16).astype(np.float32) / 2**15
        starts = torch.tensor([start for start, _ in about["phones"]], dtype=torch.int64)
        names = tuple(name for _, name in about["phones"])
        found.append(Utterance(torch.from_numpy(samples), rate, starts, names))
    return found
