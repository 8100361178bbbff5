"""Rounds of all builds of a device in turn, so that drift and heat fall on all alike; a build that fails drops out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import qpipe
from qpipe.errors import TRANSIENT, Failure
from qpipe_plugins.measure.round_journal import Journal


class Interleaved:
    """The rounds that each build has by now; `asked` are the keywords of Device.round. `what` begins its errors."""

    def __init__(
        self,
        what: str,
        builds: Sequence[qpipe.Deployed],
        device: qpipe.Device,
        device_samples: Mapping[str, qpipe.Stored],
        journal: Journal,
        asked: Mapping[str, Any],
    ) -> None:
        self.what = what
        self.builds = builds
        self.device = device
        self.device_samples = device_samples
        self.journal = journal
        self.asked = asked
        self.taken: dict[str, list[qpipe.Round]] = {each.name: [] for each in builds}
        self.failures: dict[str, qpipe.DeviceError] = {}

    @property
    def running(self) -> list[qpipe.Deployed]:
        """Those that did not fail."""
        return [each for each in self.builds if each.name not in self.failures]

    def take(self, rounds: int, progress: qpipe.Progress) -> Iterator[int]:
        """Take so many rounds, and give their number after each. StageError once no build is left."""
        whole = rounds * len(self.builds)
        for number, order in enumerate(turns(self.builds, rounds)):
            running = [each for each in order if each.name not in self.failures]
            kept = self.journal.read(number, {each.name: each.stored.digest for each in running})
            for done, each in enumerate(running):
                tell = partial(progress, number * len(order) + done + 1, whole, "rounds")
                if kept:
                    self.taken[each.name].append(kept[each.name])
                else:
                    self._take_one(each, number, tell)
                tell()
            progress((number + 1) * len(order), whole, "rounds")  # also of those that dropped out
            if not self.running:
                reasons = (
                    "; ".join(dict.fromkeys(map(str, self.failures.values())))
                    or "none was deployed"
                )
                raise qpipe.StageError(
                    f"{self.what}: no build ran: {reasons}", failure=self._failure()
                )
            yield number + 1

    def again(
        self, journal: Path, progress: qpipe.Progress, **more: Any
    ) -> Mapping[str, qpipe.Round]:
        """One more round of each that runs, with more options; one that fails now counts as failed here too. None is
        compared with another's: those that the journal has stand, whether it has the others or not."""
        asked = {**self.asked, "options": {**self.asked["options"], **more}}
        found: dict[str, qpipe.Round] = {}
        running = self.running
        for number, each in enumerate(running):
            own = Interleaved(
                self.what, [each], self.device, self.device_samples, Journal(journal, asked), asked
            )
            with suppress(
                qpipe.StageError
            ):  # it did not run: `complete` says so, with what was found before
                for _ in own.take(1, partial(_tell_part, progress, number, len(running))):
                    found[each.name] = own.taken[each.name][0]
            self.failures.update(own.failures)
        return found

    def complete(self, found: list[qpipe.Measurement]) -> list[qpipe.Measurement]:
        """What was found, where every build ran; IncompleteError with it where some did not."""
        if self.failures:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failures.items())
            few = f"{len(self.failures)} of {len(self.builds)} builds did not run"
            raise qpipe.IncompleteError(f"{self.what}: {few}: {reasons}", found, self._failure())
        return found

    def _failure(self) -> Failure | None:
        """The type of what builds failed of: one that may pass, if any did of such, for then a retry gives more."""
        kinds = [error.failure for error in self.failures.values()]
        return next((kind for kind in kinds if kind in TRANSIENT), next(iter(kinds), None))

    def _take_one(self, each: qpipe.Deployed, number: int, tell: Callable[[], None]) -> None:
        """What may pass by itself gets a second try; `tell` raises where the run has ended meanwhile."""
        for _ in range(2):
            try:
                result = self.device.round(
                    each.stored, self.device_samples[each.name], **self.asked
                )
            except qpipe.DeviceError as error:
                tell()
                self.failures[each.name] = error
                self.device.capabilities()  # raises where it is the device that failed, not the build
                if error.failure not in TRANSIENT:
                    return
            else:
                self.failures.pop(each.name, None)
                self.taken[each.name].append(result)
                self.journal.append(each.name, each.stored.digest, number, result)
                return


def _tell_part(progress: qpipe.Progress, number: int, of: int, done: float, *_: object) -> None:
    """Of so many loads this is the one by that number, done or not."""
    progress(number + done, of, "loads")


def turns(builds: Sequence[qpipe.Deployed], rounds: int) -> list[Sequence[qpipe.Deployed]]:
    """Whose turn it is in each round: all, from a random start, every other round backwards (ABBA)."""
    start = int(np.random.default_rng().integers(max(1, len(builds))))
    order = [*builds[start:], *builds[:start]]
    return [order if number % 2 == 0 else order[::-1] for number in range(rounds)]
