"""What was measured, kept on the device: who lost the line and comes back is told it, and nothing is measured twice."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping  # noqa: UP035  (Python 3.8 on the board)

Fields = Dict[str, Any]  # noqa: UP006
KEPT_S = 3600.0
UNASKED = ("do", "id", "key", "deadline_s")  # what may differ between asking and asking again


class Journal:
    """A file of one answer a line; one file for each session of a host, which may be several conversations."""

    def __init__(self, folder: Path, session: str) -> None:
        folder.mkdir(exist_ok=True)
        _remove_old(folder)
        self.path = folder / f"{session}.jsonl"
        self.earlier = {entry["key"]: entry for entry in _entries(self.path)}

    def find(self, asked: Mapping[str, Any]) -> Fields | None:
        """The answer that was given to this very request in an earlier conversation; None where there was none."""
        entry = self.earlier.get(asked.get("key"))
        answer: Fields | None = (
            entry["answer"] if entry and entry["asked"] == _essence(asked) else None
        )
        return answer

    def keep(self, asked: Mapping[str, Any], answer: Fields) -> None:
        """Write down an answer before it is given. A full card costs the line, not the measurement."""
        if "key" not in asked:
            return
        entry = {"key": asked["key"], "at": time.time(), "asked": _essence(asked), "answer": answer}
        try:
            with self.path.open("ab") as file:
                file.write(
                    b"\n" + json.dumps(entry).encode() + b"\n"
                )  # the line before may have been cut
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(f"not journalled: {error}", file=sys.stderr, flush=True)  # noqa: T201  stderr is the log


def _essence(asked: Mapping[str, Any]) -> Fields:
    return {key: value for key, value in asked.items() if key not in UNASKED}


def _entries(path: Path) -> Iterator[Fields]:
    """Oldest first; a line that was cut is passed over."""
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _remove_old(folder: Path) -> None:
    for path in folder.glob("*.jsonl"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > KEPT_S:
                path.unlink()
