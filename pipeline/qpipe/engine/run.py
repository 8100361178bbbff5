"""Run a recipe: ask the devices, plan, find unfinished work, run, store. The command line and notebooks call this."""

from __future__ import annotations

import fcntl
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import qpipe
from qpipe.compare import measured_rows, pareto
from qpipe.engine import cache_keys
from qpipe.engine.device_health import Health
from qpipe.engine.device_health import reach as reach
from qpipe.engine.events import ENDINGS, Event, Listener
from qpipe.engine.input_checks import check_readings
from qpipe.engine.plan import Plan, Step
from qpipe.engine.recorder import Recorder
from qpipe.engine.request import HOME as HOME
from qpipe.engine.request import Request as Request
from qpipe.engine.request import Session as Session
from qpipe.engine.request import open_session as open_session
from qpipe.engine.scheduler import Outcome, Runner
from qpipe.errors import DeviceError, RecipeError
from qpipe.recipe import inventory
from qpipe.stages.registry import Registry
from qpipe.storage.results import State, Store
from qpipe.types import Capabilities, Measurement


@dataclass(frozen=True)
class Finished:
    """A run that came to its end."""

    run: str
    continued: bool
    plan: Plan
    outcome: Outcome
    unreachable: Mapping[str, str]  # device -> why it was left out
    bad: Mapping[str, str]  # device -> why nothing more was done there
    seconds: float

    @property
    def state(self) -> State:
        """done, partial or failed."""
        state = self.outcome.state
        return "partial" if state == "done" and (self.unreachable or self.bad) else state


def run(
    session: Session, store: Store, listen: Listener, say: Callable[[str], None] = lambda _: None
) -> Finished:
    """Run to the end, continuing an unfinished run of the same recipe unless a new one was asked for."""
    began = time.monotonic()
    health = Health(store, say)
    lock: IO[str] | None = None
    kept = ExitStack()  # in the cache, while this runs
    try:
        for note in session.notes:
            say(note)
        capabilities, unreachable = _ask(session, store, health)
        id_, continued, lock = _open_run(session, store)
        health.run = id_
        workdir = _workdir(session, id_)

        def carry_out(plan: Plan, before: Outcome | None = None) -> Outcome:
            recorder = Recorder(store, id_, plan, session.cache, capabilities, workdir)

            def hear(event: Event) -> None:
                recorder.event(event)
                listen(event)
                if event.what in ENDINGS:
                    _tell_plugins(session.plugins, event, say)

            recorder.begin(before.failed if before else ())
            retries = session.request.retries
            return Runner(
                plan, health, session.cache, workdir, hear, recorder.measured, before, retries
            ).run()

        plan = session.plan(capabilities)
        kept.enter_context(session.cache.kept(plan.results))
        say(f"run {id_} {'continues' if continued else 'starts'}: {len(plan.steps)} steps")
        # first the samples and networks, for the keys of all else are made of what is in them
        read = carry_out(plan.only(plan.readings))
        check_readings(plan, read, session.cache)
        plan = session.plan(capabilities)
        plan.drop(unreachable)
        kept.enter_context(session.cache.kept(plan.results))
        store.record_devices(id_, capabilities)
        outcome = carry_out(plan, read)
        bad = {name: why for name, why in health.bad.items() if name not in unreachable}
        finished = Finished(
            id_, continued, plan, outcome, unreachable, bad, time.monotonic() - began
        )
        store.forget_strangers(id_, plan.steps.keys(), unreachable.keys())
        judge(store, id_, session.recipe.pareto, session.recipe.margins)
        store.finish_run(id_, finished.state)
    except BaseException as error:
        if lock:
            store.finish_run(id_, "failed" if isinstance(error, RecipeError) else "interrupted")
        raise
    finally:
        for name in list(health.devices):
            health.drop(name)
        kept.close()
        if lock:
            lock.close()
    return finished


