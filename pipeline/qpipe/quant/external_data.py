"""The files beside an ONNX network that hold its tensors.

They are what import may read, and what a cache key depends on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

LARGEST = 2**31 - 1  # bytes: protobuf's limit for one message


def external_files(path: Path) -> list[Path]:
    """Return the files that a network's tensors lie in, as far as import would read them, sorted.

    A file that is not an ONNX network has none: the import stage says what is wrong with it.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return []
        model = onnx.load_model_from_string(path.read_bytes())
        files = {locate(tensor, path.parent) for tensor in external_tensors(model)}
    except (DecodeError, OSError, ValueError):
        return []
    return sorted(file for file in files if file is not None and file.is_file())


def external_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a network that lie in other files.

    They may be weights, or stand in attributes, branches and functions.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        submessages = [value] if isinstance(value, Message) else value
        for submessage in submessages:
            if not isinstance(submessage, onnx.TensorProto):
                yield from external_tensors(submessage)
            elif submessage.data_location == onnx.TensorProto.EXTERNAL:
                yield submessage


def location(tensor: onnx.TensorProto) -> str:
    """Return the path that an external tensor gives, relative to the network's folder.

    It is "" where it gives none.
    """
    entries: dict[str, str | bytes] = {entry.key: entry.value for entry in tensor.external_data}
    path = entries.get("location", "")
    # protobuf gives bytes where they are not UTF-8
    return path.decode("utf-8", "replace") if isinstance(path, bytes) else path


def locate(tensor: onnx.TensorProto, folder: Path) -> Path | None:
    """Return where a tensor lies, whether there is a file or not.

    It is None where that is outside of the folder.
    """
    path = location(tensor)
    try:
        file = (folder / path).resolve()
        file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        return None
    is_inside = not Path(path).is_absolute() and file.is_relative_to(folder.resolve())
    return file if is_inside else None
