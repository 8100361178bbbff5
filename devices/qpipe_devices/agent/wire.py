"""Messages on a pipe: one line of JSON, then the bytes of the arrays it announces (PROTOCOL.md)."""

from __future__ import annotations

import json
import os
import re
from typing import IO, Any, Dict, Mapping, NamedTuple  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

# begins a line that a host waits for: whatever a login shell prints before it is skipped
VERSION = 1
MAGIC = b"qpipe-agent-%d " % VERSION
ANY_MAGIC = re.compile(rb"qpipe-agent-(\d+) ")


class Message(NamedTuple):
    """What was said, and the arrays that came with it."""

    fields: Dict[str, Any]  # noqa: UP006
    arrays: Dict[str, np.ndarray]  # noqa: UP006


def write(
    stream: IO[bytes], fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write one message and flush it; arrays travel little-endian and in C order."""
    ready = {name: _little_endian(array) for name, array in (arrays or {}).items()}
    announced = [
        [name, array.dtype.str, list(array.shape), array.nbytes] for name, array in ready.items()
    ]
    stream.write(json.dumps({**fields, "arrays": announced}).encode() + b"\n")
    for array in ready.values():
        stream.write(array.tobytes())
    stream.flush()


def read(stream: IO[bytes]) -> Message | None:
    """The next message; None at the end of the stream, also where it ends inside a message; ValueError for what is no
    message."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
        announced = [
            (str(name), np.dtype(kind), shape, int(size))
            for name, kind, shape, size in fields.pop("arrays", [])
        ]
        arrays = {}
        for name, kind, shape, size in announced:
            content = bytearray(stream.read(size))
            if len(content) < size:
                return None
            arrays[name] = np.frombuffer(content, kind).reshape(shape)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(line.decode("utf-8", "replace").strip()[:100]) from error
    return Message(fields, arrays)


def claim() -> tuple[IO[bytes], IO[bytes]]:
    """This process's stdin and stdout for messages only: what anybody prints from now on goes to stderr."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return source, sink


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"))
