"""Sound from two folders of WAV files, labelled by a CSV or by the folders they lie in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qpipe.errors import StageError
from qpipe.types import Array, Dataset, Preprocessing, Sample
from qpipe_plugins.samples.labelled_files import (
    Labelled,
    check_disjoint,
    class_names,
    divided,
    find,
    read_each,
    spread,
    target,
)
from qpipe_plugins.samples.spectra import Spectra
from qpipe_plugins.samples.wav_file import read_sound

Layout = Literal["T", "CT", "TC", "TF", "CTF", "TFC", "FT", "CFT"]


def wav(
    *,
    evaluation: Path,
    calibration: Path | None = None,
    rate: int,
    seconds: float,
    calibration_labels: Path | None = None,
    evaluation_labels: Path | None = None,
    features: Literal["none", "log_mel", "mfcc"] = "none",
    n_fft: int = 512,
    window: int | None = None,
    hop: int = 160,
    mels: int = 40,
    coefficients: int = 10,
    fmin: float = 20.0,
    fmax: float | None = None,
    scale: Literal["htk", "slaney"] = "htk",
    power: float = 2.0,
    center: bool = False,
    log: Literal["ln", "db"] = "ln",
    offset: float = 1e-6,
    layout: Layout | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    calibrate: int | None = None,
    evaluate: int | None = None,
) -> Dataset:
    """Sound from folders of .wav files, as samples, log-mel spectra or MFCC; labels and parts as of `images`.

    PCM of 8 to 32 bits and floats, mixed to one channel of -1 to 1, at `rate` Hz (other rates are refused), of so many
    `seconds`: longer ones are cut, shorter ones end in silence. Features: Hann windows of `window` samples (n_fft
    unless given), every `hop`; with `center` the first is centred on the first sample, the sound mirrored at its ends.
    Spectra to the `power` go through triangles from `fmin` to `fmax` (half the rate) Hz, of equal height on HTK's mel
    scale, of equal area on Slaney's; then log(x + offset), natural or in dB; mfcc keeps so many `coefficients` of
    their orthonormal DCT. `layout` is the order of the input's axes behind the batch: T time, F features, C one
    channel; T or TF unless given. The network gets (x - mean) / std.
    """
    axes = layout or ("T" if features == "none" else "TF")
    if ("F" in axes) != (features != "none"):
        raise StageError(f"wav: layout {axes} with features {features}; F is the axis of features")
    if seconds * rate < 1 or not std or not 0 < coefficients <= mels:
        given = f"seconds {seconds:g}, rate {rate}, std {std:g}, coefficients {coefficients} of {mels} mels"
        raise StageError(f"wav: {given}; all must be above 0, and no more coefficients than mels")
    spectra = None
    length = round(seconds * rate)
    if features != "none":
        triangles = mels, fmin, fmax or rate / 2, scale
        spectra = Spectra(rate, n_fft, window or n_fft, hop, *triangles, power, center, log, offset)
    apart = _find(calibration, calibration_labels) if calibration else None
    everything = rest = _find(evaluation, evaluation_labels)
    if apart is None:
        chosen, rest = divided("wav", "file", everything, calibrate)
    else:
        chosen = spread("wav", "file", apart, calibrate)
    scored = spread("wav", "file", rest, evaluate)
    check_disjoint("wav", *([each.file for each in part] for part in (chosen, scored)))
    classes = class_names(everything)

    def hear(sound: NDArray[np.float32]) -> Array:
        if spectra is None:
            return sound
        found = spectra.mfcc(sound, coefficients) if features == "mfcc" else spectra.log_mel(sound)
        return found.astype(np.float32)

    def stream(part: Sequence[Labelled]) -> Iterator[Sample]:
        read = read_each(
            "wav", "file", part, lambda each: _sound(each.file, rate), (OSError, ValueError)
        )
        for each, sound in read:
            fitted = np.pad(sound[:length], (0, max(0, length - len(sound))))
            yield Sample(each.name, {"audio": _arranged(hear(fitted), axes)}, target(each, classes))

    return Dataset(
        stream(chosen), stream(scored), {"audio": Preprocessing((mean,), (std,))}, classes
    )


def _find(folder: Path, labels: Path | None) -> list[Labelled]:
    return find("wav", ".wav file", {".wav", ".wave"}, folder, labels)


def _sound(file: Path, rate: int) -> NDArray[np.float32]:
    found, sound = read_sound(file)
    if found != rate:
        raise StageError(
            f"wav: {file} has {found} Hz, not {rate}; set rate, or convert it: ffmpeg -i IN -ar {rate} OUT"
        )
    return sound


def _arranged(array: Array, axes: str) -> Array:
    """An array of axes T or T, F with its axes in this order, and one of length 1 where C stands."""
    ordered = array.T if "FT" in axes else array
    return np.expand_dims(ordered, axes.index("C")) if "C" in axes else ordered
