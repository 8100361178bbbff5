"""A device as stages use it, over any transport: qpipe's Device in requests to the agent."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from qpipe.digests import digest_file, digest_json
from qpipe.errors import DeviceError, printable
from qpipe.types import (
    Array,
    Capabilities,
    Hold,
    Look,
    Placement,
    Progress,
    Round,
    RoundOptions,
    Stored,
    Transport,
)
from qpipe_devices import agent_package
from qpipe_devices.agent.energy_meter import IDLE_S
from qpipe_devices.agent.messages import CleanOptions, MissingAnswer, PlacementAnswer, RoundAnswer
from qpipe_devices.agent.round_conditions import COOLING_S
from qpipe_devices.agent.wire import Message
from qpipe_devices.agent_connection import Conversation
from qpipe_devices.agent_package import RemoteProgram
from qpipe_devices.answers import check_answer, wrong_answer
from qpipe_devices.host_energy_meter import measure_round
from qpipe_devices.reconnecting import ConnectionLostError, Retries

SEND_ATTEMPTS = 3  # a file that arrives damaged so often shows that something is broken
ANSWER_S = 60.0  # for requests that are answered at once
HASHING_S = 600.0  # a slow card under a large folder
KINDS_OF_NUMBERS = "biufc"  # of numpy
RETRY_S = 30.0  # after a connection was lost


class Link:
    """A device behind a transport.

    It connects at the first request, and again after a connection was lost. A round, or the rest of
    an inference, is requested again for `patience_s` after a loss. Agents with the same `lock`, a
    file on the device, use the device one at a time, whatever their folders.

    It serves one caller at a time: outputs of infer are read to their end, or dropped, before the
    next request.
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
        min_free_mb: float = 64,
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
        self.min_free_mb = min_free_mb
        self.sysfs = str(sysfs) if sysfs else ""
        self.lock = lock
        self.patience_s = RETRY_S
        self.waits = False
        self._purpose = f"pid {os.getpid()}"
        self.session = uuid.uuid4().hex
        self.last_key = 0
        self.given_up = threading.Event()
        self._conversation: Conversation | None = None

    # ---- qpipe.types.Device

    @property
    def purpose(self) -> str:
        """What the device is used for, shown to others who ask for it meanwhile."""
        return self._purpose

    @purpose.setter
    def purpose(self, text: str) -> None:
        self._purpose = text
        if self._conversation:
            self._conversation.purpose = text

    def capabilities(self) -> Capabilities:
        """Ask the device what it is.

        Raise DeviceError where it cannot be reached or lacks Python or numpy.
        """
        answer = self._request("capabilities", ANSWER_S, sysfs=self.sysfs)
        return Capabilities(**answer)

    def look(self) -> Look:
        """Ask the device what it is and who has it; its lease is not taken, and nobody waited for.

        While this object has the lease, nobody else is named.
        """
        if self._conversation:
            return Look(self.capabilities())
        conversation = self._start(["--look"])
        try:
            answer = conversation.request("look", ANSWER_S, sysfs=self.sysfs)
        finally:
            conversation.close()
            self.transport.close()
        capabilities = check_answer(self.name, "capabilities", answer)
        return Look(Capabilities(**capabilities), str(answer.get("holder", "")))

    @property
    def others_wait(self) -> bool:
        """Whether others wait for the lease that this object has."""
        return bool(self._conversation and self._conversation.others_wait)

    def store(self, folder: Path, progress: Progress) -> Stored:
        """Send a folder's files, each under its sha256, verified on the device.

        Files that are there already are not sent.
        """
        files: dict[str, tuple[str, int]] = {}
        sources: dict[str, Path] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest = digest_file(path)
                files[path.relative_to(folder).as_posix()] = (digest, path.stat().st_size)
                sources[digest] = path
        sent = self._send_missing(files, sources, progress)
        folder_digest = digest_json(files)
        answer = self._request("folder", HASHING_S, digest=folder_digest, files=files)
        size = sum(size for _, size in files.values())
        return Stored(answer["path"], folder_digest, size, sent)

    def infer(self, build: Stored, samples: Stored, count: int) -> Iterator[dict[str, Array]]:
        """Run the first `count` stored samples; yield the outputs of each by name, in order."""
        fields = {
            "build": build.path,
            "samples": samples.path,
            "count": count,
            "deadline_s": self.deadline_s,
        }
        retries = self._new_retries()
        first = 0
        while True:
            conversation = self._reconnected(retries)
            # the first answer comes after a start, a load and a run
            stream = conversation.stream("infer", 3 * self.deadline_s, first=first, **fields)
            try:
                with closing(stream) as answers:
                    for answer in answers:
                        self._check_outputs(answer, first)
                        first += 1
                        retries.reset()
                        yield answer.arrays
                if first < count:
                    raise wrong_answer(self.name, f"infer: {first} of {count} samples")
                return
            except ConnectionLostError as error:
                self._disconnect()
                retries.wait_or_raise(error)

    def _check_outputs(self, answer: Message, index: int) -> None:
        """Raise DeviceError for outputs of another sample, or that are no numbers."""
        if answer.fields.get("index") != index:
            raise wrong_answer(self.name, f"infer: not the outputs of sample {index}")
        for name, array in answer.arrays.items():
            if array.dtype.kind not in KINDS_OF_NUMBERS or not name.isprintable():
                reason = f"infer: output {printable(name)} is {array.dtype}"
                raise wrong_answer(self.name, reason)

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
        """Time `values` inferences of one sample in a fresh process.

        At least `warmup_s` seconds of warmup come first.
        """
        round_options = options or RoundOptions()
        seconds = 3 * self.deadline_s + budget_s + extra_seconds(round_options)

        def take_round(options: RoundOptions) -> RoundAnswer:
            answer = self._request_journalled(
                "round",
                seconds,
                build=build.path,
                samples=samples.path,
                values=values,
                warmup_s=warmup_s,
                budget_s=budget_s,
                deadline_s=self.deadline_s,
                options=options,
            )
            return cast("RoundAnswer", answer)

        answer = self._take_with_energy(take_round, round_options)
        if not answer["values_ns"] or min(answer["values_ns"]) <= 0:
            raise wrong_answer(self.name, "values_ns of round: no times of inferences")
        return _round_from(answer)

    def placement(self, build: Stored) -> Placement | None:
        """Return where the build's nodes run and in which precision, as its runtime reports it.

        None where the runtime does not.
        """
        answer = self._request(
            "placement", 3 * self.deadline_s, build=build.path, deadline_s=self.deadline_s
        )
        if "nodes" not in answer:
            return None
        return placement_from(cast("PlacementAnswer", answer))

    def clean(
        self,
        *,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
        runtime: bool = False,
    ) -> int:
        """Remove what is stored on the device; return the bytes that this frees, or would."""
        options: CleanOptions = {
            "older_than_s": older_than_s,
            "keep_bytes": keep_bytes,
            "dry_run": dry_run,
            "runtime": runtime,
        }
        return int(self._request("clean", HASHING_S, what=options)["bytes"])

    def hold(self, seconds: float, reason: str = "") -> Hold:
        """Keep all runs off the device for `seconds`.

        Raise BusyError where a run uses it, or another person holds it.
        """
        answer = self._request("hold", ANSWER_S, lasts_s=seconds, reason=reason)
        return Hold(
            holder=str(answer["holder"]),
            since=str(answer["since"]),
            until=str(answer["until"]),
            reason=str(answer["reason"]),
        )

    def release(self, *, force: bool = False) -> bool:
        """End one's own hold, or anybody's by force; return whether there was one."""
        return bool(self._request("release", ANSWER_S, force=force)["released"])

    def close(self) -> None:
        """Disconnect from the device; nothing is left running there."""
        self.given_up.set()  # a thread that waits for the connection to come back stops waiting
        self._disconnect()

    # ---- requests

    def _request(self, verb: str, seconds: float, **fields: Any) -> dict[str, Any]:
        try:
            conversation = self._connected(despite_hold=verb in ("hold", "release"))
            return conversation.request(verb, seconds, **fields)
        except ConnectionLostError:
            self._disconnect()
            raise

    def _request_journalled(self, verb: str, seconds: float, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request that is repeated after a loss, under a key of its own.

        By the key the device does not do again what it finished while the connection was lost.
        """
        self.last_key += 1
        key = self.last_key
        retries = self._new_retries()
        while True:
            conversation = self._reconnected(retries)
            try:
                return conversation.request(verb, seconds, key=key, **fields)
            except ConnectionLostError as error:
                self._disconnect()
                retries.wait_or_raise(error)

    def _take_with_energy(
        self, take_round: Callable[[RoundOptions], RoundAnswer], options: RoundOptions
    ) -> RoundAnswer:
        """Take a round; where the meter is at the host, its energy is measured here."""
        device_options = options.copy()
        if self.sysfs:
            device_options["sysfs"] = self.sysfs
        energy = options.get("energy")
        if not energy or energy.get("command_on") != "host":
            return take_round(device_options)
        del device_options["energy"]
        device_options["rest_s"] = energy.get("idle_s", IDLE_S)
        return measure_round(
            self.name,
            energy,
            take_round=lambda: take_round(device_options),
            read_clock=self._read_clock,
        )

    def _read_clock(self) -> int:
        """Return the device's monotonic clock, in ns."""
        return int(self._request("clock", ANSWER_S)["now_ns"])

    # ---- the connection

    def _connected(self, *, despite_hold: bool = False) -> Conversation:
        if self._conversation is None:
            self._conversation = self._start(["--despite-hold"] if despite_hold else [])
        return self._conversation

    def _start(self, further_arguments: Sequence[str]) -> Conversation:
        program = self._program(further_arguments)
        try:
            return Conversation(self.name, self.transport, program, self.silence_s, self.purpose)
        except DeviceError:
            self.transport.close()
            raise

    def _program(self, further_arguments: Sequence[str]) -> RemoteProgram:
        arguments = ["--session", self.session, "--purpose", self.purpose, *further_arguments]
        if self.lock:
            arguments += ["--lock", self.lock]
        if self.waits:
            arguments.append("--waits")
        program = agent_package.start_program(
            self.python, folder=self.folder, holder=_holder(), silence_s=self.silence_s
        )
        return program.with_arguments(arguments)

    def _reconnected(self, retries: Retries) -> Conversation:
        """Connect, at once or once the connection is back."""
        while True:
            try:
                return self._connected()
            except DeviceError as error:
                retries.wait_or_raise(error)

    def _new_retries(self) -> Retries:
        self.given_up.clear()
        return Retries(self.patience_s, self.given_up)

    def _disconnect(self) -> None:
        conversation = self._conversation
        self._conversation = None
        if conversation:
            conversation.close()
        self.transport.close()

    # ---- sending files

    def _send_missing(
        self,
        files: Mapping[str, tuple[str, int]],
        sources: Mapping[str, Path],
        progress: Progress,
    ) -> int:
        """Send the files {path: (sha256, size)} that the device lacks; return their bytes.

        `sources` has the file of each sha256.
        """
        missing = self._missing_digests(files, sources)
        sizes = dict(files.values())
        total = sum(sizes[digest] for digest in missing)
        sent = 0
        for digest in missing:
            self._send_file(digest, sources[digest], _progress_of_part(progress, sent, total))
            sent += sizes[digest]
        return sent

    def _missing_digests(
        self, files: Mapping[str, tuple[str, int]], sources: Mapping[str, Path]
    ) -> list[str]:
        """Return the digests that the device lacks; raise DeviceError where it has no room."""
        answer = cast("MissingAnswer", self._request("missing", HASHING_S, files=files))
        missing = list(answer["missing"])
        sizes = dict(files.values())
        if not sizes.keys() >= set(missing):
            raise wrong_answer(self.name, "missing: it lacks files that were not named to it")
        free = max(0.0, float(answer["free"]) - self.min_free_mb * 1e6)
        if missing and sum(sizes[digest] for digest in missing) > free:
            largest = max(missing, key=lambda digest: sizes[digest])
            root = self._connected().root
            room = f"{_rounded_size(free)} free in {root}, mounted at {answer['mount']}"
            raise DeviceError(
                f"{self.name}: no room for {sources[largest].name} "
                f"({_rounded_size(sizes[largest])}, {room}); "
                f"free space or run: qpipe devices clean {self.name}",
                failure="no room",
            )
        return missing

    def _send_file(self, digest: str, source: Path, progress: Progress) -> None:
        for _ in range(SEND_ATTEMPTS):
            self.transport.put(source, f"{self._connected().incoming}/{digest}", progress)
            if self._request("take", HASHING_S, digest=digest)["taken"]:
                return
        raise DeviceError(
            f"{self.name}: {source.name} arrived damaged {SEND_ATTEMPTS} times; "
            "check the device's memory and card",
            failure="died",
        )


def extra_seconds(options: RoundOptions) -> float:
    """Return the seconds that a round with these options may take beyond its own budget."""
    seconds = float(options.get("sustained_s", 0))
    if options.get("cool_to_c") is not None:
        seconds += options.get("cool_s", COOLING_S)
    if "energy" in options:
        seconds += options["energy"].get("idle_s", 0)
    return seconds


def placement_from(answer: PlacementAnswer) -> Placement:
    """Return a runner's answer with every part of it in its type."""
    nodes: dict[str, dict[str, int]] = {}
    for provider, by_precision in answer["nodes"].items():
        counts = {str(precision): int(number) for precision, number in by_precision.items()}
        nodes[str(provider)] = counts
    float_nodes = tuple(str(name) for name in answer.get("float_nodes", ()))
    return Placement(nodes, float_nodes)


def _round_from(answer: RoundAnswer) -> Round:
    """Return the fields of a Round that an answer has."""
    values_ms = [value / 1e6 for value in answer["values_ns"]]
    names = Round.__dataclass_fields__
    fields: dict[str, Any] = {name: value for name, value in answer.items() if name in names}
    return Round(values_ms, **fields)


def _holder() -> str:
    """Return who uses the device, for other users to read."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _progress_of_part(progress: Progress, before: float, total: float) -> Progress:
    """Return the progress of one file as that of all files."""

    def report(done: float, _total: float | None = None, unit: str = "B") -> None:
        progress(before + done, total, unit)

    return cast("Progress", report)


def _rounded_size(size: float) -> str:
    if size >= 1e6:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e3:.0f} kB"
