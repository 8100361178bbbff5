"""The journal of rounds: each is on disk before the next begins, so that a killed measurement goes on where it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import qpipe

FRESH_S = 3600.0  # older rounds are measured again: heat and load were other ones


class Journal:
    """A file of one round a line; only rounds of the same build and options, no older than an hour, are read back."""

    def __init__(self, path: Path, options: Mapping[str, float]) -> None:
        self.path, self.options = path, dict(options)

    def read(self, name: str, digest: str) -> dict[int, qpipe.Round]:
        """The rounds of a build by number; a line that was cut is passed over."""
        found: dict[int, qpipe.Round] = {}
        if not self.path.is_file():
            return found
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            same = (entry["name"], entry["digest"], entry["options"]) == (name, digest, self.options)
            if same and time.time() - entry["at"] < FRESH_S:
                found[entry["round"]] = qpipe.Round(**entry["result"])
        return found

    def append(self, name: str, digest: str, number: int, result: qpipe.Round) -> None:
        """Keep a round; it is on disk when this returns."""
        of = {"name": name, "digest": digest, "options": self.options}
        entry = {**of, "round": number, "at": time.time(), "result": asdict(result)}
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
