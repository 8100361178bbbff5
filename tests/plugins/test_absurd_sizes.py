"""Files that are small and unpack to much, or say absurd sizes: one line each, before memory is taken."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from peak_memory import peak_growth
from qpipe.errors import StageError
from qpipe_plugins.samples import array_files
from qpipe_plugins.samples.array_files import load_arrays
from qpipe_plugins.samples.coco_annotations import read_annotations
from qpipe_plugins.samples.picture_decoding import decode_picture, open_picture
from qpipe_plugins.samples.wav_file import read_sound

MEMORY_MB = 300


def npy_header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """The beginning of an array file that says it has this shape."""
    file = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def bomb(path: Path) -> None:
    """Zeros of 40 MB, of which the file has 40 kB."""
    np.savez_compressed(path, x=np.zeros(5_000_000))


def liar(shape: tuple[int, ...], dtype: str = "<f8") -> Callable[[Path], None]:
    """An array of a few bytes that says it is larger."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", npy_header(shape, dtype) + b"\0" * 64)

    return write


def pickled(path: Path) -> None:
    np.savez(path, allow_pickle=True, x=np.array([print, {}], object))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (bomb, r"unpacks to 40 MB; a sample has at most 10 MB$"),
        (liar((10**11,)), r"array 'x' cannot be read: .*nothing is unpickled$"),
        (liar((10**30,)), r"array 'x' cannot be read: .*nothing is unpickled$"),
        (liar((-1,)), r"array 'x' cannot be read: .*nothing is unpickled$"),
        (pickled, r"array 'x' cannot be read: .*nothing is unpickled$"),
    ],
    ids=["bomb", "terabyte", "beyond 64 bits", "negative", "pickle"],
)
def test_an_npz_is_refused_before_it_takes_memory(
    write: Callable[[Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "LARGEST_SAMPLE", 10_000_000)
    path = tmp_path / "sample.npz"
    write(path)
    with peak_growth() as grown_mb, pytest.raises(StageError, match=said) as error:
        load_arrays(path)
    assert grown_mb() < MEMORY_MB
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def write_png(path: Path, width: int, height: int) -> None:
    """A picture that says it has these sides, of a few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(100_000, (width + 1) * height)))
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("side", [10_000, 2**31 - 1])
def test_a_picture_that_unpacks_to_much_is_refused(side: int, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", side, side)
    with pytest.raises(ValueError, match=r"^(more than 89,478,485 pixels; make it smaller)$"):
        open_picture(tmp_path / "a.png")


def test_a_picture_as_thin_as_a_line_is_not_made_huge(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", 1, 30_000)
    with pytest.raises(ValueError, match=r"^1 x 30000 pixels become 224 x 6720000 before"):
        decode_picture(tmp_path / "a.png", size=(224, 224), fit="crop")
    pixels = decode_picture(tmp_path / "a.png", size=(224, 224), fit="letterbox")["image"]
    assert pixels.shape == (224, 224, 3)


def sparse(path: Path, size: int, beginning: bytes = b"") -> None:
    path.write_bytes(beginning)
    os.truncate(path, size)


def test_a_sound_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    sparse(tmp_path / "a.wav", 1 << 30, b"RIFF\0\0\0\0WAVE")
    with pytest.raises(ValueError, match=r"^1074 MB; a sound has at most 268 MB$"):
        read_sound(tmp_path / "a.wav")


def annotations(**changes: object) -> str:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    image = {"id": 1, "file_name": "a.png", "width": 10, "height": 10}
    content = {
        "images": [{**image, **{k: v for k, v in changes.items() if k in image}}],
        "annotations": [{**box, **{k: v for k, v in changes.items() if k in box}}],
        "categories": [{"id": 1, "name": "x"}],
    }
    return json.dumps(content)


def test_coco_annotations_with_absurd_numbers_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for box in ([0, 0, 10**400, 1], [1e308, 0, 1e308, 1], [float("nan"), 0, 1, 1]):
        path.write_text(annotations(bbox=box), encoding="utf-8")
        with pytest.raises(StageError, match=r"bbox is .*; it must be") as error:
            read_annotations(path, tmp_path)
        assert len(str(error.value)) < 500
    path.write_text(annotations(width=10**400), encoding="utf-8")
    images, _ = read_annotations(path, tmp_path)
    assert images[0].size is None, "it is read from the picture"
    sparse(path, 2 << 30)
    with pytest.raises(StageError, match=r"it has 2147 MB; annotations have at most 1074 MB$"):
        read_annotations(path, tmp_path)
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(StageError, match="not JSON"):
        read_annotations(path, tmp_path)
