"""A run of a recipe: ask the devices, read the inputs, plan, carry out, judge."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import qpipe
from qpipe.compare.pareto import judge_run
from qpipe.engine import cache_keys
from qpipe.engine.cluster import Cluster, open_cluster
from qpipe.engine.cluster_messages import can_be_sent
from qpipe.engine.device_choice import choose_device
from qpipe.engine.device_health import Health
from qpipe.engine.events import Event, Listener, Notify
from qpipe.engine.float_scores import scoring_stages
from qpipe.engine.input_checks import check_inputs, input_notes
from qpipe.engine.outcome import Outcome
from qpipe.engine.plan import Plan
from qpipe.engine.recorder import Recorder
from qpipe.engine.request import ResolvedRequest
from qpipe.engine.run_control import RunControl
from qpipe.engine.run_lock import lock_run
from qpipe.engine.scheduler import Scheduler, compute
from qpipe.errors import DeviceError, RecipeError
from qpipe.recipe import inventory
from qpipe.stages.registry import Registry
from qpipe.storage.results import EndState, Store
from qpipe.types import Capabilities


@dataclass(frozen=True)
class Finished:
    """A run that came to its end."""

    run: str
    continued: bool
    plan: Plan
    outcome: Outcome
    unreachable: Mapping[str, str]  # device -> why it was left out from the start
    bad: Mapping[str, str]  # device -> why nothing more was done there
    seconds: float
    late: Sequence[str] = ()  # steps that were not begun in time
    cut: Sequence[str] = ()  # steps that were begun in time, and cut when it was over

    @property
    def state(self) -> EndState:
        """The state of the run: partial also where a device was left out."""
        state = self.outcome.state
        if state == "done" and (self.unreachable or self.bad or self.late or self.cut):
            return "partial"
        return state


@dataclass(frozen=True)
class OpenRun:
    """A run that this process carries out: it holds the run's lock."""

    id: str
    continued: bool
    folder: Path
    lock: IO[str]


@dataclass
class _Devices:
    """What the devices of a run answered."""

    capabilities: dict[str, Capabilities] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)  # device -> why


def run_recipe(
    resolved: ResolvedRequest,
    store: Store,
    listen: Listener,
    notify: Notify = lambda _: None,
    *,
    on_open: Notify = lambda _: None,
    control: RunControl | None = None,
) -> Finished:
    """Run a recipe to its end.

    An unfinished run of the same recipe is continued unless a new one is asked for. `listen` gets
    what happens to each step, `notify` messages that belong to no step, `on_open` the id of the
    run once it has one.
    """
    start = time.monotonic()
    control = control or RunControl()
    with ExitStack() as locks, closing(_health(resolved, store, notify)) as health:
        health.stop = control.stop
        for note in resolved.notes:
            notify(note)
        resolved = _choose_devices(resolved, store, notify)
        resolved.cache.notify = notify
        devices = _ask_devices(resolved, store, health)
        run = _open_run(resolved, store)
        locks.callback(run.lock.close)
        health.run = run.id
        on_open(run.id)
        health.set_purpose(_purpose(resolved, run.id))
        execution = _Execution(
            resolved, store, run, devices, health, listen=listen, notify=notify, control=control
        )
        try:
            plan, outcome = execution.carry_out()
            bad = {
                device: reason
                for device, reason in health.bad.items()
                if device not in devices.unreachable
            }
            seconds = time.monotonic() - start
            unreachable = {**devices.unreachable, **health.busy}
            finished = Finished(
                run.id,
                run.continued,
                plan,
                outcome,
                unreachable,
                bad,
                seconds,
                late=execution.late,
                cut=execution.cut,
            )
            store.finish_run(run.id, finished.state)
        except BaseException as error:
            state: EndState = "failed" if isinstance(error, RecipeError) else "interrupted"
            store.finish_run(run.id, state)
            raise
    return finished


