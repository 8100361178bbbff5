"""WAV files: RIFF chunks, PCM of 8 to 32 bits and floats, all channels mixed to one."""

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
SUPPORTED_BITS = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}
RIFF_HEADER_BYTES = 12
CHUNK_HEADER_BYTES = 8
FORMAT_BYTES = 16
SUBFORMAT_OFFSET = 24  # of an extensible format; the first two bytes are the code
LARGEST_FILE = 1 << 28  # bytes; it takes up to 16 times as much memory
# sizes that a writer to a pipe leaves in the header: the data goes on to the end of the file
UNKNOWN_SIZES = (0, 0xFFFFFFFF)


class SampleFormat(NamedTuple):
    """The content of a fmt chunk."""

    code: int
    channels: int
    rate: int  # Hz
    bits: int  # of one sample of one channel, as it is stored


def read_sound(file: Path) -> tuple[int, Floats]:
    """Return the rate in Hz and mono samples with full scale -1 to 1.

    Raise ValueError, with the reason, for what is not such a WAV file.
    """
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{size / 1e6:.0f} MB; a sound has at most {LARGEST_FILE / 1e6:.0f} MB")
    content = file.read_bytes()
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("not a WAV file")
    sample_format = None
    data = None
    for name, chunk in _chunks(content):
        if name == b"fmt ":
            sample_format = _read_format(chunk)
        elif name == b"data" and data is None:
            data = chunk
    if sample_format is None:
        raise ValueError("it has no format")
    if data is None:
        raise ValueError("it has no data")
    frame_bytes = sample_format.channels * sample_format.bits // 8
    whole_frames = len(data) // frame_bytes
    samples = _decode(bytes(data[: whole_frames * frame_bytes]), sample_format)
    channels = samples.reshape(-1, sample_format.channels)
    mono = channels.mean(axis=1, dtype=np.float64)
    return sample_format.rate, mono.astype(np.float32)


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield name and content of each chunk of a RIFF file."""
    start = RIFF_HEADER_BYTES
    while start + CHUNK_HEADER_BYTES <= len(content):
        name, size = struct.unpack_from("<4sI", content, start)
        body = start + CHUNK_HEADER_BYTES
        available = len(content) - body
        if name == b"data" and size in UNKNOWN_SIZES:
            size = available
        if size > available:
            readable_name = name.decode("ascii", "replace").strip()
            raise ValueError(f"cut short: {available} of {size} bytes of '{readable_name}'")
        yield name, memoryview(content)[body : body + size]
        padding = size % 2  # chunks begin at even offsets
        start = body + size + padding


def _read_format(chunk: memoryview) -> SampleFormat:
    if len(chunk) < FORMAT_BYTES:
        raise ValueError(f"its format has {len(chunk)} bytes, not {FORMAT_BYTES}")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == EXTENSIBLE and len(chunk) >= SUBFORMAT_OFFSET + 2:
        code = struct.unpack_from("<H", chunk, SUBFORMAT_OFFSET)[0]
    if bits not in SUPPORTED_BITS.get(code, ()):
        raise ValueError(
            f"format {code} of {bits} bits is not supported; "
            "use PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64"
        )
    if not channels or not rate:
        raise ValueError(f"{channels} channels at {rate} Hz")
    return SampleFormat(code, channels, rate, bits)


def _decode(data: bytes, sample_format: SampleFormat) -> NDArray[np.float64]:
    """Return the samples of all channels, interleaved as they are stored."""
    bits = sample_format.bits
    if sample_format.code == FLOAT:
        floats = np.frombuffer(data, f"<f{bits // 8}").astype(np.float64)
        if not np.isfinite(floats).all():
            raise ValueError("it holds NaN or infinity")
        return floats
    if bits == 8:  # the only unsigned one
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if bits == 24:
        # as the upper bytes of 32 bits, so that the sign is in its place
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return np.asarray(padded.reshape(-1).view("<i4") / 2**31)
    return np.asarray(np.frombuffer(data, f"<i{bits // 8}") / 2 ** (bits - 1))
