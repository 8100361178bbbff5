"""A device that runs nothing and answers at once with numbers one can foresee: for trying the engine and a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.errors import DeviceError
from qpipe.stages.bounds import Milliseconds
from qpipe.types import Array, Build, Capabilities, Device, Hold, Progress, Round, Stored


def null(name: str, *, arch: str = "x86_64", latency_ms: Milliseconds = 1.0) -> Device:
    """A device that runs nothing: outputs are zeros, every inference takes `latency_ms`."""
    return NullDevice(name, arch, latency_ms)


class NullDevice:
    """Keeps what it is given where it lies."""

    def __init__(self, name: str, arch: str, latency_ms: float) -> None:
        self.name = name
        self.arch = arch
        self.latency_ms = latency_ms
        self.shares_host = False
        self.known: set[str] = set()

    def capabilities(self) -> Capabilities:
        """The same always."""
        fingerprint = hashlib.sha256(f"null {self.arch}".encode()).hexdigest()
        features = ("asimd", "asimddp") if self.arch == "aarch64" else ("avx2", "avx512_vnni")
        runtimes = {"onnxruntime": "1.23.0"}
        return Capabilities(
            self.arch,
            "null",
            "null",
            1,
            features,
            1000.0,
            "3.11",
            np.__version__,
            runtimes,
            fingerprint,
        )

    def store(self, folder: Path, progress: Progress) -> Stored:
        """The folder where it is; a digest it has met before costs nothing."""
        digest = hashlib.sha256()
        size = 0
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            digest.update(
                json.dumps([path.relative_to(folder).as_posix(), len(content)]).encode() + content
            )
            size += len(content)
        sent = 0 if digest.hexdigest() in self.known else size
        self.known.add(digest.hexdigest())
        progress(sent, sent, "B")
        return Stored(str(folder), digest.hexdigest(), size, sent)

    def infer(self, build: Stored, samples: Stored, count: int) -> Iterator[dict[str, Array]]:
        """Zeros in the shapes that build.json declares, dynamic dimensions as 1."""
        outputs = Build.read(Path(build.path)).manifest["outputs"]
        for _ in range(count):
            yield {
                each["name"]: np.zeros(
                    [size if isinstance(size, int) else 1 for size in each["shape"]], each["dtype"]
                )
                for each in outputs
            }

    def round(
        self,
        build: Stored,
        samples: Stored,
        *,
        warmup_s: float,
        values: int,
        budget_s: float,
        options: Mapping[str, Any] = {},
    ) -> Round:
        """Every value is the device's latency, whatever the options."""
        once = self.latency_ms
        return Round(
            [once] * values, load_ms=once, first_ms=once, warmups=1, peak_mb=2.0, runtime_mb=1.0
        )

    def placement(self, build: Stored) -> None:
        """Nothing runs: nobody knows where."""

    def clean(
        self,
        *,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
        runtime: bool = False,
    ) -> int:
        """It holds nothing of its own; what it met before is forgotten."""
        self.known.clear()
        return 0

    def hold(self, seconds: float, reason: str = "") -> Hold:
        """It runs nothing: nobody is in anybody's way."""
        raise DeviceError(
            f"{self.name}: it runs nothing, there is nothing to hold", failure="configuration"
        )

    def release(self, *, force: bool = False) -> bool:
        """There was no hold."""
        return False

    def close(self) -> None:
        """There is nothing to let go of."""