class _Execution:
    """A run whose devices were asked, from reading the inputs to the verdicts."""

    def __init__(
        self,
        resolved: ResolvedRequest,
        store: Store,
        run: OpenRun,
        devices: _Devices,
        health: Health,
        *,
        listen: Listener,
        notify: Notify,
        control: RunControl,
    ) -> None:
        self.control = control
        self.late: list[str] = []  # steps that were not begun in time
        self.cut: list[str] = []  # steps that were begun in time, and not done by then
        self.resolved = resolved
        self.store = store
        self.run = run
        self.devices = devices
        self.health = health
        self.listen = listen
        self.notify = notify

    def carry_out(self) -> tuple[Plan, Outcome]:
        """Carry out all steps and judge the results; return the plan and how its steps ended."""
        cache = self.resolved.cache
        with ExitStack() as protected:  # nobody may remove results that this run counts on
            plan = self.resolved.plan(self.devices.capabilities)
            protected.enter_context(cache.protect(plan.results))
            verb = "continues" if self.run.continued else "starts"
            self.notify(f"run {self.run.id} {verb}: {len(plan.steps)} steps")
            self._publish_plan(plan)
            read = self._read_inputs(plan)
            # the keys of all other steps are made of what was read
            plan = self.resolved.plan(self.devices.capabilities)
            plan.drop_devices(self.devices.unreachable)
            self._publish_plan(plan, ended=len(read.states))
            for note in plan.missing_modules:
                self.notify(note)
            protected.enter_context(cache.protect(plan.results))
            self.store.record_devices(self.run.id, self.devices.capabilities)
            self.store.record_unreachable(self.run.id, self.devices.unreachable)
            outcome = self._carry_out_steps(plan, earlier=read)
        self._judge(plan)
        return plan, outcome

    def _publish_plan(self, plan: Plan, ended: int = 0) -> None:
        total = len(plan.steps)
        self.listen(Event("", "planned", done=ended, total=total, unit="steps"))

    def _read_inputs(self, plan: Plan) -> Outcome:
        """Read samples and networks; raise RecipeError where no model can be used."""
        read = self._carry_out_steps(plan.only(plan.reading_steps))
        failed_before = read.failed
        try:
            scoring = scoring_stages(self.resolved.recipe)
            check_inputs(plan, read, self.resolved.cache, self.run.folder, scoring)
        finally:
            self._publish_failures(plan, read, set(read.failed) - set(failed_before))
        for note in input_notes(plan, self.resolved.cache):
            self.notify(note)
        return read

    def _publish_failures(self, plan: Plan, outcome: Outcome, steps: Collection[str]) -> None:
        """Record and tell that steps failed a check of what they gave."""
        recorder = self._recorder(plan)
        for step in steps:
            event = Event(
                step, "failed", message=outcome.errors[step], failure=outcome.failures[step]
            )
            recorder.record_event(event)
            self.listen(event)

    def _carry_out_steps(self, plan: Plan, earlier: Outcome | None = None) -> Outcome:
        recorder = self._recorder(plan)
        recorder.record_plan(failed=earlier.failed if earlier else ())
        plugin_hooks = _PluginHooks(self.resolved.plugins, self.notify)
        with ExitStack() as stack:
            cluster = None
            if earlier is not None:
                cluster = self._open_cluster(plan, stack)
            scheduler = Scheduler(
                plan,
                self.health,
                self.resolved.cache,
                workdir=self.run.folder,
                listeners=(recorder.record_event, self.listen, plugin_hooks.call_step_finished),
                recorder=recorder,
                earlier=earlier,
                retries=self.resolved.request.retries,
                cluster=cluster,
                control=self.control,
            )
            if earlier is None:  # inputs are read in any case: they are checked afterwards
                scheduler.is_over = _never
            outcome = scheduler.run()
        self.late += scheduler.late
        self.cut += scheduler.cut
        return outcome

    def _open_cluster(self, plan: Plan, stack: ExitStack) -> Cluster | None:
        """Return the cluster that steps are sent to; None without one, or without such steps."""
        address = self.resolved.cluster
        cache = self.resolved.cache
        missing = (
            step
            for step in plan.steps.values()
            if can_be_sent(step) and not cache.has(step.kind, step.key)
        )
        if not address or next(missing, None) is None:
            return None
        return stack.enter_context(open_cluster(address, plan, cache, self.notify))

    def _recorder(self, plan: Plan) -> Recorder:
        return Recorder(
            self.store,
            self.run.id,
            plan,
            cache=self.resolved.cache,
            capabilities=self.devices.capabilities,
        )

    def _judge(self, plan: Plan) -> None:
        self.store.forget_other_measurements(
            self.run.id,
            steps=plan.steps.keys(),
            unreachable_devices=self.devices.unreachable.keys(),
        )
        judge_run(self.store, self.run.id)


