"""Run a recipe: ask the devices, plan, find unfinished work, run, store. The command line and notebooks call this."""

from __future__ import annotations

import fcntl
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import qpipe
from qpipe import exchange, inventory, keys, recipe
from qpipe.attempts import RETRIES
from qpipe.cache import Cache
from qpipe.call import Call
from qpipe.compare import pareto
from qpipe.compare.recommend import Limits
from qpipe.errors import DeviceError, RecipeError
from qpipe.events import ENDINGS, Event, Listener
from qpipe.health import Health
from qpipe.health import reach as reach
from qpipe.plan import DeviceInPlan, Plan, Step, make
from qpipe.readings import check_readings
from qpipe.recipe import Recipe
from qpipe.record import Recorder
from qpipe.registry import Registry
from qpipe.run import Outcome, Runner
from qpipe.store import State, Store
from qpipe.types import Capabilities, Measurement

HOME = Path(".qpipe")
SMOKE = {"calibrate": 4, "evaluate": 4, "rounds": 2}  # of a --smoke run, where stages have these options


@dataclass(frozen=True)
class Request:
    """What a user asks of a recipe, as the options of `qpipe run` and `qpipe plan` say it."""

    recipe: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[str] = ()
    only: Sequence[str] = ()
    inventory: Path | None = None
    db: Path = HOME / "results.db"
    cache: Path = HOME / "cache"
    new: bool = False
    smoke: bool = False
    retries: int = RETRIES  # of a step on a device
    limits: Limits = field(default_factory=dict)  # what the recommendation has to keep

    def remembered(self) -> dict[str, Any]:
        """What a later command needs to expand the same recipe again."""
        plain = {"settings": dict(self.settings), "devices": list(self.devices), "only": list(self.only)}
        where = {"inventory": str(self.inventory.resolve()) if self.inventory else None, "smoke": self.smoke}
        limits = {metric: list(limit) for metric, limit in self.limits.items()}
        return {**plain, **where, **({"limits": limits} if limits else {})}


@dataclass(frozen=True)
class Session:
    """A request expanded: the recipe, the devices it names, and where results go."""

    request: Request
    recipe: Recipe
    plugins: Registry
    devices: Mapping[str, Call]  # not opened
    notes: Sequence[str] = ()  # what to say before it runs

    @property
    def cache(self) -> Cache:
        """Where results by key lie."""
        return Cache(self.request.cache)

    def plan(self, known: Mapping[str, Capabilities | None]) -> Plan:
        """The plan, by what the devices said; one that was never asked counts as a current x86 machine."""
        devices = [DeviceInPlan(name, call, known.get(name)) for name, call in self.devices.items()]
        return make(self.recipe, devices, self._sample_digests)

    def _sample_digests(self, step: Step) -> Mapping[str, str]:
        """Of the samples that are in the cache; a step's key has to stand for those that are not made yet."""
        if not self.cache.has(step.kind, step.key):
            return {}
        try:
            return exchange.sample_digests(self.cache.folder(step.kind, step.key) / "value")
        except (OSError, ValueError):  # damaged: as good as absent
            self.cache.remove(step.kind, step.key)
            return {}

    def offline_plan(self, store: Store) -> Plan:
        """The plan by what the devices said when they were last checked; reaches none of them."""
        rows = {name: store.device(name) for name in self.devices}
        return self.plan({name: row["capabilities"] for name, row in rows.items() if row})


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


def open_session(request: Request) -> Session:
    """Read recipe and inventory; RecipeError for whatever is wrong in them."""
    loaded, plugins = recipe.load(request.recipe, request.settings)
    loaded = loaded.narrowed(request.only, request.devices)
    notes = []
    if request.smoke:
        if loaded.expect:
            notes.append("smoke: what is expected of the float network is not checked, for so few samples tell nothing")
        few = {
            name: replace(call, beside={n: _few(own) for n, own in call.beside.items()})
            for name, call in loaded.models.items()
        }
        measure = [_few(call) for call in loaded.measure]
        loaded = replace(loaded, samples=_few(loaded.samples), models=few, measure=measure, expect={})
    file = inventory.find(request.inventory, request.recipe.parent)
    known = inventory.load(file, plugins)
    devices = {name: inventory.pick(known, name, file) for name in loaded.devices}
    return Session(request, loaded, plugins, devices, notes)