def prepare(session: Session, store: Store, listen: Listener) -> Plan:
    """The plan by what the devices last said, after a look at all that can be looked at here and now: the samples are
    made, the networks read, both held against each other, the float builds compiled for each device. All of it is
    cached. RecipeError with a line for each thing that is wrong."""
    workdir = session.request.db.parent / "plan"
    with ExitStack() as kept:
        plan = session.offline_plan(store)
        kept.enter_context(session.cache.kept(plan.results))
        read = Runner(
            plan.only(plan.readings), Health(), session.cache, workdir, listen, _measured_nothing
        ).run()
        check_readings(plan, read, session.cache, all_of_them=True)
        plan = session.offline_plan(store)
        kept.enter_context(session.cache.kept(plan.results))
        builds = {
            step.needs["build"]
            for step in plan.steps.values()
            if step.kind == "deploy" and step.is_float
        }
        compiled = Runner(
            plan.only(builds), Health(), session.cache, workdir, listen, _measured_nothing
        ).run()
    if compiled.errors:
        raise RecipeError(*(f"{step}: {reason}" for step, reason in compiled.errors.items()))
    return plan


def _measured_nothing(_step: Step, _measurements: Sequence[Measurement]) -> None:
    """Preparing measures nothing."""


def _tell_plugins(plugins: Registry, event: Event, say: Callable[[str], None]) -> None:
    told = plugins.hooks.hook.step_finished
    try:
        told(
            step=event.step, state=event.what, seconds=event.seconds, coordinates=event.coordinates
        )
    except Exception as error:  # noqa: BLE001  (foreign code: who only listens cannot make a run fail)
        say(f"{event.step}: a plugin's step_finished broke: {type(error).__name__}: {error}")


def judge(
    store: Store,
    run: str,
    objectives: Mapping[str, Any],
    margins: Mapping[str, float] | None = None,
) -> None:
    """Compute a run's verdicts and store them."""
    store.record_verdicts(
        run, pareto.verdicts(measured_rows.candidates(store, run), objectives, margins)
    )


def _ask(
    session: Session, store: Store, health: Health
) -> tuple[dict[str, Capabilities], dict[str, str]]:
    """Ask the devices what they are; those that answer stay with `health`, DeviceError where none does."""
    capabilities: dict[str, Capabilities] = {}
    left_out: dict[str, str] = {}
    for name, call in session.devices.items():
        health.say(f"{name}: checking the device")
        health.add(name, inventory.open_device(name, call), inventory.open_power(name, call))
        try:
            known = inventory.labelled(call, health.meet(name))
            store.save_device(name, call.name, known)
            _check_runtimes(name, known, session)
        except DeviceError as error:
            health.drop(name)
            left_out[name] = str(error)
            if len(session.devices) > 1:  # else it is the end, which tells why
                health.say(str(error))
            continue
        capabilities[name] = known
    if not capabilities:
        raise DeviceError("; ".join(left_out.values()))
    return capabilities, left_out


def _check_runtimes(device: str, known: Capabilities, session: Session) -> None:
    """DeviceError where no build of the recipe could run there, for want of what it runs on."""
    wanted = {call.stage.runtime for call in session.recipe.builds.values()}
    if "" not in wanted and not wanted & known.runtimes.keys():
        lacking = " and ".join(sorted(wanted))
        raise DeviceError(
            f"{device}: {lacking} is not installed there; run: qpipe devices setup {device}",
            failure="configuration",
        )


def _workdir(session: Session, run: str) -> Path:
    return session.request.db.parent / "runs" / run


def _claim(folder: Path) -> IO[str] | None:
    """A lock on a run that falls with this process; None where another process is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _open_run(session: Session, store: Store) -> tuple[str, bool, IO[str] | None]:
    """The run to go on with, or a new one: its id, which of the two, and the lock to hold meanwhile."""
    digest = cache_keys.key({"recipe": session.recipe.digest, "devices": list(session.devices)})
    unfinished = None if session.request.new else store.unfinished_run(digest)
    lock = _claim(_workdir(session, unfinished)) if unfinished else None
    objectives = session.recipe.pareto
    margins = session.recipe.margins
    request = session.request.remembered()
    if unfinished and lock:
        store.resume_run(unfinished, objectives=objectives, margins=margins, request=request)
        return unfinished, True, lock
    run = store.new_run(
        session.recipe.name,
        recipe_path=str(session.recipe.path.resolve()),
        recipe_digest=digest,
        recipe_text=session.recipe.text,
        versions={
            "qpipe": qpipe.__version__,
            "python": platform.python_version(),
            **cache_keys.libraries(),
        },
        request=request,
        objectives=objectives,
        margins=margins,
    )
    return run, False, _claim(_workdir(session, run))