def _never() -> bool:
    return False


@dataclass(frozen=True)
class _PluginHooks:
    """The plugins that want to know how steps end."""

    plugins: Registry
    notify: Notify

    def call_step_finished(self, event: Event) -> None:
        """Call the hook where the event ends a step; a plugin that breaks fails nothing."""
        if not event.is_ending:
            return
        try:
            self.plugins.hooks.hook.step_finished(
                step=event.step,
                state=event.what,
                seconds=event.seconds,
                coordinates=event.coordinates,
            )
        except Exception as error:  # noqa: BLE001  (foreign code: who only listens cannot make a run fail)
            reason = f"{type(error).__name__}: {error}"
            self.notify(f"{event.step}: the step_finished hook of a plugin broke: {reason}")


def prepare_plan(
    resolved: ResolvedRequest,
    store: Store,
    listen: Listener,
    notify: Notify = lambda _: None,
    *,
    with_scoring: bool = True,
) -> Plan:
    """Return the plan by the last check of each device, after what can be tried on the host.

    Samples and networks are read and checked against each other and, unless told otherwise, against
    what scores them; the float builds of each device are compiled; all of it is cached. Raise
    RecipeError with a line for each problem.
    """
    scoring = scoring_stages(resolved.recipe) if with_scoring else []
    cache = resolved.cache
    cache.notify = notify
    folder = resolved.plan_folder
    for note in resolved.notes:
        notify(note)
    with ExitStack() as protected:
        plan = resolved.offline_plan(store)
        protected.enter_context(cache.protect(plan.results))
        read = compute(plan.only(plan.reading_steps), cache, folder, listen)
        check_inputs(plan, read, cache, folder, scoring, every_model=True)
        for note in input_notes(plan, cache):
            notify(note)
        # the keys of all other steps are made of what was read
        plan = resolved.offline_plan(store)
        protected.enter_context(cache.protect(plan.results))
        compiled = compute(plan.only(_float_builds(plan)), cache, folder, listen)
    if compiled.errors:
        raise RecipeError(*(f"{step}: {reason}" for step, reason in compiled.errors.items()))
    for note in plan.missing_modules:
        notify(note)
    return plan


def _float_builds(plan: Plan) -> set[str]:
    """Return the steps that compile the float networks."""
    builds = set()
    for step in plan.steps.values():
        if step.kind == "deploy" and step.is_float:
            builds.add(step.needs["build"])
    return builds


# ---- the devices


def _health(resolved: ResolvedRequest, store: Store, notify: Notify) -> Health:
    return Health(store, notify, resolved.request.wait_s)


def _purpose(resolved: ResolvedRequest, run: str = "") -> str:
    """Return what this process uses devices for, for others who wait for them."""
    place = f"run {run} of {resolved.request.recipe.name}" if run else resolved.request.recipe.name
    return f"pid {os.getpid()}, {place}"


