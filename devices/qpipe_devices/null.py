"""A device that runs nothing and answers at once with predictable numbers, to try out recipes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qpipe.digests import digest_text
from qpipe.errors import DeviceError
from qpipe.stages.bounds import Milliseconds
from qpipe.types import (
    Array,
    Build,
    Capabilities,
    Device,
    Hold,
    Progress,
    Round,
    RoundOptions,
    Stored,
)

ARM_FEATURES = ("asimd", "asimddp")
X86_FEATURES = ("avx2", "avx512_vnni")


def null(name: str, *, arch: str = "x86_64", latency_ms: Milliseconds = 1.0) -> Device:
    """A device that runs nothing: outputs are zeros, every inference takes `latency_ms`."""
    return NullDevice(name, arch, latency_ms)


class NullDevice:
    """A device that leaves files where they are, and computes nothing."""

    def __init__(self, name: str, arch: str, latency_ms: float) -> None:
        self.name = name
        self.arch = arch
        self.latency_ms = latency_ms
        self.shares_host = False
        self.stored_digests: set[str] = set()

    def capabilities(self) -> Capabilities:
        """Return capabilities that depend on the architecture alone."""
        return Capabilities(
            arch=self.arch,
            system="null",
            cpu="null",
            cores=1,
            features=ARM_FEATURES if self.arch == "aarch64" else X86_FEATURES,
            memory_mb=1000.0,
            python="3.11",
            numpy=np.__version__,
            runtimes={"onnxruntime": "1.23.0"},
            fingerprint=digest_text(f"null {self.arch}"),
        )

    def store(self, folder: Path, progress: Progress) -> Stored:
        """Return the folder itself; count its bytes as sent once per digest."""
        digest, size = _digest_folder(folder)
        sent = 0 if digest in self.stored_digests else size
        self.stored_digests.add(digest)
        progress(sent, sent, "B")
        return Stored(str(folder), digest, size, sent)

    def infer(self, build: Stored, samples: Stored, count: int) -> Iterator[dict[str, Array]]:
        """Yield zeros in the shapes that build.json declares, with dynamic dimensions as 1."""
        outputs = Build.read(Path(build.path)).manifest["outputs"]
        for _ in range(count):
            yield {
                output["name"]: np.zeros(_static_shape(output["shape"]), output["dtype"])
                for output in outputs
            }

    def round(
        self,
        build: Stored,
        samples: Stored,
        *,
        warmup_s: float,
        values: int,
        budget_s: float,
        options: RoundOptions | None = None,
    ) -> Round:
        """Return a round in which every value is `latency_ms`, whatever the options."""
        return Round(
            [self.latency_ms] * values,
            load_ms=self.latency_ms,
            first_ms=self.latency_ms,
            warmups=1,
            peak_mb=2.0,
            runtime_mb=1.0,
        )

    def placement(self, build: Stored) -> None:
        """Return None: nothing runs, so there is no placement."""

    def clean(
        self,
        *,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
        runtime: bool = False,
    ) -> int:
        """Forget which folders were sent; return 0, because no files are its own."""
        if not dry_run:
            self.stored_digests.clear()
        return 0

    def hold(self, seconds: float, reason: str = "") -> Hold:
        """Raise DeviceError: a device that runs nothing cannot be held."""
        raise DeviceError(
            f"{self.name}: it runs nothing, there is nothing to hold", failure="configuration"
        )

    def release(self, *, force: bool = False) -> bool:
        """Return False: there is never a hold."""
        return False

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _digest_folder(folder: Path) -> tuple[str, int]:
    """Return a digest of the names and contents of a folder's files, and their bytes."""
    digest = hashlib.sha256()
    size = 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files):
        content = path.read_bytes()
        header = [path.relative_to(folder).as_posix(), len(content)]
        digest.update(json.dumps(header).encode())
        digest.update(content)
        size += len(content)
    return digest.hexdigest(), size


def _static_shape(shape: list[int | str | None]) -> list[int]:
    return [size if isinstance(size, int) else 1 for size in shape]
