"""A device as stages see it, over any transport: the agent's requests in the words of qpipe's Device."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

from qpipe.errors import DeviceError
from qpipe.types import Array, Capabilities, Hold, Placement, Progress, Round, Stored, Transport
from qpipe_devices import agent_package
from qpipe_devices.agent.energy_meter import IDLE_S
from qpipe_devices.agent_connection import Conversation
from qpipe_devices.host_energy_meter import metered
from qpipe_devices.reconnecting import ConnectionLostError, Patience

ATTEMPTS = 3  # a file that arrives damaged so often says that something is broken
COOLING_S = 600.0  # how long a device may take to cool down, where a round is to start cool
HASHING_S = 600.0  # a slow card under a large folder
PATIENCE_S = 30.0  # with a line that was lost


class Link:
    """A device behind a transport. It connects when first asked, and again after a connection was lost.

    A round, or what is left of an inference, is asked for again for `patience_s` after the line was lost. Agents that
    name the same `lock`, a file there, have the device one at a time, whatever their folders.

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
        lock: str = "",
        shares_host: bool = False,
        sysfs: Path | None = None,
    ) -> None:
        self.name = name
        self.transport = transport
        self.shares_host = shares_host
        self.python = python
        self.folder = folder.removeprefix("~/")
        self.deadline_s = deadline_s
        self.silence_s = silence_s
        self.spare_mb = spare_mb
        self.sysfs = str(sysfs) if sysfs else ""
        self.lock = lock
        self.patience_s = PATIENCE_S
        self.session = uuid.uuid4().hex
        self.keys = 0
        self.given_up = threading.Event()
        self._conversation: Conversation | None = None

    def capabilities(self) -> Capabilities:
        """Ask the device what it is; raises DeviceError where it cannot be reached or lacks python or numpy."""
        answer = self._ask("capabilities", 60, sysfs=self.sysfs)
        fields: dict[str, Any] = {key: answer[key] for key in Capabilities.__dataclass_fields__}
        return Capabilities(**{**fields, "features": tuple(answer["features"])})

    def store(self, folder: Path, progress: Progress) -> Stored:
        """Bring a folder's files there, each under its sha256, verified on the device; what is there is not sent."""
        paths = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        files = {name: (_sha256(path), path.stat().st_size) for name, path in paths.items()}
        sources = {digest: paths[name] for name, (digest, _) in files.items()}
        sent = self._bring(files, sources, progress)
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        path = self._ask("folder", HASHING_S, digest=digest, files=files)["path"]
        return Stored(path, digest, sum(size for _, size in files.values()), sent)

    def infer(self, build: Stored, samples: Stored, count: int) -> Iterator[dict[str, Array]]:
        """Run the first `count` stored samples in order, giving the outputs of each by name as they arrive."""
        asked = {
            "build": build.path,
            "samples": samples.path,
            "count": count,
            "deadline_s": self.deadline_s,
        }
        patience = self._patience()
        first = 0
        while True:
            conversation = self._reached(patience)
            try:
                # the first answer comes after a start, a load and a run
                with closing(
                    conversation.stream("infer", 3 * self.deadline_s, first=first, **asked)
                ) as answers:
                    for answer in answers:
                        first += 1
                        patience.renew()
                        yield answer.arrays
                return
            except ConnectionLostError as error:
                self._disconnect()
                patience.take(error)

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
        """Time `values` inferences of one sample in a fresh process, after at least `warmup_s` seconds of warmup."""
        wanted = {
            "values": values,
            "warmup_s": warmup_s,
            "budget_s": budget_s,
            "deadline_s": self.deadline_s,
        }
        seconds = 3 * self.deadline_s + budget_s + longer(options)
        asked = {**options, **({"sysfs": self.sysfs} if self.sysfs else {})}
        take = partial(
            self._journalled, "round", seconds, build=build.path, samples=samples.path, **wanted
        )
        if options.get("energy", {}).get("command_on") == "host":
            energy = asked.pop("energy")
            asked["rest_s"] = energy.get("idle_s", IDLE_S)
            answer = metered(self.name, energy, partial(take, options=asked), self._clock)
        else:
            answer = take(options=asked)
        fields = {
            key: answer[key]
            for key in Round.__dataclass_fields__
            if key != "values_ms" and key in answer
        }
        return Round([value / 1e6 for value in answer["values_ns"]], **fields)

    def placement(self, build: Stored) -> Placement | None:
        """Where the build's nodes run and in which precision, by the word of its runtime; None where it has none."""
        answer = self._ask(
            "placement", 3 * self.deadline_s, build=build.path, deadline_s=self.deadline_s
        )
        if "nodes" not in answer:
            return None
        try:
            return placement_of(answer)
        except (TypeError, ValueError, AttributeError) as error:
            wrong = f"{self.name}: what the runner says of placement is not as PROTOCOL.md has it"
            raise DeviceError(wrong, failure="wrong answer") from error

    def clean(
        self,
        *,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
        runtime: bool = False,
    ) -> int:
        """Remove what was stored on the device; the bytes that this freed, or would."""
        what = {
            "older_than_s": older_than_s,
            "keep_bytes": keep_bytes,
            "dry_run": dry_run,
            "runtime": runtime,
        }
        return int(self._ask("clean", HASHING_S, what=what)["bytes"])

    def hold(self, seconds: float, reason: str = "") -> Hold:
        """Keep all runs off the device for so long; BusyError where a run is at it, or somebody else holds it."""
        answer = self._ask("hold", 60, lasts_s=seconds, reason=reason)
        return Hold(*(str(answer[key]) for key in ("holder", "since", "until", "reason")))

    def release(self, *, force: bool = False) -> bool:
        """End one's own hold, or anybody's by force; whether there was one."""
        return bool(self._ask("release", 60, force=force)["released"])

    def close(self) -> None:
        """Let go of the device; nothing is left running there."""
        self.given_up.set()  # a thread that waits for the line to come back waits no more
        self._disconnect()

    def _disconnect(self) -> None:
        conversation = self._conversation
        self._conversation = None
        if conversation:
            conversation.close()
        self.transport.close()

    def _patience(self) -> Patience:
        self.given_up.clear()
        return Patience(self.patience_s, self.given_up)

    def _reached(self, patience: Patience) -> Conversation:
        """Connected, at once or once the line is back."""
        while True:
            try:
                return self._connected()
            except DeviceError as error:
                patience.take(error)

    def _connected(self, despite_hold: bool = False) -> Conversation:
        if self._conversation is None:
            start = agent_package.start_command(self.python, self.folder, _holder(), self.silence_s)
            start += ["--session", self.session, *(["--lock", self.lock] if self.lock else [])]
            start += ["--despite-hold"] if despite_hold else []
            try:
                self._conversation = Conversation(self.name, self.transport, start, self.silence_s)
            except DeviceError:
                self.transport.close()
                raise
        return self._conversation

    def _ask(self, do: str, seconds: float, **fields: Any) -> dict[str, Any]:
        try:
            return self._connected(despite_hold=do in ("hold", "release")).ask(
                do, seconds, **fields
            )
        except ConnectionLostError:
            self._disconnect()
            raise

    def _clock(self) -> int:
        """The device's monotonic clock, in ns."""
        return int(self._ask("clock", 60)["now_ns"])

    def _journalled(self, do: str, seconds: float, **fields: Any) -> dict[str, Any]:
        """Asked for under a key of its own: what the device finished while the line was lost is not done again."""
        self.keys += 1
        patience = self._patience()
        key = self.keys
        while True:
            conversation = self._reached(patience)
            try:
                return conversation.ask(do, seconds, key=key, **fields)
            except ConnectionLostError as error:
                self._disconnect()
                patience.take(error)

    def _bring(
        self, files: dict[str, tuple[str, int]], sources: dict[str, Path], progress: Progress
    ) -> int:
        """Send what is missing; the bytes that were."""
        missing = self._missing(files, sources)
        total = 0
        sizes = dict(files.values())
        expected = sum(sizes[digest] for digest in missing)
        for digest in missing:
            self._send(digest, sources[digest], _part_of(progress, total, expected))
            total += sizes[digest]
        return total

    def _missing(self, files: dict[str, tuple[str, int]], sources: dict[str, Path]) -> list[str]:
        answer = self._ask("missing", HASHING_S, files=files)
        missing = list(answer["missing"])
        sizes = dict(files.values())
        free = float(answer["free"]) - self.spare_mb * 1e6
        if missing and sum(sizes[digest] for digest in missing) > free:
            largest = max(missing, key=lambda digest: sizes[digest])
            raise DeviceError(
                f"{self.name}: no room for {sources[largest].name} ({_rounded(sizes[largest])}, "
                f"{_rounded(max(0.0, free))} free in {self._connected().root}); "
                f"free space or run: qpipe devices clean {self.name}",
                failure="no room",
            )
        return missing

    def _send(self, digest: str, source: Path, progress: Progress) -> None:
        for _ in range(ATTEMPTS):
            self.transport.put(source, f"{self._connected().incoming}/{digest}", progress)
            if self._ask("take", HASHING_S, digest=digest)["taken"]:
                return
        fix = "check the device's memory and card"
        raise DeviceError(
            f"{self.name}: {source.name} arrived damaged {ATTEMPTS} times; {fix}", failure="died"
        )


def longer(options: Mapping[str, Any]) -> float:
    """Seconds that a round with these options may take beyond its own budget."""
    cooling = options.get("cool_s", COOLING_S) if options.get("cool_to_c") is not None else 0
    return float(
        options.get("sustained_s", 0) + cooling + options.get("energy", {}).get("idle_s", 0)
    )


def _holder() -> str:
    """Who asks, for the others to read."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


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
