"""Attempts at a step until it is done or has failed for good.

On a device, a step whose failure may pass by itself is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from typing import Literal

from qpipe.engine import step_log
from qpipe.engine.cluster import LostError
from qpipe.engine.device_health import Health, is_infrastructure
from qpipe.engine.events import Event, EventKind, Listener
from qpipe.engine.executor import StepExecutor
from qpipe.engine.outcome import Outcome
from qpipe.engine.plan import Step
from qpipe.engine.recorder import Recorder
from qpipe.engine.worker import failure_of_os_error
from qpipe.errors import TRANSIENT, BusyError, IncompleteError, QpipeError, StageError
from qpipe.types import Measurement

RETRIES = 2
BACK_OFF_S = (2.0, 8.0, 30.0)  # before each retry; the last one holds for all further ones

End = Literal["done", "skipped", "moved"]  # moved: from a cluster to this machine


class Attempts:
    """Carries out steps, each in the thread of the caller, and publishes how each attempt went.

    Numbers go from the executor to the recorder here, within the attempt: an attempt whose numbers
    the recorder refuses has failed. Without a recorder they are only part of the outcome.
    """

    def __init__(
        self,
        executor: StepExecutor,
        health: Health,
        outcome: Outcome,
        *,
        publish: Listener,
        recorder: Recorder | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.executor = executor
        self.health = health
        self.outcome = outcome
        self.publish = publish
        self.recorder = recorder
        self.retries = retries
        self.remote: set[str] = set()  # steps that a cluster carries out
        self.started_at: dict[str, float] = {}  # step -> start of its newest attempt

    def carry_out(self, step: Step) -> End:
        """Carry out a step; return whether it is done, or skipped because its device is bad.

        It is moved where a cluster does not carry it out and this machine can.

        Raise QpipeError, which is published already, once it failed for good.
        """
        self.started_at[step.id] = time.monotonic()
        try:
            end = self._try_repeatedly(step)
        except LostError as error:
            self._publish(step, "notice", message=f"{step.id}: {error}")
            return "moved"
        except QpipeError as error:
            self._stop_with_run()
            self._publish_error(step, "failed", error)
            raise
        if end == "done":
            self._publish(step, "done")
        return end

    def record(self, step: Step, measurements: Sequence[Measurement]) -> None:
        """Record a step's numbers, in place of those of an attempt before."""
        if self.recorder is not None:
            self.recorder.record_measurements(step, measurements)
        self.outcome.measurements[step.id] = measurements

    def _try_repeatedly(self, step: Step) -> End:
        last_error: QpipeError | None = None
        for attempt in count(1):
            was_lost = self.health.states.get(step.device or "") == "unknown"
            if step.device and not self._has_device(step.id, step.device):
                break
            if step.device and self.health.is_new_lease(step.device):
                was_lost = True
            self.started_at[step.id] = time.monotonic()
            try:
                self._try_once(step, was_lost=was_lost)
            except QpipeError as error:
                self._stop_with_run()
                last_error = error
                if step.device and is_infrastructure(error):
                    self.health.doubt(step.device, error, step.id)
                if step.device is None or attempt > self.retries or not _may_pass(error):
                    break
                self._publish_error(step, "retry", error)
                back_off = min(attempt, len(BACK_OFF_S)) - 1
                self.health.pause(BACK_OFF_S[back_off])
            else:
                return "done"
        if last_error:
            raise last_error
        return "skipped"

    def _has_device(self, step: str, device: str) -> bool:
        """Have the device for a step; return whether it can be used."""
        if self.health.states.get(device) == "unknown":
            return self.health.make_ready(device) and self.health.take_lease(device, step)
        return self.health.take_lease(device, step)

    def _try_once(self, step: Step, *, was_lost: bool) -> None:
        self._publish(step, "started")
        try:
            if step.device is None:
                self._use_host(step)
            else:
                self._use_device(step, step.device, was_lost=was_lost)
        except OSError as error:
            folder = self.executor.step_folder(step)
            step_log.append_traceback(folder, error)
            place = error.filename or self.executor.workdir
            reason = error.strerror or str(error)
            raise StageError(
                f"{place}: {reason}; free space, or check the permissions",
                failure=failure_of_os_error(error),
            ) from error

    def _use_host(self, step: Step) -> None:
        progress = _StepProgress(self, step)
        is_cancelled = self.health.stop.is_set
        if step.id not in self.remote:
            self.executor.run_on_host(step, progress, is_cancelled)
            return

        def publish_notice(message: str) -> None:
            self._publish(step, "notice", message=message)

        self.executor.run_on_cluster(step, progress, is_cancelled, publish_notice)

    def _use_device(self, step: Step, device: str, *, was_lost: bool) -> None:
        progress = _StepProgress(self, step)

        def publish_notice(message: str) -> None:
            self._publish(step, "notice", message=message)

        folder = self.executor.step_folder(step)
        with step_log.write_step_log(folder, device, publish_notice):
            if was_lost:
                self.executor.send_again(device, progress)
            if step.kind == "measure":
                self._measure(step, progress)
            else:
                self.executor.send(step, progress)

    def _measure(self, step: Step, progress: _StepProgress) -> None:
        try:
            measurements = self.executor.measure(step, progress)
        except IncompleteError as error:
            self.record(step, error.measurements)
            raise
        self.record(step, measurements)
        # only numbers that the recorder took: a wrong one must not come back from the cache
        self.executor.write_measurements(step, measurements)

    # ---- events

    def publish_progress(self, step: Step, done: float, total: float | None, unit: str) -> None:
        """Publish how far a step is; raise KeyboardInterrupt once the run ends."""
        self._stop_with_run()
        seconds = time.monotonic() - self.started_at[step.id]
        self.publish(
            Event(
                step.id,
                "progress",
                seconds=seconds,
                done=done,
                total=total,
                unit=unit,
                coordinates=step.coordinates,
            )
        )

    def _publish(self, step: Step, what: EventKind, *, message: str = "") -> None:
        seconds = time.monotonic() - self.started_at[step.id]
        self.publish(
            Event(step.id, what, seconds=seconds, message=message, coordinates=step.coordinates)
        )

    def _publish_error(self, step: Step, what: EventKind, error: QpipeError) -> None:
        seconds = time.monotonic() - self.started_at[step.id]
        self.publish(
            Event(
                step.id,
                what,
                seconds=seconds,
                message=str(error),
                failure=error.failure,
                coordinates=step.coordinates,
            )
        )

    def _stop_with_run(self) -> None:
        """Raise KeyboardInterrupt once the run ends: what fails then was cut by that."""
        if self.health.stop.is_set():
            raise KeyboardInterrupt


class _StepProgress:
    """The progress of one step, published as events."""

    def __init__(self, attempts: Attempts, step: Step) -> None:
        self.attempts = attempts
        self.step = step

    def __call__(self, done: float, total: float | None = None, unit: str = "") -> None:
        self.attempts.publish_progress(self.step, done, total, unit)


def _may_pass(error: QpipeError) -> bool:
    return isinstance(error, BusyError) or error.failure in TRANSIENT
