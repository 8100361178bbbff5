"""What measuring in rounds needs: a journal, so that a killed measurement goes on, and the interval over rounds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import qpipe
from qpipe.compare.intervals import Interval
from qpipe.compare.round_statistics import sectioned

# seconds in which nothing was measured: what went on without a pause would count, too, had nobody interrupted it
FRESH_S = 3600.0  # rounds that lie further back are measured again: heat and load were other ones
PAUSE_S = 300.0  # a longer one between two builds of a round, and they were not measured under the same heat and load

Entry = dict[str, Any]  # a line


class Journal:
    """A file of one round of one build a line. A round is read back where it is whole, or else all of it is taken anew:
    builds are compared round by round, and a failed build that is back must not meet what others took long before."""

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        # as they are read back
        self.path = path
        self.options = json.loads(json.dumps(options))
        self.seconds = 0.0  # what the rounds read and written took
        self._since = time.monotonic()

    def read(self, number: int, digests: Mapping[str, str]) -> dict[str, qpipe.Round] | None:
        """A round of all these builds {name: digest}; None where one lacks it, it is old, or it was taken in parts."""
        last: dict[str, Entry] = {}
        for entry in self._fresh():
            name = entry["name"]
            if (entry["round"], entry["digest"], entry["options"]) == (
                number,
                digests.get(name),
                self.options,
            ):
                last[name] = entry
        in_turn = sorted(last.values(), key=lambda entry: entry["at"])
        pauses = (
            after["at"] - _seconds(after) - before["at"] for before, after in pairwise(in_turn)
        )
        if last.keys() != digests.keys() or any(pause >= PAUSE_S for pause in pauses):
            return None
        self.seconds += sum(map(_seconds, in_turn))
        return {name: qpipe.Round(**entry["result"]) for name, entry in last.items()}

    def _fresh(self) -> list[Entry]:
        """Those that count still, oldest first."""
        found = []
        busy = 0.0
        now = time.time()
        for entry in reversed(list(self._entries())):
            age = now - entry["at"]
            if age >= 0 and age - busy < FRESH_S:
                found.append(entry)
            busy += _seconds(entry)
        return found[::-1]

    def _entries(self) -> Iterator[Entry]:
        """Oldest first; a line that was cut is passed over."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                yield json.loads(line)

    def append(self, name: str, digest: str, number: int, result: qpipe.Round) -> None:
        """Keep a round; it is on disk when this returns. It took the time since the one before."""
        now = time.monotonic()
        before = self._since
        self._since = now
        self.seconds = self.seconds + now - before
        of = {"name": name, "digest": digest, "options": self.options}
        entry = {
            **of,
            "round": number,
            "at": time.time(),
            "seconds": now - before,
            "result": asdict(result),
        }
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")  # the line before was cut
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _seconds(entry: Entry) -> float:
    """How long it took, of the time until it was written."""
    return float(entry.get("seconds", 0.0))


def interval(value: float, by_round: Sequence[float]) -> Interval | None:
    """The interval of a value over all rounds (a median), from the same number of each; None for a single round."""
    return sectioned(value, by_round)
