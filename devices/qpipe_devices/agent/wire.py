"""Messages on a pipe: one line of JSON, then the bytes of the arrays it announces (PROTOCOL.md)."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np

VERSION = 1
# start of the lines that a host waits for; anything that a login shell prints before is skipped
MAGIC = b"qpipe-agent-%d " % VERSION
MAGIC_OF_ANY_VERSION = re.compile(rb"qpipe-agent-(\d+) ")
LONGEST_QUOTE = 100  # characters of a line that is not a message
LONGEST_LINE = 1 << 24  # bytes of a message without its arrays
MOST_CONTAINERS = 1 << 18  # lists and objects of a message: empty ones take the most memory
MEMORY_OF_JSON = 8  # bytes of Python objects by byte of JSON
CHUNK = 1 << 20  # bytes read at once: memory is taken only for what has arrived


class Message(NamedTuple):
    """The fields of a message, the arrays that came with it, and about how many bytes it takes."""

    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]
    memory: int = 0


class _Announced(NamedTuple):
    """An array that a message announces."""

    name: str
    dtype: np.dtype
    shape: list[int]
    size: int  # bytes


def write_message(
    stream: IO[bytes], fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write one message and flush; arrays travel little-endian and in C order."""
    contents = {name: _little_endian(array) for name, array in (arrays or {}).items()}
    announced = [
        [name, array.dtype.str, list(array.shape), array.nbytes] for name, array in contents.items()
    ]
    stream.write(json.dumps({**fields, "arrays": announced}).encode() + b"\n")
    for array in contents.values():
        stream.write(array.tobytes())
    stream.flush()


def read_message(stream: IO[bytes], *, largest_arrays: float = math.inf) -> Message | None:
    """Return the next message; None at the end of the stream, also where it cuts a message.

    Raise ValueError, with the beginning of the line, where the line is not a message, or announces
    arrays of more bytes than `largest_arrays` together.
    """
    line = stream.readline(LONGEST_LINE)
    if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
        return None
    try:
        if line.count(b"[") + line.count(b"{") > MOST_CONTAINERS:
            raise ValueError
        fields = json.loads(line)
        announced = [_parse_announced(entry) for entry in fields.pop("arrays", [])]
        arrays_size = sum(entry.size for entry in announced)
        if arrays_size > largest_arrays:
            raise ValueError
        arrays = {}
        for entry in announced:
            content = _read_exactly(stream, entry.size)
            if len(content) < entry.size:
                return None
            arrays[entry.name] = np.frombuffer(content, entry.dtype).reshape(entry.shape)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        text = line[: 4 * LONGEST_QUOTE].decode("utf-8", "replace").strip()
        raise ValueError(text[:LONGEST_QUOTE]) from error
    return Message(fields, arrays, MEMORY_OF_JSON * len(line) + arrays_size)


def _read_exactly(stream: IO[bytes], size: int) -> bytearray:
    """Return so many bytes, or fewer at the end of the stream."""
    content = bytearray()
    while len(content) < size:
        chunk = stream.read(min(CHUNK, size - len(content)))
        if not chunk:
            break
        content += chunk
    return content


def claim() -> tuple[IO[bytes], IO[bytes]]:
    """Return stdin and stdout for messages only; later prints of this process go to stderr."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    os.close(empty)
    return source, sink


def _parse_announced(entry: list[Any]) -> _Announced:
    """Return an announcement; raise ValueError where its size is not that of its shape."""
    name, type_name, dimensions, size = entry
    dtype = np.dtype(str(type_name))
    shape = [int(length) for length in dimensions]
    expected_size = dtype.itemsize
    for length in shape:
        expected_size *= length
    if dtype.hasobject or min(shape, default=0) < 0 or size != expected_size:
        raise ValueError(size)
    return _Announced(str(name), dtype, shape, expected_size)


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"))
