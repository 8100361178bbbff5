"""Answers to rounds, kept on the device: a host that lost the connection asks for them again."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

if TYPE_CHECKING:
    from .messages import RoundAnswer, RoundRequest

LONGEST_AGE_S = 3600.0
# fields that may differ when a round is requested again
VARYING_FIELDS = ("do", "id", "key", "deadline_s")


class JournalEntry(TypedDict):
    """One line of a journal."""

    key: int
    at: float  # seconds since 1970
    request: Mapping[str, Any]
    answer: RoundAnswer


class AnswerJournal:
    """A file with one answer a line.

    There is one file for each session of a host, which may be several conversations.
    """

    def __init__(self, folder: Path, session: str) -> None:
        folder.mkdir(exist_ok=True)
        _remove_old_journals(folder)
        self.path = folder / f"{session}.jsonl"
        self.earlier = {entry["key"]: entry for entry in _read_entries(self.path)}

    def find(self, request: RoundRequest) -> RoundAnswer | None:
        """Return the answer that an earlier conversation gave to the same request, or None."""
        if "key" not in request:
            return None
        entry = self.earlier.get(request["key"])
        if entry is None or entry["request"] != _constant_fields(request):
            return None
        return entry["answer"]

    def append(self, request: RoundRequest, answer: RoundAnswer) -> None:
        """Write an answer to disk before it is sent.

        On a full disk the line is lost, not the measurement.
        """
        if "key" not in request:
            return
        entry: JournalEntry = {
            "key": request["key"],
            "at": time.time(),
            "request": _constant_fields(request),
            "answer": answer,
        }
        try:
            with self.path.open("ab") as file:
                # the line before may have been cut
                file.write(b"\n" + json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(f"not journalled: {error}", file=sys.stderr, flush=True)  # noqa: T201  stderr is the log


def _constant_fields(request: RoundRequest) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in VARYING_FIELDS}


def _read_entries(path: Path) -> Iterator[JournalEntry]:
    """Yield the entries, oldest first; a line that was cut is skipped."""
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                yield cast("JournalEntry", json.loads(line))


def _remove_old_journals(folder: Path) -> None:
    for path in folder.glob("*.jsonl"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LONGEST_AGE_S:
                path.unlink()
