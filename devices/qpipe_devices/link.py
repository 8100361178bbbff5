"""A device as stages see it, over any transport: the agent's requests in the words of qpipe's Device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from qpipe.errors import DeviceError
from qpipe.types import Array, Capabilities, Placement, Progress, Round, Stored, Transport
from qpipe_devices.conversation import ConnectionLostError, Conversation

ATTEMPTS = 3  # a file that arrives damaged so often says that something is broken
HASHING_S = 600.0  # a slow card under a large folder


class Link:
    """A device behind a transport. It connects when first asked, and again after a connection was lost.

    One caller at a time: outputs of infer are read to their end, or given up, before the next request.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        *,
        python: str = "python3",
        folder: str = ".qpipe",
        deadline_s: float = 120,
        silence_s: float = 30,
        spare_mb: float = 64,
        shares_host: bool = False,
    ) -> None:
        self.name, self.transport, self.shares_host = name, transport, shares_host
        self.python, self.folder = python, folder.removeprefix("~/")
        self.deadline_s, self.silence_s, self.spare_mb = deadline_s, silence_s, spare_mb
        self._conversation: Conversation | None = None

    def capabilities(self) -> Capabilities:
        """Ask the device what it is; raises DeviceError where it cannot be reached or lacks python or numpy."""
        answer = self._ask("capabilities", 60)
        fields: dict[str, Any] = {key: answer[key] for key in Capabilities.__dataclass_fields__}
        return Capabilities(**{**fields, "features": tuple(answer["features"])})

    def store(self, folder: Path, progress: Progress) -> Stored:
        """Bring a folder's files there, each under its sha256, verified on the device; what is there is not sent."""
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files = {name: (_sha256(path), path.stat().st_size) for name, path in paths.items()}
        sources = {digest: paths[name] for name, (digest, _) in files.items()}
        sent = self._bring(files, sources, progress)
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        path = self._ask("folder", HASHING_S, digest=digest, files=files)["path"]
        return Stored(path, digest, sum(size for _, size in files.values()), sent)

    def infer(self, build: Stored, samples: Stored, count: int) -> Iterator[dict[str, Array]]:
        """Run the first `count` stored samples in order, giving the outputs of each by name as they arrive."""
        asked = {"build": build.path, "samples": samples.path, "count": count, "deadline_s": self.deadline_s}
        try:
            # the first answer comes after a start, a load and a run
            with closing(self._connected().stream("infer", 3 * self.deadline_s, **asked)) as answers:
                for answer in answers:
                    yield answer.arrays
        except ConnectionLostError:
            self.close()
            raise

    def round(self, build: Stored, samples: Stored, *, warmup_s: float, values: int, budget_s: float) -> Round:
        """Time `values` inferences of one sample in a fresh process, after at least `warmup_s` seconds of warmup."""
        wanted = {"values": values, "warmup_s": warmup_s, "budget_s": budget_s, "deadline_s": self.deadline_s}
        seconds = 3 * self.deadline_s + budget_s
        answer = self._ask("round", seconds, build=build.path, samples=samples.path, **wanted)
        fields = {key: answer[key] for key in Round.__dataclass_fields__ if key != "values_ms"}
        return Round([value / 1e6 for value in answer["values_ns"]], **fields)

    def placement(self, build: Stored) -> Placement | None:
        """Where the build's nodes run and in which precision, by the word of its runtime; None where it has none."""
        answer = self._ask("placement", 3 * self.deadline_s, build=build.path, deadline_s=self.deadline_s)
        if "nodes" not in answer:
            return None
        try:
            return placement_of(answer)
        except (TypeError, ValueError, AttributeError) as error:
            raise DeviceError(f"{self.name}: what the runner says of placement is not as PROTOCOL.md has it") from error

    def clean(self) -> int:
        """Remove all that was stored on the device; the bytes that this freed."""
        return int(self._ask("clean", HASHING_S)["bytes"])

    def close(self) -> None:
        """Let go of the device; nothing is left running there."""
        conversation, self._conversation = self._conversation, None
        if conversation:
            conversation.close()
        self.transport.close()

    def _connected(self) -> Conversation:
        if self._conversation is None:
            try:
                self._conversation = Conversation(self.name, self.transport, self.python, self.folder, self.silence_s)
            except DeviceError:
                self.transport.close()
                raise
        return self._conversation

    def _ask(self, do: str, seconds: float, **fields: Any) -> dict[str, Any]:
        try:
            return self._connected().ask(do, seconds, **fields)
        except ConnectionLostError:
            self.close()
            raise

    def _bring(self, files: dict[str, tuple[str, int]], sources: dict[str, Path], progress: Progress) -> int:
        """Send what is missing; the bytes that were."""
        missing, total = self._missing(files, sources), 0
        sizes = dict(files.values())
        expected = sum(sizes[digest] for digest in missing)
        for digest in missing:
            self._send(digest, sources[digest], _part_of(progress, total, expected))
            total += sizes[digest]
        return total

    def _missing(self, files: dict[str, tuple[str, int]], sources: dict[str, Path]) -> list[str]:
        answer = self._ask("missing", HASHING_S, files=files)
        missing, sizes = list(answer["missing"]), dict(files.values())
        free = float(answer["free"]) - self.spare_mb * 1e6
        if missing and sum(sizes[digest] for digest in missing) > free:
            largest = max(missing, key=lambda digest: sizes[digest])
            raise DeviceError(
                f"{self.name}: no room for {sources[largest].name} ({_rounded(sizes[largest])}, "
                f"{_rounded(max(0.0, free))} free in {self._connected().root}); "
                f"free space or run: qpipe devices clean {self.name}"
            )
        return missing

    def _send(self, digest: str, source: Path, progress: Progress) -> None:
        for _ in range(ATTEMPTS):
            self.transport.put(source, f"{self._connected().root}/incoming/{digest}", progress)
            if self._ask("take", HASHING_S, digest=digest)["taken"]:
                return
        fix = "check the device's memory and card"
        raise DeviceError(f"{self.name}: {source.name} arrived damaged {ATTEMPTS} times; {fix}")


def placement_of(answer: Mapping[str, Any]) -> Placement:
    """A runner's answer, every part of it in the type it must have."""
    nodes = {
        str(provider): {str(precision): int(number) for precision, number in by_precision.items()}
        for provider, by_precision in answer["nodes"].items()
    }
    return Placement(nodes, tuple(str(name) for name in answer.get("float_nodes", ())))


def _part_of(progress: Progress, before: int, total: int) -> Progress:
    """Progress of one file as that of them all."""

    def report(done: float, _total: float | None = None, unit: str = "B") -> None:
        progress(before + done, total, unit)

    return cast("Progress", report)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rounded(size: float) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
