"""The files beside an ONNX network that hold its tensors: what import may read, and what a key depends on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

LARGEST = 2**31 - 1  # bytes: protobuf's limit for one message


def external_files(path: Path) -> list[Path]:
    """The files that a network's tensors lie in, as far as import would read them; none for what is no network."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return []
        model = onnx.load_model_from_string(path.read_bytes())
        places = {locate(tensor, path.parent) for tensor in external_tensors(model)}
    except (DecodeError, OSError, ValueError):
        return []  # the import stage says what is wrong with it
    return sorted(place for place in places if place is not None and place.is_file())


def external_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All tensors in a network that lie in other files: weights, and those in attributes, branches and functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if isinstance(value, Message) else value:
            if not isinstance(inner, onnx.TensorProto):
                yield from external_tensors(inner)
            elif inner.data_location == onnx.TensorProto.EXTERNAL:
                yield inner


def location(tensor: onnx.TensorProto) -> str:
    """The path it gives, relative to the network's folder."""
    place: str | bytes = {entry.key: entry.value for entry in tensor.external_data}.get(
        "location", ""
    )
    return (
        place.decode("utf-8", "replace") if isinstance(place, bytes) else place
    )  # protobuf gives what is no UTF-8 so


def locate(tensor: onnx.TensorProto, folder: Path) -> Path | None:
    """Where a tensor lies, whether there is a file or not; None where that is outside of the folder."""
    place = location(tensor)
    try:
        file = (folder / place).resolve()
        file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        return None
    return file if not Path(place).is_absolute() and file.is_relative_to(folder.resolve()) else None
