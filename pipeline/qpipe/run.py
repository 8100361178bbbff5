"""The loop over a plan: host steps on processes of their own, one lane per device, results to cache and store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qpipe import exchange, logs, worker
from qpipe.cache import Cache
from qpipe.call import named
from qpipe.errors import IncompleteError, QpipeError, StageError
from qpipe.events import Event, Listener
from qpipe.options import needs
from qpipe.plan import Plan, Step
from qpipe.types import Deployed, Deployments, Device, Measurement, Stored

StepState = Literal["pending", "running", "done", "cached", "failed", "skipped"]


@dataclass
class Outcome:
    """How a run ended."""

    states: dict[str, StepState]
    errors: dict[str, str] = field(default_factory=dict)
    measurements: list[tuple[Step, Measurement]] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """The steps that failed, not those skipped for it."""
        return [step for step, state in self.states.items() if state == "failed"]

    @property
    def state(self) -> Literal["done", "partial", "failed"]:
        """done, partial (something was measured, something failed) or failed."""
        if not self.failed:
            return "done"
        return "partial" if self.measurements else "failed"


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
    errors = {step: error for step, error in (before.errors if before else {}).items() if step in plan.steps}
    return Outcome({step: known.get(step, "pending") for step in plan.steps}, errors)


class Runner:
    """Runs a plan once."""

    def __init__(
        self,
        plan: Plan,
        devices: Mapping[str, Device],
        cache: Cache,
        workdir: Path,
        listen: Listener,
        measured: Callable[[Step, Sequence[Measurement]], None],
        before: Outcome | None = None,
    ) -> None:
        self.plan, self.devices, self.cache, self.workdir = plan, devices, cache, workdir
        self.listen, self.measured = listen, measured
        self.outcome = _begun(plan, before)
        self.stored: dict[str, Stored] = {}  # what deploy and upload steps gave, in this run
        self.stop = threading.Event()
        self.running: dict[Future[None], Step] = {}
        self.host_slots = max(1, (os.cpu_count() or 2))

    def run(self) -> Outcome:
        """Until nothing more can be done. After KeyboardInterrupt nothing is left running."""
        work = wanted(self.plan, self.cache)
        for step in self.plan.steps.values():
            if step.id not in work and self.outcome.states[step.id] == "pending":
                self.outcome.states[step.id] = "cached"
                self._tell(step, "cached")
        threads = self.host_slots + len(self.devices)
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="qpipe") as pool:
            try:
                self._loop(pool)
            except BaseException:
                self.stop.set()
                for device in self.devices.values():
                    device.close()
                raise
        return self.outcome

    def _loop(self, pool: ThreadPoolExecutor) -> None:
        while True:
            self._settle()
            for step in self._startable():
                self.outcome.states[step.id] = "running"
                self.running[pool.submit(self._execute, step)] = step
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
                if step.kind == "measure":
                    self._keep(step, exchange.read("measure", self._folder(step)))
            elif lost := self._lost(step, step.dependencies):
                states[step.id] = "skipped"
                self._tell(step, "skipped", message=f"needs {lost}")

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
        over = ("done", "cached", "failed", "skipped")
        ready = [
            step
            for step in self.plan.steps.values()
            if states[step.id] == "pending" and all(states.get(need, "done") in over for need in step.dependencies)
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
        return step.volatile and step.device is not None and self.devices[step.device].shares_host

    def _ended(self, step: Step, future: Future[None]) -> None:
        error = future.exception()
        if error is None:
            self.outcome.states[step.id] = "done"
            return
        if not isinstance(error, QpipeError):
            raise error
        self.outcome.states[step.id] = "failed"
        self.outcome.errors[step.id] = str(error)

    # ---- one step, in a thread

    def _execute(self, step: Step) -> None:
        began = time.monotonic()
        self._tell(step, "started")

        def progress(done: float, total: float | None = None, unit: str = "") -> None:
            if self.stop.is_set():
                raise KeyboardInterrupt
            self._tell(step, "progress", seconds=time.monotonic() - began, done=done, total=total, unit=unit)

        try:
            if step.device is None:
                self._on_host(step, progress)
            else:
                with logs.step_log(self._scratch(step), step.device):
                    self._on_device(step, progress)
        except OSError as error:
            place = error.filename or self.workdir
            reason = f"{place}: {error.strerror or error}; free space, or check the permissions"
            self._tell(step, "failed", seconds=time.monotonic() - began, message=reason)
            logs.append_traceback(self._scratch(step), error)
            raise StageError(reason) from error
        except QpipeError as error:
            self._tell(step, "failed", seconds=time.monotonic() - began, message=str(error))
            raise
        self._tell(step, "done", seconds=time.monotonic() - began)

    def _on_host(self, step: Step, progress: Any) -> None:
        with self.cache.put(step.kind, step.key) as out:
            job = worker.Job(
                step=step.id,
                kind=step.kind,
                stage=step.call.name if step.call else step.kind,
                options=named(step.call.options) if step.call else {},
                needs={p: self._given(self.plan.steps[need]) for p, need in step.needs.items()},
                target=step.target,
                platform=step.platform,
                out=out,
                log=self._scratch(step) / logs.NAME,
                plugins=self.plan.recipe.plugins,
                scratch=self.cache.scratch(step.kind, step.key),
            )
            worker.run(job, progress, self.stop.is_set)

    def _on_device(self, step: Step, progress: Any) -> None:
        device = self.devices[step.device or ""]
        if step.kind == "upload":
            samples = self._give(step, "evaluation_samples", progress)
            self.stored[step.id] = device.store(samples.folder, progress)
            return
        assert step.call is not None
        arguments = [self._give(step, parameter, progress) for parameter in needs(step.call.stage.function)]
        try:
            result = step.call.stage.function(*arguments, **step.call.resolved())
        except IncompleteError as error:
            exchange.check(step.kind, error.measurements)
            self._keep(step, error.measurements)
            raise
        except QpipeError:
            raise
        except Exception as error:
            logs.append_traceback(self._scratch(step), error)
            raise StageError(worker.broke(step.kind, step.call.name, self._scratch(step) / logs.NAME, error)) from error
        exchange.check(step.kind, result)
        if step.kind == "deploy":
            self.stored[step.id] = result
            return
        self._keep(step, result)
        if step.cacheable:  # only what the store took: a wrong number is not to come back from the cache
            with self.cache.put(step.kind, step.key) as out:
                exchange.write(step.kind, result, out)

    def _give(self, step: Step, parameter: str, progress: Any) -> Any:
        """What a device step's parameter gets."""
        if parameter == "progress":
            return progress
        if parameter == "device":
            return self.devices[step.device or ""]
        if parameter == "workdir":
            return self._scratch(step)
        if parameter == "deployments":
            return self._deployments(step)
        if parameter == "device_samples" and step.fan_in:
            return {
                self.plan.steps[need].label: self.stored[self._upload(step, need)]
                for need in step.fan_in
                if self.plan.steps[need].kind == "deploy" and self._upload(step, need) in self.stored
            }
        need = self.plan.steps[step.needs[parameter]]
        if need.kind == "deploy":
            return self._deployed(need.id)
        if need.kind == "upload":
            return self.stored[need.id]
        value = exchange.read(need.kind, self._folder(need))
        return value[parameter.removesuffix("_samples")] if need.kind == "samples" else value

    def _deployments(self, step: Step) -> Deployments:
        """What reached the device of all that the step measures, with the samples where it asks for them."""
        uploads = [need for need in step.fan_in if self.plan.steps[need].kind == "upload"]
        deploys = [need for need in step.fan_in if need not in uploads]
        come = [n for n in deploys if n in self.stored and (not uploads or self._upload(step, n) in self.stored)]
        missing = [self.plan.steps[need].label for need in deploys if need not in come]
        return Deployments([self._deployed(need) for need in come], missing)

    def _upload(self, step: Step, deploy: str) -> str:
        """The step that brought the samples of a deployed build."""
        return self.plan.uploads[str(step.device), self.plan.steps[deploy].coordinates["model"]]

    def _deployed(self, id_: str) -> Deployed:
        step = self.plan.steps[id_]
        build = exchange.read("compile", self._folder(self.plan.steps[step.needs["build"]]))
        return Deployed(step.label, build, self.stored[id_], step.is_float)

    def _keep(self, step: Step, measurements: Sequence[Measurement]) -> None:
        self.outcome.measurements.extend((step, measurement) for measurement in measurements)
        self.measured(step, measurements)

    # ---- places

    def _given(self, step: Step) -> tuple[str, Path]:
        return step.kind, self._folder(step)

    def _folder(self, step: Step) -> Path:
        return self.cache.folder(step.kind, step.key) / "value"

    def _scratch(self, step: Step) -> Path:
        folder = logs.folder_of(self.workdir, step.id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _tell(self, step: Step, what: Any, **more: Any) -> None:
        self.listen(Event(step.id, what, coordinates=step.coordinates, **more))
