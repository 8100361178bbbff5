"""What networks hear of sound: log-mel spectra and cepstral coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qpipe.errors import StageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spectra:
    """How sound becomes features; lengths in samples, frequencies in Hz. StageError where that cannot be."""

    rate: int
    n_fft: int
    window: int  # of a frame, in the n_fft that it is padded to with zeros
    hop: int
    mels: int
    fmin: float
    fmax: float
    scale: Literal["htk", "slaney"]
    power: float
    center: bool
    log: Literal["ln", "db"]
    offset: float

    def __post_init__(self) -> None:
        if not 0 < self.window <= self.n_fft or self.hop < 1:
            raise StageError(
                f"wav: window {self.window} and hop {self.hop} must be above 0, and window at most n_fft"
            )
        if not 0 <= self.fmin < self.fmax <= self.rate / 2:
            raise StageError(
                f"wav: fmin {self.fmin:g} and fmax {self.fmax:g} must lie in order from 0 to {self.rate / 2:g}"
            )
        if (empty := np.flatnonzero(~self.filters.any(axis=1))).size:
            raise StageError(
                f"wav: mel {empty[0]} of {self.mels} holds no frequency; take fewer mels or a larger n_fft"
            )

    @cached_property
    def filters(self) -> Floats:
        """[mels, bins]: triangles in Hz between points evenly spaced in mel; "slaney" gives all the same area (what
        librosa does), "htk" the same height of 1 (torchaudio)."""
        lowest, highest = _mel(np.array([self.fmin, self.fmax]), self.scale).tolist()
        points = _hertz(np.linspace(lowest, highest, self.mels + 2), self.scale)
        bins = np.arange(self.n_fft // 2 + 1) * (self.rate / self.n_fft)
        low = points[:-2, np.newaxis]
        peak = points[1:-1, np.newaxis]
        high = points[2:, np.newaxis]
        heights = np.maximum(
            0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))
        )
        return np.asarray(heights * (2 / (high - low)) if self.scale == "slaney" else heights)

    def log_mel(self, sound: NDArray[np.float32]) -> Floats:
        """[frames, mels]: power (or magnitude) spectra of Hann windows, through the filters, and the logarithm."""
        samples = sound.astype(np.float64)
        if self.center:
            samples = np.pad(samples, self.window // 2, mode="reflect")
        if len(samples) < self.window:
            raise StageError(
                f"wav: {len(samples)} samples are no window of {self.window}; set more seconds"
            )
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.window)[:: self.hop]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        spectra = np.abs(np.fft.rfft(frames * hann, self.n_fft)) ** self.power
        logarithm = np.log(spectra @ self.filters.T + self.offset)
        return logarithm if self.log == "ln" else logarithm * (10 / np.log(10))

    def mfcc(self, sound: NDArray[np.float32], coefficients: int) -> Floats:
        """[frames, coefficients]: the orthonormal cosine transform (DCT-II) of the log-mel spectra."""
        order = np.arange(coefficients)[:, np.newaxis]
        place = np.arange(self.mels) + 0.5
        cosines = np.cos(np.pi / self.mels * order * place) * np.sqrt(2 / self.mels)
        cosines[0] /= np.sqrt(2)
        return np.asarray(self.log_mel(sound) @ cosines.T)


def _mel(hertz: Floats, scale: str) -> Floats:
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + hertz / 700))
    # Slaney's Auditory Toolbox (1998): linear up to 1 kHz, 15 mel; then 27 logarithmic steps for each factor of 6.4
    return np.where(
        hertz < 1000,
        hertz * 3 / 200,
        15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4),
    )


def _hertz(mel: Floats, scale: str) -> Floats:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))
