"""The loop over a plan: host steps on processes of their own, one lane per device, results to cache and store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qpipe.engine.device_health import Health
from qpipe.engine.events import ENDINGS, Event, Listener
from qpipe.engine.executor import Steps
from qpipe.engine.plan import Plan, Step
from qpipe.engine.retry import RETRIES, Attempts
from qpipe.errors import DeviceError, Failure, QpipeError
from qpipe.storage.cache import Cache
from qpipe.types import Measurement

StepState = Literal["pending", "running", "done", "cached", "failed", "skipped"]
Carried = Future[Literal["done", "skipped"]]


@dataclass
class Outcome:
    """How a run ended."""

    states: dict[str, StepState]
    errors: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)  # the type of each error
    measurements: dict[str, Sequence[Measurement]] = field(default_factory=dict)  # by step

    @property
    def failed(self) -> list[str]:
        """The steps that failed, not those skipped for it."""
        return [step for step, state in self.states.items() if state == "failed"]

    @property
    def state(self) -> Literal["done", "partial", "failed"]:
        """done, partial (something was measured, something failed) or failed."""
        if not self.failed:
            return "done"
        return "partial" if any(self.measurements.values()) else "failed"


def wanted(plan: Plan, cache: Cache) -> set[str]:
    """The steps that have to be looked at: the goals, and what those that are not cached need, transitively."""
    found: set[str] = set()
    left = plan.goals
    while left:
        step = plan.steps[left.pop()]
        if step.id in found:
            continue
        found.add(step.id)
        if not (step.cacheable and cache.get(step.kind, step.key)):
            left.extend(step.dependencies)
    return found


def _begun(plan: Plan, before: Outcome | None) -> Outcome:
    """What is known of the steps by what was done before in this run; what failed is not tried again."""
    known = {
        step: state
        for step, state in (before.states if before else {}).items()
        if state in ("done", "cached", "failed")
    }
    errors = {
        step: error
        for step, error in (before.errors if before else {}).items()
        if step in plan.steps
    }
    failures = {
        step: failure
        for step, failure in (before.failures if before else {}).items()
        if step in errors
    }
    return Outcome({step: known.get(step, "pending") for step in plan.steps}, errors, failures)


class Runner:
    """Runs a plan once, on the devices whose health it is given."""

    def __init__(
        self,
        plan: Plan,
        health: Health,
        cache: Cache,
        workdir: Path,
        listen: Listener,
        measured: Callable[[Step, Sequence[Measurement]], None],
        before: Outcome | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.plan = plan
        self.health = health
        self.cache = cache
        self.listen = listen
        self.measured = measured
        self.outcome = _begun(plan, before)
        self.steps = Steps(plan, health.devices, cache, workdir, self._keep)
        self.attempts = Attempts(self.steps, health, listen, retries)
        self.causes: dict[str, str] = {}  # of steps that are skipped
        self.running: dict[Carried, Step] = {}
        self.host_slots = max(1, (os.cpu_count() or 2))

    def run(self) -> Outcome:
        """Until nothing more can be done. After KeyboardInterrupt nothing is left running."""
        work = wanted(self.plan, self.cache)
        for step in self.plan.steps.values():
            if step.id not in work and self.outcome.states[step.id] == "pending":
                self.outcome.states[step.id] = "cached"
                self._tell(step, "cached")
        threads = self.host_slots + len(self.health.devices)
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="qpipe") as pool:
            try:
                self._loop(pool)
            except BaseException:
                self.health.stop.set()
                for device in self.health.devices.values():
                    with suppress(DeviceError):
                        device.close()
                raise
        return self.outcome

    def _loop(self, pool: ThreadPoolExecutor) -> None:
        while True:
            self._settle()
            for step in self._startable():
                self.outcome.states[step.id] = "running"
                self.running[pool.submit(self.attempts.carry_out, step)] = step
            if not self.running:
                return
            ended, _ = wait(self.running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in ended:
                self._ended(self.running.pop(future), future)

    def _settle(self) -> None:
        """Take from the cache what is there, skip what cannot be done any more."""
        states = self.outcome.states
        for step in self.plan.steps.values():
            if states[step.id] != "pending":
                continue
            waits = any(states.get(gate) in ("pending", "running") for gate in step.after)
            if (
                not waits
                and not self._lost(step, step.after)
                and step.cacheable
                and self.cache.has(step.kind, step.key)
            ):
                states[step.id] = "cached"
                self._tell(step, "cached")
                self.steps.from_cache(step)
            elif step.device in self.health.bad:
                self._skip(step, self.health.bad[step.device])
            elif lost := self._lost(step, step.dependencies):
                self._skip(step, self.causes.get(lost, f"needs {lost}"))

    def _skip(self, step: Step, cause: str) -> None:
        """Leave it out, and say what it all began with."""
        self.outcome.states[step.id] = "skipped"
        self.causes[step.id] = cause
        self._tell(step, "skipped", message=cause)

    def _lost(self, step: Step, among: Sequence[str]) -> str | None:
        """What it needed of these and will not get."""
        gone = [n for n in among if self.outcome.states.get(n) in ("failed", "skipped")]
        lost = [n for n in gone if n in step.needs.values() or n in step.after]
        deploys = [n for n in step.fan_in if self.plan.steps[n].kind == "deploy"]
        if deploys and set(deploys) <= set(gone):
            lost.append(deploys[0])
        return lost[0] if lost else None

    def _startable(self) -> list[Step]:
        """Steps whose needs are there and whose place is free. What measures the moment on this machine comes when
        nothing else can be done, and has it to itself."""
        states = self.outcome.states
        ready = [
            step
            for step in self.plan.steps.values()
            if states[step.id] == "pending"
            and all(states.get(need, "done") in ENDINGS for need in step.dependencies)
        ]
        running = list(self.running.values())
        if any(map(self._wants_quiet, running)):
            return []
        chosen: list[Step] = []
        for step in ready:
            taken = [other.device for other in (*running, *chosen)]
            places = self.host_slots if step.device is None else 1
            if taken.count(step.device) < places and not self._wants_quiet(step):
                chosen.append(step)
        return chosen if chosen or running else ready[:1]

    def _wants_quiet(self, step: Step) -> bool:
        """Whether it measures the moment on this very machine."""
        return (
            step.volatile
            and step.device is not None
            and self.health.devices[step.device].shares_host
        )

    def _ended(self, step: Step, future: Carried) -> None:
        error = future.exception()
        if error is None and future.result() == "skipped":
            self._skip(step, self.health.bad[str(step.device)])
        elif error is None:
            self.outcome.states[step.id] = "done"
        elif not isinstance(error, QpipeError):
            raise error
        else:
            self.outcome.states[step.id] = "failed"
            self.outcome.errors[step.id] = str(error)
            self.outcome.failures[step.id] = error.failure

    def _keep(self, step: Step, measurements: Sequence[Measurement]) -> None:
        """Of a step that is tried again the newest numbers count, and no others."""
        self.outcome.measurements[step.id] = measurements
        self.measured(step, measurements)

    def _tell(self, step: Step, what: Any, **more: Any) -> None:
        self.listen(Event(step.id, what, coordinates=step.coordinates, **more))
