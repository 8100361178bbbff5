"""A step until it is done or has failed for good: on a device, what may pass by itself is tried again."""

from __future__ import annotations

import time
from functools import partial
from itertools import count
from typing import Literal

from qpipe.engine import step_log
from qpipe.engine.device_health import Health, is_infrastructure
from qpipe.engine.events import Event, Listener
from qpipe.engine.executor import Steps
from qpipe.engine.plan import Step
from qpipe.engine.worker import of_system
from qpipe.errors import TRANSIENT, BusyError, QpipeError, StageError

RETRIES = 2
BACK_OFF_S = (2.0, 8.0, 30.0)  # before each retry; the last one again and again


class Attempts:
    """Carries out steps, each in the thread that asks for it, and tells how each attempt went."""

    def __init__(
        self, steps: Steps, health: Health, listen: Listener, retries: int = RETRIES
    ) -> None:
        self.steps = steps
        self.health = health
        self.listen = listen
        self.retries = retries
        self.began: dict[str, float] = {}  # when the newest attempt at a step did

    def carry_out(self, step: Step) -> Literal["done", "skipped"]:
        """Done, or skipped because its device is bad; QpipeError, told already, once it failed for good."""
        self.began[step.id] = time.monotonic()
        try:
            ended = self._tried(step)
        except QpipeError as error:
            self._ended_with_run()
            self._tell(
                step,
                "failed",
                seconds=self._seconds(step),
                message=str(error),
                failure=error.failure,
            )
            raise
        if ended == "done":
            self._tell(step, "done", seconds=self._seconds(step))
        return ended

    def _tried(self, step: Step) -> Literal["done", "skipped"]:
        failed: QpipeError | None = None
        for number in count(1):
            was_lost = step.device is not None and self.health.states.get(step.device) == "unknown"
            if step.device and not self.health.ready(step.device):
                break
            self.began[step.id] = time.monotonic()
            try:
                self._attempt(step, was_lost)
            except QpipeError as error:
                self._ended_with_run()
                failed = error
                if step.device and is_infrastructure(error):
                    self.health.doubt(step.device, error, step.id)
                if step.device is None or number > self.retries or not _may_pass(error):
                    break
                self._tell(
                    step,
                    "retry",
                    seconds=self._seconds(step),
                    message=str(error),
                    failure=error.failure,
                )
                self.health.pause(BACK_OFF_S[min(number, len(BACK_OFF_S)) - 1])
            else:
                return "done"
        if failed:
            raise failed
        return "skipped"

    def _attempt(self, step: Step, was_lost: bool) -> None:
        self._tell(step, "started")

        def progress(done: float, total: float | None = None, unit: str = "") -> None:
            self._ended_with_run()
            self._tell(
                step, "progress", seconds=self._seconds(step), done=done, total=total, unit=unit
            )

        try:
            if step.device is None:
                self.steps.on_host(step, progress, self.health.stop.is_set)
            else:
                notice = partial(self._tell, step, "notice", seconds=self._seconds(step))
                with step_log.step_log(
                    self.steps.scratch(step), step.device, lambda said: notice(message=said)
                ):
                    if was_lost:
                        self.steps.bring_again(step.device, progress)
                    self.steps.on_device(step, progress)
        except OSError as error:
            place = error.filename or self.steps.workdir
            step_log.append_traceback(self.steps.scratch(step), error)
            reason = f"{place}: {error.strerror or error}; free space, or check the permissions"
            raise StageError(reason, failure=of_system(error)) from error

    def _seconds(self, step: Step) -> float:
        return time.monotonic() - self.began[step.id]

    def _ended_with_run(self) -> None:
        """KeyboardInterrupt once the run ends: what fails now was cut, and says nothing about the step."""
        if self.health.stop.is_set():
            raise KeyboardInterrupt

    def _tell(self, step: Step, what: str, **more: object) -> None:
        self.listen(Event(step.id, what, coordinates=step.coordinates, **more))  # type: ignore[arg-type]


def _may_pass(error: QpipeError) -> bool:
    return isinstance(error, BusyError) or error.failure in TRANSIENT
