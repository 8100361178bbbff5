"""The order of steps: host steps side by side in processes, one step at a time on each device."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from qpipe.engine.device_health import Health
from qpipe.engine.events import ENDINGS, Event, Listener
from qpipe.engine.executor import StepExecutor
from qpipe.engine.outcome import Outcome, first_outcome
from qpipe.engine.plan import Plan, Step
from qpipe.engine.recorder import Recorder
from qpipe.engine.retry import RETRIES, Attempts, End
from qpipe.errors import DeviceError, QpipeError
from qpipe.storage.cache import Cache

TICK_S = 0.5  # pauses between two looks at what is running, where nothing ends


def needed_steps(plan: Plan, cache: Cache) -> set[str]:
    """Return the steps that a run has to look at.

    These are the goals, and what those steps need that are not in the cache, transitively.
    """
    needed: set[str] = set()
    pending = list(plan.goals)
    while pending:
        step = plan.steps[pending.pop()]
        if step.id in needed:
            continue
        needed.add(step.id)
        is_cached = step.cacheable and cache.get(step.kind, step.key) is not None
        if not is_cached:
            pending.extend(step.dependencies)
    return needed


def compute(plan: Plan, cache: Cache, workdir: Path, listen: Listener) -> Outcome:
    """Carry out a plan that has host steps alone; nothing is measured or recorded."""
    return Scheduler(plan, Health(), cache, workdir=workdir, listeners=[listen]).run()


class Scheduler:
    """Carries out the steps of a plan once, on devices that were contacted already."""

    def __init__(
        self,
        plan: Plan,
        health: Health,
        cache: Cache,
        *,
        workdir: Path,
        listeners: Sequence[Listener],
        recorder: Recorder | None = None,
        earlier: Outcome | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.is_over: Callable[[], bool] = lambda: False  # whether no step may begin any more
        self.late: list[str] = []  # steps that were not begun before it was over
        self.plan = plan
        self.health = health
        self.cache = cache
        self.listeners = listeners
        self.outcome = first_outcome(plan, earlier)
        self.executor = StepExecutor(plan, health.devices, cache, workdir)
        self.attempts = Attempts(
            self.executor,
            health,
            self.outcome,
            publish=self.publish,
            recorder=recorder,
            retries=retries,
        )
        self.causes: dict[str, str] = {}  # skipped step -> why
        self.running: dict[Future[End], Step] = {}
        self.host_slots = max(1, os.cpu_count() or 2)

    def run(self) -> Outcome:
        """Carry out steps until no more can be; after KeyboardInterrupt nothing is left running."""
        needed = needed_steps(self.plan, self.cache)
        for step in self.plan.steps.values():
            if step.id not in needed and self.outcome.states[step.id] == "pending":
                self._end_as_cached(step)
        threads = self.host_slots + len(self.health.devices)
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="qpipe") as pool:
            try:
                self._run_steps(pool)
            except BaseException:
                self.health.stop.set()
                for device in self.health.devices.values():
                    with suppress(DeviceError):
                        device.close()
                raise
        return self.outcome

    def publish(self, event: Event) -> None:
        """Pass an event to all listeners."""
        for listen in self.listeners:
            listen(event)

    def _run_steps(self, pool: ThreadPoolExecutor) -> None:
        while True:
            self._settle_pending()
            if self.is_over():
                self._drop_pending()
            self._give_back_leases()
            for step in self._steps_to_start():
                self.outcome.states[step.id] = "running"
                self.running[pool.submit(self.attempts.carry_out, step)] = step
            if not self.running:
                return
            ended, _ = wait(self.running, timeout=TICK_S, return_when=FIRST_COMPLETED)
            for future in ended:
                step = self.running.pop(future)
                self._note_end(step, future)

    # ---- steps that need not, or cannot, be carried out

    def _settle_pending(self) -> None:
        """Take steps from the cache, and skip steps that cannot be carried out any more."""
        for step in self.plan.steps.values():
            if self.outcome.states[step.id] != "pending":
                continue
            if self._can_use_cache(step):
                self._end_as_cached(step)
                if step.kind == "measure":
                    self.attempts.record(step, self.executor.read_measurements(step))
                continue
            lost_need = self._lost_need(step, step.dependencies)
            lost_device = self.health.lost_reason(step.device) if step.device else None
            if lost_device is not None:
                self._skip(step, lost_device)
            elif lost_need is not None:
                self._skip(step, self.causes.get(lost_need, f"needs {lost_need}"))

    def _drop_pending(self) -> None:
        """Skip all that was not begun: the time is over."""
        for step in self.plan.steps.values():
            if self.outcome.states[step.id] == "pending":
                self.late.append(step.id)
                self._skip(step, "the time was over")

    def _can_use_cache(self, step: Step) -> bool:
        states = self.outcome.states
        if any(states.get(gate) in ("pending", "running") for gate in step.after):
            return False
        if self._lost_need(step, step.after) is not None:
            return False
        return step.cacheable and self.cache.has(step.kind, step.key)

    def _end_as_cached(self, step: Step) -> None:
        self.outcome.states[step.id] = "cached"
        self.publish(Event(step.id, "cached", coordinates=step.coordinates))

    def _skip(self, step: Step, cause: str) -> None:
        """Skip a step; the cause is the first failure that led to it."""
        self.outcome.states[step.id] = "skipped"
        self.causes[step.id] = cause
        self.publish(Event(step.id, "skipped", message=cause, coordinates=step.coordinates))

    def _lost_need(self, step: Step, dependencies: Sequence[str]) -> str | None:
        """Return the first of these dependencies that the step needs and that failed.

        A fan-in needs one of its builds, whichever it is.
        """
        lost = set()
        for dependency in dependencies:
            if self.outcome.states.get(dependency) in ("failed", "skipped"):
                lost.add(dependency)
        for dependency in dependencies:
            is_needed = dependency in step.needs.values() or dependency in step.after
            if is_needed and dependency in lost:
                return dependency
        deploys = [need for need in step.fan_in if self.plan.steps[need].kind == "deploy"]
        if deploys and lost.issuperset(deploys):
            return deploys[0]
        return None

    # ---- leases

    def _give_back_leases(self) -> None:
        """Give back the lease of each device that has nothing to do, or that others wait for."""
        for name in list(self.health.tenures):
            if any(step.device == name for step in self.running.values()):
                continue
            pending = [
                step
                for step in self.plan.steps.values()
                if step.device == name and self.outcome.states[step.id] == "pending"
            ]
            is_needed = any(self._can_start_now(step) for step in pending)
            if not pending or self.health.should_give_back(name, is_needed=is_needed):
                self.health.give_back(name)

    def _can_start_now(self, step: Step) -> bool:
        is_host_busy = any(running.device is None for running in self.running.values())
        return self._is_ready(step) and not (is_host_busy and self._needs_quiet_host(step))

    # ---- steps to carry out

    def _steps_to_start(self) -> list[Step]:
        """Return the steps whose needs are there and whose place is free.

        A step that measures the moment on this machine starts when nothing else can, and has the
        machine to itself.
        """
        running = list(self.running.values())
        if any(self._needs_quiet_host(step) for step in running):
            return []
        ready = [step for step in self.plan.steps.values() if self._is_ready(step)]
        # of two names of a board, the one that has its lease
        ready.sort(key=lambda step: not self._is_in_turn(step))
        selected: list[Step] = []
        for step in ready:
            if self._needs_quiet_host(step):
                continue
            places = self.host_slots if step.device is None else 1
            used_boards = [self._board(active) for active in (*running, *selected)]
            if used_boards.count(self._board(step)) < places:
                selected.append(step)
        if selected or running:
            return selected
        return ready[:1]

    def _board(self, step: Step) -> str | None:
        return self.health.board_of(step.device) if step.device else None

    def _is_in_turn(self, step: Step) -> bool:
        return step.device is None or self.health.is_in_turn(step.device)

    def _is_ready(self, step: Step) -> bool:
        states = self.outcome.states
        if states[step.id] != "pending":
            return False
        return all(states.get(need, "done") in ENDINGS for need in step.dependencies)

    def _needs_quiet_host(self, step: Step) -> bool:
        """Return whether a step measures the moment on the machine that qpipe runs on."""
        if step.device is None or not step.volatile:
            return False
        return self.health.devices[step.device].shares_host

    def _note_end(self, step: Step, future: Future[End]) -> None:
        if step.device:
            self.health.note_use(step.device)
        error = future.exception()
        if isinstance(error, QpipeError):
            self.outcome.add_failure(step.id, error)
        elif error is not None:
            raise error
        elif future.result() == "skipped":
            self._skip(step, self.health.lost_reason(str(step.device)) or "")
        else:
            self.outcome.states[step.id] = "done"
