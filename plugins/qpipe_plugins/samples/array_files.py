"""NumPy's .npz files: named arrays, without anything that would have to be unpickled.

`qpipe export` hands this file over: it needs numpy, and nothing else.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpipe.errors import StageError, suggest

Arrays = Mapping[str, NDArray[Any]]
LARGEST_SAMPLE = 1 << 30  # bytes, unpacked
# MemoryError: an array says of itself that it is larger than its file
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    OverflowError,
    MemoryError,
    NotImplementedError,  # a compression that this Python lacks
    RuntimeError,  # an encrypted file
    zipfile.BadZipFile,
    zlib.error,
)
HOW_TO_SAVE = "save it with numpy.savez(file, name=array)"


def decode_arrays(file: Path, *, inputs: Sequence[str]) -> Arrays:
    """Return these arrays of an .npz file that holds one sample, without a batch axis, as they are.

    Raise StageError where the file lacks one.
    """
    arrays = load_arrays(file)
    check_arrays_exist(arrays, inputs, f"npz: {file}")
    return {name: arrays[name] for name in inputs}


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file; raise StageError where it cannot be read or holds none."""
    try:
        # numpy would leave a file open that is not an archive
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise StageError(f"npz: {file} is a single array without a name; {HOW_TO_SAVE}")
            _check_size(file, archive)
            arrays = {name: _read_array(file, archive, name) for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = _on_one_line(error)
        raise StageError(f"npz: {file} cannot be read: {reason}; {HOW_TO_SAVE}") from error
    if not arrays:
        raise StageError(f"npz: {file} holds no array; {HOW_TO_SAVE}")
    return arrays


def check_arrays_exist(arrays: Arrays, names: Sequence[str], where: str) -> None:
    """Raise StageError for the first of these names that is not among the arrays."""
    for name in names:
        if name not in arrays:
            raise StageError(f"{where} has no array '{name}'; {suggest(name, arrays)}")


def _check_size(file: Path, archive: np.lib.npyio.NpzFile) -> None:
    """Raise StageError where a file unpacks to more than a sample has, before memory is taken."""
    assert archive.zip is not None  # it is open
    size = sum(member.file_size for member in archive.zip.infolist())
    if size > LARGEST_SAMPLE:
        raise StageError(
            f"npz: {file} unpacks to {size / 1e6:.0f} MB; "
            f"a sample has at most {LARGEST_SAMPLE / 1e6:.0f} MB"
        )


def _read_array(file: Path, archive: np.lib.npyio.NpzFile, name: str) -> NDArray[Any]:
    try:
        return np.asarray(archive[name])
    except UNREADABLE as error:
        problem = f"array '{name}' cannot be read: {_on_one_line(error)}"
        hint = "save it again as numbers: nothing is unpickled"
        raise StageError(f"npz: {file}: {problem}; {hint}") from error


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
