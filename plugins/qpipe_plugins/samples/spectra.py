"""Log-mel spectra and mel-frequency cepstral coefficients (MFCC) of sound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qpipe.errors import StageError

Floats = NDArray[np.float64]
MelScale = Literal["htk", "slaney"]
Logarithm = Literal["ln", "db"]


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """How sound becomes features; lengths are in samples, frequencies in Hz.

    Raise StageError for settings that do not fit together.
    """

    rate: int
    n_fft: int
    window: int  # the length of a frame; it is padded with zeros to n_fft
    hop: int
    mels: int
    fmin: float
    fmax: float
    scale: MelScale
    power: float
    center: bool
    log: Logarithm
    offset: float

    def __post_init__(self) -> None:
        if not 0 < self.window <= self.n_fft:
            problem = f"window is {self.window}"
            raise StageError(f"wav: {problem}; it must be between 1 and n_fft, {self.n_fft}")
        if self.hop < 1:
            raise StageError(f"wav: hop is {self.hop}; it must be at least 1")
        half_rate = self.rate / 2
        if not 0 <= self.fmin < self.fmax <= half_rate:
            problem = f"fmin is {self.fmin:g} and fmax is {self.fmax:g}"
            hint = f"they must be from 0 to {half_rate:g}, and fmin less than fmax"
            raise StageError(f"wav: {problem}; {hint}")
        empty_filters = np.flatnonzero(~self.filters.any(axis=1))
        if empty_filters.size:
            problem = f"mel {empty_filters[0]} of {self.mels} has no frequency of the spectrum"
            raise StageError(f"wav: {problem}; take fewer mels or a larger n_fft")

    @cached_property
    def filters(self) -> Floats:
        """Triangles in Hz between points evenly spaced in mel, [mels, bins].

        With "slaney" all have the same area (as in librosa), with "htk" the same height of 1 (as in
        torchaudio).
        """
        lowest_mel, highest_mel = _hertz_to_mel(np.array([self.fmin, self.fmax]), self.scale)
        mels = np.linspace(lowest_mel, highest_mel, self.mels + 2)
        points = _mel_to_hertz(mels, self.scale)
        bins = np.arange(self.n_fft // 2 + 1) * (self.rate / self.n_fft)
        low = points[:-2, np.newaxis]
        peak = points[1:-1, np.newaxis]
        high = points[2:, np.newaxis]
        rising = (bins - low) / (peak - low)
        falling = (high - bins) / (high - peak)
        heights = np.maximum(0, np.minimum(rising, falling))
        if self.scale == "slaney":
            heights = heights * (2 / (high - low))
        return np.asarray(heights)

    def log_mel(self, sound: NDArray[np.float32]) -> Floats:
        """Return the logarithm of mel spectra, [frames, mels].

        The spectra are of Hann windows, raised to `power`: 2 gives power, 1 magnitude.
        """
        frames = self._frames(sound.astype(np.float64))
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        magnitudes = np.abs(np.fft.rfft(frames * hann, self.n_fft))
        mel_spectra = magnitudes**self.power @ self.filters.T
        natural: Floats = np.log(mel_spectra + self.offset)
        if self.log == "ln":
            return natural
        decibels: Floats = natural * (10 / np.log(10))
        return decibels

    def _frames(self, samples: Floats) -> Floats:
        """Return overlapping frames, [frames, window]."""
        if self.center:
            samples = np.pad(samples, self.window // 2, mode="reflect")
        if len(samples) < self.window:
            problem = f"{len(samples)} samples are shorter than the window of {self.window}"
            raise StageError(f"wav: {problem}; set more seconds")
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.window)
        return windows[:: self.hop]

    def mfcc(self, sound: NDArray[np.float32], coefficients: int) -> Floats:
        """Return the orthonormal DCT-II of log-mel spectra, [frames, coefficients]."""
        orders = np.arange(coefficients)[:, np.newaxis]
        centers = np.arange(self.mels) + 0.5
        cosines = np.cos(np.pi / self.mels * orders * centers) * np.sqrt(2 / self.mels)
        cosines[0] /= np.sqrt(2)
        return np.asarray(self.log_mel(sound) @ cosines.T)


def _hertz_to_mel(hertz: Floats, scale: MelScale) -> Floats:
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + hertz / 700))
    # Slaney's Auditory Toolbox (1998): linear up to 1 kHz, which is 15 mel; above it
    # 27 logarithmic steps for each factor of 6.4
    linear = hertz * 3 / 200
    logarithmic = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, linear, logarithmic)


def _mel_to_hertz(mel: Floats, scale: MelScale) -> Floats:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    linear = mel * 200 / 3
    exponential = 1000 * np.exp(np.log(6.4) / 27 * (mel - 15))
    return np.where(mel < 15, linear, exponential)
