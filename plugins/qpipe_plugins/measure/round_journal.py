"""A journal of measured rounds, so that a measurement that was killed continues."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import qpipe
from qpipe.compare.intervals import Interval
from qpipe.compare.round_statistics import sectioned
from qpipe.types import RoundOptions

# Both are seconds in which nothing was measured; a measurement that goes on without a pause counts
# as if nobody had interrupted it.
MOST_IDLE_S = 3600.0  # an older round was measured under other heat and load: it is repeated
# a longer pause between two builds of a round, and they were not measured alike
MOST_PAUSE_S = 300.0


class RoundRequest(TypedDict):
    """The keyword arguments of Device.round."""

    warmup_s: float
    values: int
    budget_s: float
    options: RoundOptions


class Entry(TypedDict):
    """One line of the journal: a round of one build."""

    name: str
    digest: str  # of the build
    options: Any  # the request, as JSON
    round: int
    at: float  # end, in seconds since the epoch
    seconds: float  # time that it took
    result: dict[str, Any]


class RoundJournal:
    """A file with one round of one build a line.

    A round is read back as a whole, of all builds, or is measured anew: builds are compared round
    by round, and a build that failed and runs again must not be compared with values that the
    others gave long before.
    """

    def __init__(self, path: Path, request: RoundRequest) -> None:
        self.path = path
        self.request = json.loads(json.dumps(request))  # as it is read back
        self.seconds = 0.0  # time that the rounds read and written took
        self._last_end = time.monotonic()

    def stored_round(
        self, number: int, digests: Mapping[str, str]
    ) -> dict[str, qpipe.Round] | None:
        """Return a round of the builds in `digests` (name to digest), by name.

        None where a build is missing, the round is old, or its builds were not measured together.
        """
        newest: dict[str, Entry] = {}
        for entry in self._recent_entries():
            is_same_build = entry["digest"] == digests.get(entry["name"])
            if entry["round"] == number and is_same_build and entry["options"] == self.request:
                newest[entry["name"]] = entry
        entries = sorted(newest.values(), key=_end_time)
        if newest.keys() != digests.keys() or _longest_pause(entries) >= MOST_PAUSE_S:
            return None
        self.seconds += sum(map(_duration, entries))
        return {name: qpipe.Round(**entry["result"]) for name, entry in newest.items()}

    def _recent_entries(self) -> list[Entry]:
        """Return the entries that are not too old, oldest first."""
        recent: list[Entry] = []
        measuring_s = 0.0
        now = time.time()
        for entry in reversed(list(self._entries())):
            age = now - entry["at"]
            if age >= 0 and age - measuring_s < MOST_IDLE_S:
                recent.append(entry)
            measuring_s += _duration(entry)
        recent.reverse()
        return recent

    def _entries(self) -> Iterator[Entry]:
        """Yield all entries, oldest first; an incomplete line is skipped."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                yield json.loads(line)

    def append(self, name: str, digest: str, number: int, result: qpipe.Round) -> None:
        """Store a round; it is on disk on return. Its duration is the time since the last one."""
        now = time.monotonic()
        seconds = now - self._last_end
        self._last_end = now
        self.seconds += seconds
        entry: Entry = {
            "name": name,
            "digest": digest,
            "options": self.request,
            "round": number,
            "at": time.time(),
            "seconds": seconds,
            "result": asdict(result),
        }
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")  # the last line is incomplete
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _end_time(entry: Entry) -> float:
    return entry["at"]


def _duration(entry: Entry) -> float:
    """Return how long a round took, of the time until it was written."""
    return float(entry.get("seconds", 0.0))


def _longest_pause(entries: Sequence[Entry]) -> float:
    """Return the longest time between the end of a round and the start of the next, in seconds."""
    pauses = [after["at"] - _duration(after) - before["at"] for before, after in pairwise(entries)]
    return max(pauses, default=0.0)


def interval(value: float, by_round: Sequence[float]) -> Interval | None:
    """Return the interval of a value over all rounds (a median), from the value of each round.

    None for a single round.
    """
    return sectioned(value, by_round)