def _choose_devices(resolved: ResolvedRequest, store: Store, notify: Notify) -> ResolvedRequest:
    """Return the request with a device of each pool; a run that goes on keeps its devices."""
    unfinished = None if resolved.request.new else store.unfinished_run(_run_digest(resolved))
    preferred = store.capabilities(unfinished).keys() if unfinished else ()
    choice: dict[str, str] = {}
    for pool in resolved.open_choices:
        candidates = resolved.candidates[pool]
        others = {name: candidates[name] for name in candidates if name not in choice.values()}
        choice[pool] = choose_device(
            pool, others or candidates, store, preferred=preferred, notify=notify
        )
    return resolved.with_choice(choice)


def _ask_devices(resolved: ResolvedRequest, store: Store, health: Health) -> _Devices:
    """Ask each device what it is; those that answer stay open in `health`.

    Raise DeviceError where none answers.
    """
    devices = _Devices()
    for name, call in resolved.devices.items():
        health.notify(f"{name}: checking the device")
        health.add(name, inventory.open_device(name, call), inventory.open_power(name, call))
        health.set_purpose(_purpose(resolved))
        try:
            capabilities = inventory.labelled(call, health.first_contact(name))
            store.save_device(name, call.name, capabilities)
            _check_runtimes(name, capabilities, resolved)
        except DeviceError as error:
            health.drop(name)
            devices.unreachable[name] = str(error)
            if len(resolved.devices) > 1:  # a single one ends the run, which says why
                health.notify(str(error))
        else:
            devices.capabilities[name] = capabilities
    if not devices.capabilities:
        raise DeviceError("; ".join(devices.unreachable.values()))
    return devices


def _check_runtimes(device: str, capabilities: Capabilities, resolved: ResolvedRequest) -> None:
    """Raise DeviceError where the device has no runtime that any build of the recipe needs."""
    runtimes = {call.stage.runtime for call in resolved.recipe.builds.values()}
    needs_none = "" in runtimes
    if not needs_none and not runtimes & capabilities.runtimes.keys():
        missing = " and ".join(sorted(runtimes))
        raise DeviceError(
            f"{device}: {missing} is not installed there; run: qpipe devices setup {device}",
            failure="configuration",
        )


# ---- the run in the store


def _open_run(resolved: ResolvedRequest, store: Store) -> OpenRun:
    """Return the run to continue, or a new one; its lock is held."""
    digest = _run_digest(resolved)
    if not resolved.request.new:
        run = _continue_run(resolved, store, digest)
        if run is not None:
            return run
    return _start_run(resolved, store, digest)


def _run_digest(resolved: ResolvedRequest) -> str:
    words = list(resolved.recipe.devices)
    return cache_keys.key({"recipe": resolved.recipe.digest, "devices": words})


def _continue_run(resolved: ResolvedRequest, store: Store, digest: str) -> OpenRun | None:
    """Return the unfinished run of the recipe; None where there is none, or it is in progress."""
    unfinished = store.unfinished_run(digest)
    if unfinished is None:
        return None
    folder = resolved.run_folder(unfinished)
    lock = lock_run(folder)
    if lock is None:
        return None
    store.resume_run(
        unfinished,
        objectives=resolved.recipe.pareto,
        margins=resolved.recipe.margins,
        request=resolved.to_store(),
    )
    return OpenRun(unfinished, True, folder, lock)


def _start_run(resolved: ResolvedRequest, store: Store, digest: str) -> OpenRun:
    versions = {
        "qpipe": qpipe.__version__,
        "python": platform.python_version(),
        **cache_keys.libraries(),
    }
    run = store.new_run(
        resolved.recipe.name,
        recipe_path=str(resolved.recipe.path.resolve()),
        recipe_digest=digest,
        recipe_text=resolved.recipe.text,
        versions=versions,
        request=resolved.to_store(),
        objectives=resolved.recipe.pareto,
        margins=resolved.recipe.margins,
    )
    folder = resolved.run_folder(run)
    lock = lock_run(folder)
    assert lock is not None  # no other process knows of the run
    return OpenRun(run, False, folder, lock)
