"""Messages on a pipe: one line of JSON, then the bytes of the arrays it announces (PROTOCOL.md)."""

from __future__ import annotations

import json
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


class Message(NamedTuple):
    """The fields of a message and the arrays that came with it."""

    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]


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


def read_message(stream: IO[bytes]) -> Message | None:
    """Return the next message; None at the end of the stream, also where it cuts a message.

    Raise ValueError, with the line, where the line is not a message.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
        announced = [_parse_announced(entry) for entry in fields.pop("arrays", [])]
        arrays = {}
        for entry in announced:
            content = bytearray(stream.read(entry.size))
            if len(content) < entry.size:
                return None
            arrays[entry.name] = np.frombuffer(content, entry.dtype).reshape(entry.shape)
    except (ValueError, TypeError, AttributeError) as error:
        text = line.decode("utf-8", "replace").strip()
        raise ValueError(text[:LONGEST_QUOTE]) from error
    return Message(fields, arrays)


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
    name, dtype, shape, size = entry
    return _Announced(str(name), np.dtype(dtype), shape, int(size))


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"))
