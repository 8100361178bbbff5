"""The wav stage: sound as it was stored, and features by the formulas as they stand in the literature."""

from __future__ import annotations

import re
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpipe.errors import StageError
from qpipe.types import Dataset
from qpipe_plugins.samples.wav import wav

RANDOM = np.random.default_rng(8)
RATE = 8000


def store(file: Path, data: bytes, *, width: int = 2, channels: int = 1, rate: int = RATE) -> None:
    """PCM, by the standard library."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(data)


def noise(file: Path, count: int = RATE, rate: int = RATE) -> np.ndarray:
    """A file of random samples, and these, full scale 1."""
    numbers = RANDOM.integers(-(2**15), 2**15, count, np.int16)
    store(file, numbers.astype("<i2").tobytes(), rate=rate)
    return numbers / 2**15


def riff(
    code: int,
    bits: int,
    data: bytes,
    *,
    channels: int = 1,
    extensible: bool = False,
    extra: bytes = b"",
) -> bytes:
    """A WAV file by hand: what comes between format and data is `extra`."""
    frame = channels * bits // 8
    form = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else code, channels, RATE, RATE * frame, frame, bits
    )
    if extensible:
        guid = struct.pack("<H", code) + bytes.fromhex("000000001000800000aa00389b71")
        form += struct.pack("<HHI", 22, bits, 4) + guid
    body = (
        b"WAVE"
        + b"fmt "
        + struct.pack("<I", len(form))
        + form
        + extra
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def dataset(folder: Path, **options: Any) -> Dataset:
    if not (folder / "c").exists():
        noise(folder / "c" / "a.wav")
    return wav(
        calibration=folder / "c",
        evaluation=folder / "e",
        **{"rate": RATE, "seconds": 1.0, **options},
    )


def heard(folder: Path, **options: Any) -> np.ndarray:
    """The one evaluation sample as the network gets it, without the batch axis."""
    (sample,) = dataset(folder, **options).evaluation
    return np.asarray(sample.inputs["audio"])


def written(folder: Path, content: bytes) -> Path:
    file = folder / "e" / "b.wav"
    file.parent.mkdir()
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("width", "low", "high"), [(1, 0, 256), (2, -(2**15), 2**15), (4, -(2**31), 2**31)]
)
def test_pcm_becomes_numbers_of_full_scale_one(
    tmp_path: Path, width: int, low: int, high: int
) -> None:
    numbers = RANDOM.integers(low, high, RATE)
    store(
        tmp_path / "e" / "b.wav",
        numbers.astype({1: "u1", 2: "<i2", 4: "<i4"}[width]).tobytes(),
        width=width,
    )
    middle = (low + high) / 2
    expected = ((numbers - middle) / (high - middle)).astype(np.float32)
    assert np.array_equal(heard(tmp_path), expected)


def test_twenty_four_bits_are_read_with_their_sign(tmp_path: Path) -> None:
    numbers = [0, 1, -1, 2**23 - 1, -(2**23)]
    data = b"".join(number.to_bytes(3, "little", signed=True) for number in numbers)
    store(tmp_path / "e" / "b.wav", data, width=3)
    assert np.array_equal(
        heard(tmp_path, seconds=5 / RATE), np.float32(numbers) / np.float32(2**23)
    )


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("bits", [32, 64])
def test_floats_are_taken_as_they_are(tmp_path: Path, bits: int, extensible: bool) -> None:
    numbers = RANDOM.normal(size=RATE).astype(f"<f{bits // 8}")
    written(tmp_path, riff(3, bits, numbers.tobytes(), extensible=extensible))
    assert np.array_equal(heard(tmp_path), numbers.astype(np.float32))


def test_extensible_pcm_is_read(tmp_path: Path) -> None:
    numbers = RANDOM.integers(-(2**15), 2**15, RATE).astype("<i2")
    written(tmp_path, riff(1, 16, numbers.tobytes(), extensible=True))
    assert np.array_equal(heard(tmp_path), numbers.astype(np.float32) / 2**15)


def test_other_chunks_of_odd_lengths_are_skipped(tmp_path: Path) -> None:
    numbers = RANDOM.integers(-(2**15), 2**15, RATE).astype("<i2")
    written(
        tmp_path, riff(1, 16, numbers.tobytes(), extra=b"LIST" + struct.pack("<I", 3) + b"abc\0")
    )
    assert np.array_equal(heard(tmp_path), numbers.astype(np.float32) / 2**15)


def test_data_of_unknown_length_goes_on_to_the_end(tmp_path: Path) -> None:
    numbers = RANDOM.integers(-(2**15), 2**15, RATE).astype("<i2")
    content = riff(1, 16, numbers.tobytes())
    written(
        tmp_path, content.replace(b"data" + struct.pack("<I", 2 * RATE), b"data\xff\xff\xff\xff")
    )
    assert np.array_equal(heard(tmp_path), numbers.astype(np.float32) / 2**15)


def test_channels_are_mixed_to_their_mean(tmp_path: Path) -> None:
    numbers = RANDOM.integers(-(2**15), 2**15, (RATE, 2))
    store(tmp_path / "e" / "b.wav", numbers.astype("<i2").tobytes(), channels=2)
    assert np.array_equal(heard(tmp_path), (numbers.sum(axis=1) / 2**16).astype(np.float32))


def test_a_longer_sound_is_cut_and_a_shorter_ends_in_silence(tmp_path: Path) -> None:
    numbers = noise(tmp_path / "e" / "b.wav").astype(np.float32)
    assert np.array_equal(heard(tmp_path, seconds=0.25), numbers[: RATE // 4])
    assert np.array_equal(heard(tmp_path, seconds=1.5), np.pad(numbers, (0, RATE // 2)))


def test_labels_are_class_folders_or_a_csv(tmp_path: Path) -> None:
    for name in ("no/1.wav", "yes/2.wav", "yes/3.WAV"):
        noise(tmp_path / "e" / name)
    data = dataset(tmp_path)
    assert data.classes == ["no", "yes"]
    assert [(sample.id, sample.target) for sample in data.evaluation] == [
        ("no/1.wav", 0), ("yes/2.wav", 1), ("yes/3.WAV", 1),
    ]  # fmt: skip
    (tmp_path / "e.csv").write_text("file,label\nyes/2.wav,4\n", encoding="utf-8")
    data = dataset(tmp_path, evaluation_labels=tmp_path / "e.csv")
    assert [(sample.id, sample.target) for sample in data.evaluation] == [("yes/2.wav", 4)]


# ---- features, by sums over samples and bins


def mel_of(hertz: float, scale: str) -> float:
    """HTK's book, equation 5.13; Slaney's Auditory Toolbox, where 1 kHz is 15 and 6.4 kHz 42."""
    if scale == "htk":
        return 1127 * np.log(1 + hertz / 700)
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def hertz_of(mel: float, scale: str) -> float:
    low, high = 0.0, 1e5
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if mel_of(middle, scale) < mel else (low, middle)
    return low


def spectrum(frame: np.ndarray, n_fft: int) -> np.ndarray:
    """Magnitudes of a Hann window's Fourier sums."""
    count = len(frame)
    hann = np.sin(np.pi * np.arange(count) / count) ** 2
    waves = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(count)) / n_fft)
    return np.abs(waves @ (frame * hann))


