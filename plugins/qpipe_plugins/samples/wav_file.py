"""WAV files to samples of sound: RIFF's chunks, PCM of 8 to 32 bits and floats, many channels mixed to one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PCM = 1
FLOAT = 3
EXTENSIBLE = 0xFFFE
OPEN = (0, 0xFFFFFFFF)  # lengths that a writer to a pipe leaves behind: the data goes on to the end


class Format(NamedTuple):
    """What a fmt chunk says."""

    code: int
    channels: int
    rate: int  # Hz
    bits: int  # of one sample of one channel, as it is stored


def read_sound(file: Path) -> tuple[int, Floats]:
    """Rate in Hz and mono samples, full scale -1 to 1; ValueError, saying why, for what is no such WAV file."""
    content = file.read_bytes()
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("no WAV file")
    form = None
    data = None
    for name, chunk in _chunks(content):
        if name == b"fmt ":
            form = _format(chunk)
        elif name == b"data" and data is None:
            data = chunk
    if form is None or data is None:
        raise ValueError(f"it has no {'format' if form is None else 'data'}")
    frame = form.channels * form.bits // 8
    samples = _numbers(bytes(data[: len(data) // frame * frame]), form)
    return form.rate, samples.reshape(-1, form.channels).mean(axis=1, dtype=np.float64).astype(
        np.float32
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    place = 12
    while place + 8 <= len(content):
        name = content[place : place + 4]
        size = struct.unpack_from("<I", content, place + 4)[0]
        left = len(content) - place - 8
        if name == b"data" and size in OPEN:
            size = left
        if size > left:
            raise ValueError(
                f"cut short: {left} of {size} bytes of '{name.decode('ascii', 'replace').strip()}'"
            )
        yield name, memoryview(content)[place + 8 : place + 8 + size]
        place += 8 + size + size % 2  # chunks begin at even places


def _format(chunk: memoryview) -> Format:
    if len(chunk) < 16:
        raise ValueError(f"its format has {len(chunk)} bytes, not 16")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == EXTENSIBLE and len(chunk) >= 26:
        code = struct.unpack_from("<H", chunk, 24)[0]  # the first bytes of its subformat
    known = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}.get(code, ())
    if bits not in known:
        raise ValueError(
            f"format {code} of {bits} bits; PCM of 8, 16, 24, 32 bits and floats of 32, 64 are read"
        )
    if not channels or not rate:
        raise ValueError(f"{channels} channels at {rate} Hz")
    return Format(code, channels, rate, bits)


def _numbers(data: bytes, form: Format) -> NDArray[np.float64]:
    if form.code == FLOAT:
        floats = np.frombuffer(data, f"<f{form.bits // 8}").astype(np.float64)
        if not np.isfinite(floats).all():
            raise ValueError("it holds NaN or infinity")
        return floats
    if form.bits == 8:  # unsigned, as no other
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if form.bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return np.asarray(padded.reshape(-1).view("<i4") / 2**31)
    return np.asarray(np.frombuffer(data, f"<i{form.bits // 8}") / 2 ** (form.bits - 1))
