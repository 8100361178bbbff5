"""Rounds of all builds of a device in turn, so that drift and heat affect all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

import qpipe
from qpipe.errors import TRANSIENT, Failure
from qpipe_plugins.measure.round_journal import RoundJournal, RoundRequest

ATTEMPTS = 2  # at a round, where the failure may pass by itself


class InterleavedRounds:
    """The rounds of each build so far; a build that fails drops out.

    `stage` begins the errors; `request` holds the keyword arguments of Device.round.
    """

    def __init__(
        self,
        stage: str,
        builds: Sequence[qpipe.Deployed],
        device: qpipe.Device,
        device_samples: Mapping[str, qpipe.Stored],
        journal: RoundJournal,
        request: RoundRequest,
    ) -> None:
        self.stage = stage
        self.builds = builds
        self.device = device
        self.device_samples = device_samples
        self.journal = journal
        self.request = request
        self.rounds: dict[str, list[qpipe.Round]] = {build.name: [] for build in builds}
        self.failures: dict[str, qpipe.DeviceError] = {}

    @property
    def running(self) -> list[qpipe.Deployed]:
        """The builds that did not fail."""
        return self._without_failed(self.builds)

    def _without_failed(self, builds: Sequence[qpipe.Deployed]) -> list[qpipe.Deployed]:
        return [build for build in builds if build.name not in self.failures]

    def measure(self, rounds: int, progress: qpipe.Progress) -> Iterator[int]:
        """Measure rounds, and yield the number of rounds so far after each.

        Raise StageError once no build is left.
        """
        total = rounds * len(self.builds)
        for number, order in enumerate(build_orders(self.builds, rounds)):
            running = self._without_failed(order)
            digests = {build.name: build.stored.digest for build in running}
            stored = self.journal.stored_round(number, digests)
            for index, build in enumerate(running):
                done = number * len(order) + index + 1
                report = partial(progress, done, total, "rounds")
                if stored:
                    self.rounds[build.name].append(stored[build.name])
                else:
                    self._measure_build(build, number, report)
                report()
            progress((number + 1) * len(order), total, "rounds")  # builds that dropped out, too
            if not self.running:
                raise self._no_build_left()
            yield number + 1

    def _no_build_left(self) -> qpipe.StageError:
        reasons = "; ".join(dict.fromkeys(map(str, self.failures.values())))
        message = f"{self.stage}: no build ran: {reasons or 'none was deployed'}"
        return qpipe.StageError(message, failure=self._failure_type())

    def measure_sustained(
        self, path: Path, progress: qpipe.Progress, sustained_s: float
    ) -> Mapping[str, qpipe.Round]:
        """Measure one more round, of a sustained load, of each build that runs.

        A build that fails now counts as failed. Builds are not compared with each other: each has a
        journal of its own, so that those measured already stand.
        """
        request: RoundRequest = {
            **self.request,
            "options": {**self.request["options"], "sustained_s": sustained_s},
        }
        loads: dict[str, qpipe.Round] = {}
        running = self.running
        for index, build in enumerate(running):
            single = InterleavedRounds(
                self.stage,
                [build],
                self.device,
                self.device_samples,
                RoundJournal(path, request),
                request,
            )
            report = partial(_report_load, progress, index, len(running))
            # where it did not run, `complete` reports it together with what was measured before
            with suppress(qpipe.StageError):
                for _ in single.measure(1, report):
                    loads[build.name] = single.rounds[build.name][0]
            self.failures.update(single.failures)
        return loads

    def complete(self, measurements: list[qpipe.Measurement]) -> list[qpipe.Measurement]:
        """Return the measurements; raise IncompleteError with them where a build did not run."""
        if not self.failures:
            return measurements
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failures.items())
        count = f"{len(self.failures)} of {len(self.builds)} builds did not run"
        raise qpipe.IncompleteError(
            f"{self.stage}: {count}: {reasons}", measurements, self._failure_type()
        )

    def _failure_type(self) -> Failure | None:
        """Return the type of the builds' failures: a transient one if any is, as a retry helps."""
        types = [error.failure for error in self.failures.values()]
        for failure_type in types:
            if failure_type in TRANSIENT:
                return failure_type
        return types[0] if types else None

    def _measure_build(
        self, build: qpipe.Deployed, number: int, report: Callable[[], None]
    ) -> None:
        """Measure a round of one build; a failure that may pass gets a second attempt.

        `report` raises where the run has ended meanwhile.
        """
        samples = self.device_samples[build.name]
        for _ in range(ATTEMPTS):
            try:
                result = self.device.round(build.stored, samples, **self.request)
            except qpipe.DeviceError as error:
                report()
                self.failures[build.name] = error
                self.device.capabilities()  # raises where the device failed, not the build
                if error.failure not in TRANSIENT:
                    return
            else:
                self.failures.pop(build.name, None)
                self.rounds[build.name].append(result)
                self.journal.append(build.name, build.stored.digest, number, result)
                return


def _report_load(progress: qpipe.Progress, index: int, count: int, done: float, *_: object) -> None:
    """Report one of `count` loads as done or not."""
    progress(index + done, count, "loads")


def build_orders(builds: Sequence[qpipe.Deployed], rounds: int) -> list[Sequence[qpipe.Deployed]]:
    """Return the order of the builds in each round: from a random start, alternating (ABBA)."""
    start = int(np.random.default_rng().integers(max(1, len(builds))))
    forward = [*builds[start:], *builds[:start]]
    backward = forward[::-1]
    return [forward if number % 2 == 0 else backward for number in range(rounds)]