def filtered(
    spectrum: np.ndarray, n_fft: int, mels: int, fmin: float, fmax: float, scale: str
) -> np.ndarray:
    lowest, highest = mel_of(fmin, scale), mel_of(fmax, scale)
    points = [
        hertz_of(lowest + (highest - lowest) * i / (mels + 1), scale) for i in range(mels + 2)
    ]
    sums = []
    for low, peak, high in zip(points, points[1:], points[2:], strict=False):
        height = 1.0 if scale == "htk" else 2 / (high - low)
        weights = np.interp(
            np.arange(len(spectrum)) * RATE / n_fft, [low, peak, high], [0, height, 0]
        )
        sums.append(weights @ spectrum)
    return np.array(sums)


OPTIONS = [
    {"scale": "htk", "window": None, "power": 2.0, "center": False, "log": "ln", "offset": 1e-6},
    {"scale": "slaney", "window": None, "power": 2.0, "center": True, "log": "db", "offset": 1e-10},
    {"scale": "htk", "window": 200, "power": 1.0, "center": False, "log": "ln", "offset": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("features", ["log_mel", "mfcc"])
def test_features_are_those_of_the_formulas(
    tmp_path: Path, options: dict[str, Any], features: str
) -> None:
    noise(tmp_path / "e" / "b.wav")
    sound = heard(tmp_path, seconds=0.25).astype(np.float64)
    sizes = {"n_fft": 256, "hop": 100, "mels": 20, "coefficients": 7, "fmin": 60.0, "fmax": 3800.0}
    found = heard(tmp_path, seconds=0.25, features=features, **sizes, **options)
    window = options["window"] or 256
    if options["center"]:
        sound = np.concatenate(
            [sound[window // 2 : 0 : -1], sound, sound[-2 : -2 - window // 2 : -1]]
        )
    rows = []
    for start in range(0, len(sound) - window + 1, 100):
        power = spectrum(sound[start : start + window], 256) ** options["power"]
        row = np.log(filtered(power, 256, 20, 60.0, 3800.0, options["scale"]) + options["offset"])
        row = row if options["log"] == "ln" else 10 * row / np.log(10)
        if features == "mfcc":
            places = (np.arange(20) + 0.5) * np.pi / 20
            row = np.array(
                [np.sqrt((1 + (k > 0)) / 20) * np.sum(row * np.cos(k * places)) for k in range(7)]
            )
        rows.append(row)
    assert found.shape == (len(rows), 7 if features == "mfcc" else 20)
    assert len(rows) == (1 + 2000 // 100 if options["center"] else 1 + (2000 - window) // 100)
    np.testing.assert_allclose(found, np.array(rows), rtol=1e-5, atol=1e-5)


def test_a_tone_is_loudest_where_its_frequency_lies(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    store(tmp_path / "e" / "b.wav", (tone * 20000).astype("<i2").tobytes())
    found = heard(tmp_path, features="log_mel", mels=20, fmin=0.0)
    peaks = np.array([hertz_of(mel_of(4000, "htk") * (i + 1) / 21, "htk") for i in range(20)])
    assert set(found.argmax(axis=1)) == {np.abs(peaks - 1000).argmin()}


@pytest.mark.parametrize(
    ("features", "layout", "shape"),
    [
        ("none", None, (8000,)), ("none", "CT", (1, 8000)), ("none", "TC", (8000, 1)),
        ("log_mel", None, (94, 30)), ("log_mel", "CTF", (1, 94, 30)), ("log_mel", "TFC", (94, 30, 1)),
        ("log_mel", "FT", (30, 94)), ("log_mel", "CFT", (1, 30, 94)), ("mfcc", "CTF", (1, 94, 10)),
    ],
)  # fmt: skip
def test_the_layout_orders_the_axes(
    tmp_path: Path, features: str, layout: Any, shape: tuple[int, ...]
) -> None:
    noise(tmp_path / "e" / "b.wav")
    settings = {"features": features, "mels": 30, "hop": 80}
    found = heard(tmp_path, **settings, layout=layout)
    assert found.shape == shape
    assert found.dtype == np.float32
    plain = heard(tmp_path, **settings)
    assert np.array_equal(found.squeeze(), plain.T if "FT" in (layout or "") else plain)


# ---- what is refused


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"no sound", "not a WAV file"),
        (b"RIFX" + riff(1, 16, b"ab")[4:], "not a WAV file"),
        (
            riff(7, 8, b"ab"),
            "format 7 of 8 bits is not supported; use PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64",
        ),
        (
            riff(1, 12, b"ab"),
            "format 1 of 12 bits is not supported; use PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64",
        ),
        (riff(1, 16, b"abcd", channels=0), "0 channels at 8000 Hz"),
        (riff(1, 16, b"abcd")[:-2], "cut short: 2 of 4 bytes of 'data'"),
        (riff(1, 16, b"")[:-8], "it has no data"),
        (b"RIFF\4\0\0\0WAVE", "it has no format"),
        (riff(3, 32, np.float32([np.nan]).tobytes()), "it holds NaN or infinity"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_why(
    tmp_path: Path, content: bytes, why: str
) -> None:
    file = written(tmp_path, content)
    with pytest.raises(StageError) as caught:
        heard(tmp_path)
    assert (
        str(caught.value)
        == f"wav: 1 of 1 .wav files cannot be read: {file} ({why}); replace or remove them"
    )


def test_another_rate_is_refused(tmp_path: Path) -> None:
    noise(tmp_path / "e" / "b.wav", rate=44100)
    message = r"wav: .*b.wav has 44100 Hz, not 8000; set rate to that, or convert it: ffmpeg -i IN -ar 8000 OUT"
    with pytest.raises(StageError, match=message):
        heard(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layout": "TF"},
            "wav: layout is TF and features is none; a layout has F for the features, and only for them",
        ),
        (
            {"features": "mfcc", "layout": "CT"},
            "wav: layout is CT and features is mfcc; a layout has F for the features, and only for them",
        ),
        (
            {"seconds": 0.0},
            "wav: seconds is 0 and rate is 8000, which is less than one sample; both must be above 0",
        ),
        ({"std": 0.0}, "wav: std is 0; give a number that is not 0"),
        (
            {"coefficients": 41},
            "wav: coefficients is 41; it must be between 1 and mels, 40",
        ),
        (
            {"features": "mfcc", "window": 600},
            "wav: window is 600; it must be between 1 and n_fft, 512",
        ),
        (
            {"features": "mfcc", "fmax": 5000.0},
            "wav: fmin is 20 and fmax is 5000; they must be from 0 to 4000, and fmin less than fmax",
        ),
        (
            {"features": "mfcc", "n_fft": 64},
            "wav: mel 0 of 40 has no frequency of the spectrum; take fewer mels or a larger n_fft",
        ),
        (
            {"features": "mfcc", "seconds": 0.01},
            "wav: 80 samples are shorter than the window of 512; set more seconds",
        ),
        (
            {"features": "mfcc", "hop": 0},
            "wav: hop is 0; it must be at least 1",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    noise(tmp_path / "e" / "b.wav")
    with pytest.raises(StageError, match=re.escape(message)):
        heard(tmp_path, **options)
