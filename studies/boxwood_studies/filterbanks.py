"""What speech recognisers hear: the energy of a wave in bands that widen as those of the ear do."""

import torch
from torch import Tensor

from boxwood.errors import InvalidInput

FRAMES_PER_SECOND = 100
_WINDOW_SECONDS = 0.025
_QUIET = 1e-8  # of a wave in [-1, 1): some 20 dB below the rounding of 16 bits in a whole window


def log_filterbanks(
    samples: Tensor, rate: int, *, bands: int = 40, highest: float = 8000
) -> Tensor:
    """Compute mel-scaled log filterbank energies, 100 frames a second.

    ``E_tb = log(Σ_f M_bf |FFT(h · x_t)|²_f + 1e-8)``, where ``x_t`` is 25 ms of the wave around the
    middle of frame t, ``h`` a Hann window, and ``M_b`` a triangle from the middle of the band below
    to that of the band above, the middles being equally far apart in ``mel(f) = 2595 log10(1 +
    f/700)`` from 0 Hz to ``highest``.

    Args:
        samples: the wave, float32 [n] in [-1, 1).
        rate: samples in a second.
        bands: how many, at least 1.
        highest: upper end of the last band, in hertz, at most half the rate.

    Returns:
        float32 [floor(100 n / rate), bands], in nats.

    Raises:
        InvalidInput: the wave is shorter than a frame, or too slowly sampled.

    Example:
        >>> wave = torch.sin(6.2832 * 1000 * torch.arange(16_000) / 16_000)
        >>> energies = log_filterbanks(wave, 16_000)
        >>> energies.shape, band_middles(40, 8000)[energies[50].argmax()].round().item()
        (torch.Size([100, 40]), 955.0)

    Source: Hinton, Vinyals and Dean (2015), section 4: "40 Mel-scaled filterbank coefficients with
    a 10ms advance per frame"; Davis and Mermelstein (1980), "Comparison of parametric
    representations for monosyllabic word recognition", figure 1. Differs from them: neither gives
    window, scale and range; these are usual ones.
    """
    if samples.dim() != 1 or len(samples) * FRAMES_PER_SECOND < rate or rate < 2 * highest:
        raise InvalidInput(
            f"Expected a wave [n] of a hundredth of a second or more, at {2 * highest:g} samples a "
            f"second or more, got shape {tuple(samples.shape)} at {rate}; give a longer wave, or a "
            f"lower highest=."
        )
    middles = frame_middles(len(samples), rate)
    window = round(_WINDOW_SECONDS * rate)
    padded = torch.nn.functional.pad(samples, (window, window))
    places = middles[:, None] + torch.arange(window) + (window - window // 2)
    shape = torch.hann_window(window, periodic=False)
    length = 1 << (window - 1).bit_length()
    power = torch.fft.rfft(padded[places] * shape, n=length).abs().square()
    energies: Tensor = power @ _triangles(bands, length, rate, highest)
    return (energies + _QUIET).log()


def frame_middles(samples: int, rate: int) -> Tensor:
    """Say which sample lies in the middle of each frame, int64 [frames].

    Example:
        >>> frame_middles(samples=500, rate=16_000)
        tensor([ 80, 240, 400])
    """
    frames = torch.arange(samples * FRAMES_PER_SECOND // rate)
    return (2 * frames + 1) * rate // (2 * FRAMES_PER_SECOND)


def band_middles(bands: int, highest: float) -> Tensor:
    """Say where the bands have their middles, float32 [bands] in hertz.

    Example:
        >>> band_middles(3, 8000).round()
        tensor([ 614., 1768., 3934.])
    """
    return _corners(bands, highest)[1:-1]


def _corners(bands: int, highest: float) -> Tensor:
    top = 2595 * torch.log10(torch.tensor(1 + highest / 700))
    mels = torch.linspace(0, 1, bands + 2) * top
    corners: Tensor = 700 * (10 ** (mels / 2595) - 1)
    return corners


def _triangles(bands: int, length: int, rate: int, highest: float) -> Tensor:
    """M transposed, [length // 2 + 1, bands]."""
    low, middle, high = _corners(bands, highest).unfold(0, 3, 1).unbind(1)
    hertz = torch.arange(length // 2 + 1)[:, None] * (rate / length)
    return torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clamp(0)
