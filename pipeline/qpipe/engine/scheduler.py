"""The order of steps: host steps side by side in processes, one step at a time on each device.

A step is looked at when something that it waits for has ended, so that each costs the same however
many there are. It waits in the lane of its place from the moment when nothing it needs is missing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from qpipe.engine.cluster import Cluster
from qpipe.engine.device_health import Health
from qpipe.engine.events import Event, Listener
from qpipe.engine.executor import StepExecutor
from qpipe.engine.host_lane import HostLane
from qpipe.engine.lane import Lane
from qpipe.engine.outcome import Outcome, first_outcome
from qpipe.engine.plan import Plan, Step
from qpipe.engine.recorder import Recorder
from qpipe.engine.resources import this_machine
from qpipe.engine.retry import RETRIES, Attempts, End
from qpipe.engine.run_control import RunControl
from qpipe.engine.unmet_needs import UnmetNeeds
from qpipe.errors import DeviceError, QpipeError
from qpipe.storage.cache import Cache
from qpipe.storage.rows import StepState

# pauses between two looks at the leases, and at what other runs leave free, where nothing ends
TICK_S = 0.5
TIME_IS_OVER = "the time was over"
LOST: tuple[StepState, ...] = ("failed", "skipped")
MOST_REMOTE = 512  # steps on a cluster at once: a thread waits for each of them

Place = Lane | HostLane


@dataclass(frozen=True)
class _Running:
    """A step that runs, and where."""

    step: Step
    lane: Place
    result: tuple[str, str] | None  # kind and key of what it makes on this machine


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

    def __init__(  # noqa: PLR0913  (all that a run consists of)
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
        cluster: Cluster | None = None,
        control: RunControl | None = None,
    ) -> None:
        self.control = control or RunControl()
        self.is_over = self.control.is_over
        self.late: list[str] = []  # steps that were not begun before it was over
        self.cut: list[str] = []  # steps that ran when it was over, and have no result
        self.is_ended = False  # because it was over
        self.plan = plan
        self.health = health
        self.cache = cache
        self.listeners = listeners
        self.outcome = first_outcome(plan, earlier)
        self.executor = StepExecutor(plan, health.devices, cache, workdir, cluster)
        self.attempts = Attempts(
            self.executor,
            health,
            self.outcome,
            publish=self.publish,
            recorder=recorder,
            retries=retries,
        )
        self.causes: dict[str, str] = {}  # skipped step -> why
        self.cluster = cluster
        self.running: dict[Future[End], _Running] = {}
        self.ended: SimpleQueue[Future[End]] = SimpleQueue()
        self.host = HostLane(this_machine, self.control.host)
        self.remote = HostLane(cluster.capacity if cluster else this_machine)  # on the cluster
        self.quiet_host = Lane()  # what measures the moment on this machine
        self.boards: defaultdict[str, Lane] = defaultdict(Lane)
        self.changed_lanes: dict[Place, None] = {}  # in which a step may start now
        self.held: list[tuple[Place, Step]] = []  # that wait for other runs of this process
        self.unmet = UnmetNeeds(plan, self.outcome.states)
        self.positions = {step: position for position, step in enumerate(plan.steps)}
        # steps on each device that were not begun
        self.pending_on: defaultdict[str | None, set[str]] = defaultdict(set)
        for step in plan.steps.values():
            if self.outcome.states[step.id] == "pending":
                self.pending_on[step.device].add(step.id)
        self.busy_devices: set[str | None] = set()  # on which a step is running
        self.freed_devices: set[str] = set()  # whose step has ended since leases were looked at
        self.leases_checked = 0.0  # by the monotonic clock

    def run(self) -> Outcome:
        """Carry out steps until no more can be; after KeyboardInterrupt nothing is left running."""
        needed = needed_steps(self.plan, self.cache)
        for step in self.plan.steps.values():
            if step.id not in needed and self.outcome.states[step.id] == "pending":
                self._end_as_cached(step)
        threads = this_machine().threads + len(self.health.devices)
        if self.cluster is not None:
            threads += MOST_REMOTE
        try:
            with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="qpipe") as pool:
                try:
                    self._run_steps(pool)
                except BaseException:
                    self._stop()
                    raise
        finally:
            self._leave_host()
        return self.outcome

    def _stop(self) -> None:
        """Have the steps that run end at once."""
        self.health.stop.set()
        for device in self.health.devices.values():
            with suppress(DeviceError):
                device.close()

    def _leave_host(self) -> None:
        """Leave to other runs what this one had of the machine when it was ended."""
        for ended in self.running.values():
            ended.lane.note_end(ended.step.id)
            self.control.host.end(ended.result, is_quiet=ended.lane is self.quiet_host)

    def publish(self, event: Event) -> None:
        """Pass an event to all listeners."""
        for listen in self.listeners:
            listen(event)

    def _run_steps(self, pool: ThreadPoolExecutor) -> None:
        while True:
            self._settle()
            if self.health.stop.is_set() and not self.is_ended:
                raise KeyboardInterrupt
            if not self.is_ended and self.is_over():
                self._end_in_time()
            self._give_back_leases()
            self._start_steps(pool)
            if self.running or self.held or self.host.is_free:
                self._await_ends()
                self._look_at_host_again()
            elif not self.unmet.changed:
                return

    def _look_at_host_again(self) -> None:
        """Have steps looked at that other runs of this process may let begin now."""
        for lane, step in self.held:
            lane.add(step, self.positions[step.id])
            self.changed_lanes[lane] = None
        self.held.clear()
        if self.host.is_free:
            self.changed_lanes[self.host] = None

    def _await_ends(self) -> None:
        """Wait until a step ends, or for a tick; note the end of all that have ended."""
        with suppress(Empty):
            self._note_end(self.ended.get(timeout=TICK_S))
            while True:
                self._note_end(self.ended.get_nowait())

    # ---- steps that need not, or cannot, be carried out

    def _settle(self) -> None:
        """Look at steps of which something has changed.

        Take them from the cache, skip those that cannot be carried out any more, and put those that
        can into the lane of their place.
        """
        while step_id := self.unmet.take_changed():
            if self.outcome.states[step_id] == "pending":
                self._settle_step(self.plan.steps[step_id])

    def _settle_step(self, step: Step) -> None:
        if self._can_use_cache(step):
            self._end_as_cached(step)
            return
        lost_need = self._lost_need(step, step.dependencies)
        lost_device = self.health.lost_reason(step.device) if step.device else None
        if lost_device is not None:
            self._skip(step, lost_device)
        elif lost_need is not None:
            self._skip(step, self.causes.get(lost_need, f"needs {lost_need}"))
        elif self.unmet.are_met(step.id):
            lane = self._lane(step)
            lane.add(step, self.positions[step.id])
            self.changed_lanes[lane] = None

    def _end_in_time(self) -> None:
        """Skip all that was not begun, and cut what runs: the time is over."""
        self.is_ended = True
        self.cut = [running.step.id for running in self.running.values()]
        if self.cut:
            self._stop()
        for step in self.plan.steps.values():
            if self.outcome.states[step.id] == "pending":
                self.late.append(step.id)
                self._skip(step, TIME_IS_OVER)
        self.held.clear()
        places: list[Place] = [self.host, self.remote, self.quiet_host, *self.boards.values()]
        for place in places:
            place.clear()

    def _can_use_cache(self, step: Step) -> bool:
        states = self.outcome.states
        if any(states.get(gate) in ("pending", "running", *LOST) for gate in step.after):
            return False
        return step.cacheable and self.cache.has(step.kind, step.key)

    def _end_as_cached(self, step: Step) -> None:
        self._end(step, "cached")
        self.publish(Event(step.id, "cached", coordinates=step.coordinates))
        if step.kind == "measure":
            self.attempts.record(step, self.executor.read_measurements(step))

    def _skip(self, step: Step, cause: str) -> None:
        """Skip a step; the cause is the first failure that led to it."""
        self.causes[step.id] = cause
        self._end(step, "skipped")
        self.publish(Event(step.id, "skipped", message=cause, coordinates=step.coordinates))

    def _end(self, step: Step, state: StepState) -> None:
        """Note how a step ended, and so which steps have to be looked at."""
        self.outcome.states[step.id] = state
        self.pending_on[step.device].discard(step.id)
        self.unmet.note_end(step.id, is_lost=state in LOST)

    def _lost_need(self, step: Step, dependencies: Sequence[str]) -> str | None:
        """Return the first of these dependencies that the step needs and that failed.

        A fan-in needs one of its builds, whichever it is.
        """
        lost = {need for need in dependencies if self.outcome.states.get(need) in LOST}
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
        """Give back the lease of each device that has nothing to do, or that others wait for.

        That is looked at between two steps of a device, and of idle ones once a tick.
        """
        now = time.monotonic()
        if now - self.leases_checked >= TICK_S:
            self.leases_checked = now
            self.freed_devices.update(self.health.tenures)
        for name in self.freed_devices - self.busy_devices:
            if name not in self.health.tenures:
                continue
            is_needed = self._can_start_on(name)
            if not self.pending_on[name] or self.health.should_give_back(name, is_needed=is_needed):
                self.health.give_back(name)
        self.freed_devices.clear()

    def _can_start_on(self, device: str) -> bool:
        """Return whether a step could start on a device now."""
        board = self.boards[self.health.board_of(device)]
        if board.has_ready(device):
            return True
        others_run = self.control.host.running > len(self.running)
        return self.quiet_host.has_ready(device) and not self.host.running and not others_run

    # ---- steps to carry out

    def _start_steps(self, pool: ThreadPoolExecutor) -> None:
        """Start the steps whose needs are there and whose place is free.

        A step that measures the moment on this machine starts when nothing else can, and has the
        machine to itself.
        """
        if self.quiet_host.running:
            return
        self.changed_lanes.pop(self.quiet_host, None)
        for lane in self.changed_lanes:
            self._start_in(lane, pool)
        self.changed_lanes.clear()
        if not self.running and not self.unmet.changed:
            self._start_in(self.quiet_host, pool)

    def _start_in(self, lane: Place, pool: ThreadPoolExecutor) -> None:
        while lane.is_free and (step_id := lane.take(self._is_in_turn)):
            step = self.plan.steps[step_id]
            if self.outcome.states[step_id] != "pending":  # skipped while it was held
                lane.note_end(step_id)
                continue
            result = (step.kind, step.key) if step.device is None else None
            if self._can_use_cache(step):  # another device, or run, has made the same
                lane.note_end(step_id)
                self._end_as_cached(step)
            elif self.control.host.begin(result, is_quiet=lane is self.quiet_host):
                self._submit(_Running(step, lane, result), pool)
            else:
                lane.note_end(step_id)
                self.held.append((lane, step))

    def _submit(self, begun: _Running, pool: ThreadPoolExecutor) -> None:
        step = begun.step
        begun.lane.running += 1
        if begun.lane is self.remote:
            self.attempts.remote.add(step.id)
        self.outcome.states[step.id] = "running"
        self.pending_on[step.device].discard(step.id)
        self.busy_devices.add(step.device)
        future = pool.submit(self.attempts.carry_out, step)
        self.running[future] = begun
        future.add_done_callback(self.ended.put)

    def _lane(self, step: Step) -> Place:
        if step.device is None:
            is_remote = self.cluster is not None and self.cluster.takes(step)
            return self.remote if is_remote else self.host
        if step.volatile and self.health.devices[step.device].shares_host:
            return self.quiet_host
        return self.boards[self.health.board_of(step.device)]

    def _is_in_turn(self, device: str | None) -> bool:
        """Return whether a device is the one of two names of a board that has its lease."""
        return device is None or self.health.is_in_turn(device)

    def _note_end(self, future: Future[End]) -> None:
        ended = self.running.pop(future)
        step = ended.step
        lane = ended.lane
        lane.running -= 1
        lane.note_end(step.id)
        self.control.host.end(ended.result, is_quiet=lane is self.quiet_host)
        self.changed_lanes[lane] = None
        if step.device:
            self._note_use(step.device)
        error = future.exception()
        if step.id in self.cut:
            self._note_cut(step, future)
        elif isinstance(error, QpipeError):
            self.outcome.add_failure(step.id, error)
            self._end(step, "failed")
        elif error is not None:
            raise error
        elif future.result() == "moved":
            self._move_here(step)
        elif future.result() == "skipped":
            self._skip(step, self.health.lost_reason(str(step.device)) or "")
        else:
            self._end(step, "done")

    def _note_cut(self, step: Step, future: Future[End]) -> None:
        """Note how a step ended that ran when the time was over: just done, or cut."""
        if future.exception() is None and future.result() == "done":
            self.cut.remove(step.id)
            self._end(step, "done")
        else:
            self._skip(step, TIME_IS_OVER)

    def _move_here(self, step: Step) -> None:
        """Put a step that the cluster does not carry out into the lane of this machine."""
        self.attempts.remote.discard(step.id)
        self.outcome.states[step.id] = "pending"
        self.pending_on[step.device].add(step.id)
        self.host.add(step, self.positions[step.id])
        self.changed_lanes[self.host] = None

    def _note_use(self, device: str) -> None:
        """Note that a step on a device has ended; the device may be lost since."""
        self.health.note_use(device)
        self.busy_devices.discard(device)
        self.freed_devices.add(device)
        if self.health.lost_reason(device) is not None:
            self.boards[self.health.board_of(device)].drop(device)
            self.quiet_host.drop(device)
            self.unmet.look_at(sorted(self.pending_on[device], key=self.positions.__getitem__))
