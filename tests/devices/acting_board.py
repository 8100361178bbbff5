"""A board with a tree of its own to read and set, and a runner that acts on it while it is timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boards_sysfs as boards
import numpy as np
import pytest

import qpipe
from qpipe_devices import local
from small_build import nothing, write_build

# while it is timed it writes the files that acts.json says, notes what it sees of others, and takes a moment
ACTOR = """
import json, os, sys, time
from pathlib import Path
def answer(**fields):
    asked = json.loads(sys.stdin.buffer.readline())
    sys.stdin.buffer.read(sum(each[3] for each in asked["arrays"]))
    return lambda **more: print(json.dumps({**fields, **more, "arrays": []}), flush=True)
answer(load_ms=1, runtime_mb=1, inputs=["image"], outputs=[])()
reply = answer(first_ms=1, warmups=1, values_ns=[1000000], peak_mb=2)
acts = json.loads(Path("acts.json").read_text())
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
seen = {path: Path(path).read_text().strip() for path in acts["read"]}
Path(acts["note"]).write_text(json.dumps({"seen": seen, "cores": cores}))
for path, text in acts["write"].items():
    Path(path).write_text(text)
began = time.monotonic_ns()
time.sleep(acts["seconds"])
reply(window_ns=[began, time.monotonic_ns()])
sys.stdin.read()
"""
GOVERNOR = f"{boards.CPU}/cpufreq/policy0/scaling_governor"
ASKED = {"warmup_s": 0, "values": 1, "budget_s": 5}


class Board:
    """A device with a tree of its own, a local one unless one is `opened` that keeps its things in `folder`/board."""

    def __init__(
        self, folder: Path, tree: Callable[[Path], Path], opened: Callable[..., Any] | None = None
    ) -> None:
        self.folder, self.root = folder, tree(folder / "tree")
        self.device = (
            opened(sysfs=self.root)
            if opened
            else local("board", folder=folder / "board", sysfs=self.root)
        )
        pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
        how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
        samples = qpipe.Samples.write(folder / "samples", [qpipe.Sample("0", pixels)], how)
        self.samples = self.device.store(samples.folder, nothing)

    def round(
        self, write: dict[str, str] | None = None, seconds: float = 0, **options: object
    ) -> qpipe.Round:
        acts = {
            "read": [str(self.root / GOVERNOR)], "note": str(self.folder / "note"), "seconds": seconds,
            "write": {str(self.root / name): text for name, text in (write or {}).items()},
        }  # fmt: skip
        files = {"run_actor.py": ACTOR, "acts.json": json.dumps(acts)}
        build = write_build(self.folder / f"build{time.monotonic_ns()}", "run_actor.py", files)
        stored = self.device.store(build.folder, nothing)
        return self.device.round(stored, self.samples, **ASKED, options=options)

    @property
    def note(self) -> Any:
        return json.loads((self.folder / "note").read_text())

    @property
    def governor(self) -> str:
        return (self.root / GOVERNOR).read_text().strip()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """With the tree of a Raspberry Pi 4."""
    made = Board(tmp_path, boards.pi4)
    yield made
    made.device.close()