def _few(call: Call) -> Call:
    return replace(call, options={name: SMOKE.get(name, value) for name, value in call.options.items()})


def run(session: Session, store: Store, listen: Listener, say: Callable[[str], None] = lambda _: None) -> Finished:
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
            return Runner(plan, health, session.cache, workdir, hear, recorder.measured, before, retries).run()

        plan = session.plan(capabilities)
        kept.enter_context(session.cache.kept(plan.results))
        say(f"run {id_} {'continues' if continued else 'starts'}: {len(plan.steps)} steps")
        # first the samples and networks, for the keys of all else are made of what is in them
        read = carry_out(plan.only(plan.readings))
        check_readings(plan, read, session.cache)
        plan = session.plan(capabilities)
        plan.drop(unreachable)
        kept.enter_context(session.cache.kept(plan.results))
        outcome = carry_out(plan, read)
        bad = {name: why for name, why in health.bad.items() if name not in unreachable}
        finished = Finished(id_, continued, plan, outcome, unreachable, bad, time.monotonic() - began)
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
        read = Runner(plan.only(plan.readings), Health(), session.cache, workdir, listen, _measured_nothing).run()
        check_readings(plan, read, session.cache, all_of_them=True)
        plan = session.offline_plan(store)
        kept.enter_context(session.cache.kept(plan.results))
        builds = {step.needs["build"] for step in plan.steps.values() if step.kind == "deploy" and step.is_float}
        compiled = Runner(plan.only(builds), Health(), session.cache, workdir, listen, _measured_nothing).run()
    if compiled.errors:
        raise RecipeError(*(f"{step}: {reason}" for step, reason in compiled.errors.items()))
    return plan


def _measured_nothing(_step: Step, _measurements: Sequence[Measurement]) -> None:
    """Preparing measures nothing."""


def _tell_plugins(plugins: Registry, event: Event, say: Callable[[str], None]) -> None:
    told = plugins.hooks.hook.step_finished
    try:
        told(step=event.step, state=event.what, seconds=event.seconds, coordinates=event.coordinates)
    except Exception as error:  # noqa: BLE001  (foreign code: who only listens cannot make a run fail)
        say(f"{event.step}: a plugin's step_finished broke: {type(error).__name__}: {error}")


def judge(store: Store, run: str, objectives: Mapping[str, Any], margins: Mapping[str, float] | None = None) -> None:
    """Compute a run's verdicts and store them."""
    store.record_verdicts(run, pareto.verdicts(pareto.candidates(store, run), objectives, margins))


def _ask(session: Session, store: Store, health: Health) -> tuple[dict[str, Capabilities], dict[str, str]]:
    """Ask the devices what they are; those that answer stay with `health`, DeviceError where none does."""
    capabilities: dict[str, Capabilities] = {}
    left_out: dict[str, str] = {}
    for name, call in session.devices.items():
        health.say(f"{name}: checking the device")
        health.add(name, inventory.open_device(name, call), inventory.open_power(name, call))
        try:
            capabilities[name] = inventory.labelled(call, health.meet(name))
        except DeviceError as error:
            health.drop(name)
            left_out[name] = str(error)
            health.say(str(error))
            continue
        store.save_device(name, call.name, capabilities[name])
    if not capabilities:
        raise DeviceError("; ".join(left_out.values()))
    return capabilities, left_out


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
    digest = keys.key({"recipe": session.recipe.digest, "devices": list(session.devices)})
    unfinished = None if session.request.new else store.unfinished_run(digest)
    lock = _claim(_workdir(session, unfinished)) if unfinished else None
    objectives = dict(session.recipe.pareto)
    if unfinished and lock:
        store.resume_run(unfinished, objectives=objectives, request=session.request.remembered())
        return unfinished, True, lock
    run = store.new_run(
        session.recipe.name,
        recipe_path=str(session.recipe.path.resolve()),
        recipe_digest=digest,
        recipe_text=session.recipe.text,
        versions={"qpipe": qpipe.__version__, "python": platform.python_version(), **keys.libraries()},
        request=session.request.remembered(),
        objectives=objectives,
    )
    return run, False, _claim(_workdir(session, run))
