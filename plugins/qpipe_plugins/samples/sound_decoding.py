"""Sound files as arrays: mono samples at a rate, cut or filled up, as they are or as features.

`qpipe export` hands this file over: it needs numpy, and nothing else.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qpipe.errors import StageError
from qpipe_plugins.samples.spectra import Logarithm, MelScale, Spectra
from qpipe_plugins.samples.wav_file import read_sound

Floats = NDArray[np.float32]
Features = Literal["none", "log_mel", "mfcc"]
Layout = Literal["T", "CT", "TC", "TF", "CTF", "TFC", "FT", "CFT"]


def decode_sound(
    file: Path,
    *,
    rate: int,
    seconds: float | None,
    features: Features,
    layout: Layout,
    n_fft: int,
    window: int,
    hop: int,
    mels: int,
    coefficients: int,
    fmin: float,
    fmax: float,
    scale: MelScale,
    power: float,
    center: bool,
    log: Logarithm,
    offset: float,
) -> dict[str, Floats]:
    """Return a WAV file as the input `audio`: float32 [T] or [T, F], axes in the order of `layout`.

    Its channels are mixed to one of -1 to 1. With `seconds` it is cut to that length, or ends in
    silence. Raise StageError where it has another rate.
    """
    sound = _read_at_rate(file, rate)
    length = len(sound) if seconds is None else round(seconds * rate)
    silence = max(0, length - len(sound))
    fitted = np.pad(sound[:length], (0, silence))
    if features == "none":
        return {"audio": _order_axes(fitted, layout)}
    spectra = make_spectra(
        rate=rate,
        n_fft=n_fft,
        window=window,
        hop=hop,
        mels=mels,
        fmin=fmin,
        fmax=fmax,
        scale=scale,
        power=power,
        center=center,
        log=log,
        offset=offset,
    )
    is_mfcc = features == "mfcc"
    values = spectra.mfcc(fitted, coefficients) if is_mfcc else spectra.log_mel(fitted)
    return {"audio": _order_axes(values.astype(np.float32), layout)}


@cache
def make_spectra(**settings: Any) -> Spectra:
    """Return the spectra of these settings, with their filters computed once."""
    return Spectra(**settings)


def _read_at_rate(file: Path, rate: int) -> Floats:
    file_rate, sound = read_sound(file)
    if file_rate != rate:
        hint = f"set rate to that, or convert it: ffmpeg -i IN -ar {rate} OUT"
        raise StageError(f"wav: {file} has {file_rate} Hz, not {rate}; {hint}")
    return sound


def _order_axes(features: Floats, axes: Layout) -> Floats:
    """Return [T] or [T, F] with its axes in this order, and an axis of length 1 for C."""
    ordered = features.T if "FT" in axes else features
    if "C" in axes:
        return np.expand_dims(ordered, axes.index("C"))
    return ordered
