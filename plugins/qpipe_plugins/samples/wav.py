"""Sound from folders of WAV files, labelled by a CSV or by the folders that they lie in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from qpipe.errors import StageError
from qpipe.types import Dataset, Preprocessing, Sample
from qpipe_plugins.samples.labelled_files import (
    ClassOrder,
    FileKind,
    FileSamples,
    LabelledFile,
    check_disjoint,
    class_number,
    select_files,
)
from qpipe_plugins.samples.sound_decoding import (
    Features,
    Floats,
    Layout,
    decode_sound,
    make_spectra,
)

FloatType = Literal["float32", "float16", "float64"]
KIND = FileKind("wav", ".wav file", frozenset({".wav", ".wave"}))


def wav(
    *,
    evaluation: Path,
    calibration: Path | None = None,
    rate: int,
    seconds: float | None = None,
    calibration_labels: Path | None = None,
    evaluation_labels: Path | None = None,
    features: Features = "none",
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
    dtype: FloatType = "float32",
    calibration_count: int | None = None,
    evaluation_count: int | None = None,
    class_order: ClassOrder = "number",
) -> Dataset:
    """Read sound from folders of .wav files, as samples, log-mel spectra or MFCC.

    Labels, the order of classes and the two parts are as for `images`. PCM of 8 to 32 bits and
    floats are mixed to one channel of -1 to 1, at `rate` Hz (other rates are refused). With
    `seconds` longer sounds are cut, shorter ones end in silence; without, each keeps its length.
    Features: Hann windows of `window` samples (by default n_fft), every `hop`; with `center` the
    first is centred on the first sample, and the sound is mirrored at its ends. Spectra to the
    `power` go through triangles from `fmin` to `fmax` Hz (by default half the rate), of equal
    height on HTK's mel scale, of equal area on Slaney's; then log(x + offset), natural or in dB;
    mfcc keeps the first `coefficients` of their orthonormal DCT. `layout` is the order of the
    input's axes after the batch: T time, F features, C one channel; by default T or TF. The network
    receives (x - mean) / std in the type `dtype`.
    """
    axes = layout or ("T" if features == "none" else "TF")
    _check_layout(axes, features)
    _check_numbers(seconds=seconds, rate=rate, std=std, coefficients=coefficients, mels=mels)
    spectrum: dict[str, Any] = {
        "rate": rate,
        "n_fft": n_fft,
        "window": window or n_fft,
        "hop": hop,
        "mels": mels,
        "fmin": fmin,
        "fmax": fmax or rate / 2,
        "scale": scale,
        "power": power,
        "center": center,
        "log": log,
        "offset": offset,
    }
    if features != "none":
        make_spectra(**spectrum)  # to check the settings before any file is read
    decode: Callable[[Path], dict[str, Floats]] = partial(
        decode_sound,
        seconds=seconds,
        features=features,
        layout=axes,
        coefficients=coefficients,
        **spectrum,
    )
    files = select_files(
        KIND,
        calibration=calibration,
        calibration_labels=calibration_labels,
        calibration_count=calibration_count,
        evaluation=evaluation,
        evaluation_labels=evaluation_labels,
        evaluation_count=evaluation_count,
        class_order=class_order,
    )
    check_disjoint("wav", calibration=files.calibration, evaluation=files.evaluation)

    def read_sample(labelled: LabelledFile) -> Sample:
        inputs = decode(labelled.file)
        return Sample(labelled.name, inputs, class_number(labelled, files.classes))

    def samples_of(labelled_files: list[LabelledFile]) -> FileSamples[LabelledFile]:
        return FileSamples(KIND, labelled_files, read_sample, (OSError, ValueError))

    return Dataset(
        samples_of(files.calibration),
        samples_of(files.evaluation),
        {"audio": Preprocessing((mean,), (std,), dtype=dtype)},
        files.classes,
        decode,
    )


def _check_layout(axes: Layout, features: Features) -> None:
    """Raise StageError where the layout has F without features, or lacks it with them."""
    has_features = features != "none"
    if ("F" in axes) != has_features:
        hint = "a layout has F for the features, and only for them"
        raise StageError(f"wav: layout is {axes} and features is {features}; {hint}")


def _check_numbers(
    *, seconds: float | None, rate: int, std: float, coefficients: int, mels: int
) -> None:
    if seconds is not None and seconds * rate < 1:
        problem = f"seconds is {seconds:g} and rate is {rate}, which is less than one sample"
        raise StageError(f"wav: {problem}; both must be above 0")
    if std == 0:
        raise StageError("wav: std is 0; give a number that is not 0")
    if not 0 < coefficients <= mels:
        problem = f"coefficients is {coefficients}"
        raise StageError(f"wav: {problem}; it must be between 1 and mels, {mels}")
