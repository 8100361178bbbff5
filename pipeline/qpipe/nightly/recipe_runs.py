"""The recipes of a night, all at once: their runs share this machine, and one display."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from qpipe.engine.events import ENDINGS, Event, Listener, Notify
from qpipe.engine.request import ResolvedRequest
from qpipe.engine.run import Finished, run_recipe
from qpipe.engine.run_control import RunControl, SharedHost
from qpipe.errors import QpipeError
from qpipe.recipe.recipe import LOCAL_CLUSTER
from qpipe.storage.results import Store

RecordRun = Callable[[str, str], None]  # recipe, run


class RecipeRuns:
    """Carries out recipes side by side; each board is used by one of them at a time."""

    def __init__(self, listen: Listener, notify: Notify, is_over: Callable[[], bool]) -> None:
        self.events = _JointEvents(listen)
        self.notify = notify
        self.is_over = is_over
        self.host = SharedHost()
        self.controls: list[RunControl] = []
        self.is_stopped = False

    def carry_out(
        self, requests: Mapping[str, ResolvedRequest], store: Store, record_run: RecordRun
    ) -> dict[str, Finished | QpipeError | None]:
        """Return how each recipe ended, in their order; None where it was too late to begin.

        What is no QpipeError is raised once all have ended. Ctrl-C ends them all.
        """
        futures: dict[str, Future[Finished | QpipeError | None]] = {}
        with ThreadPoolExecutor(_places(requests), thread_name_prefix="recipe") as pool:
            try:
                for recipe, resolved in requests.items():
                    futures[recipe] = pool.submit(self._run, recipe, resolved, store, record_run)
                wait(futures.values())
            except BaseException:
                self._stop()
                raise
        return {recipe: future.result() for recipe, future in futures.items()}

    def _stop(self) -> None:
        self.is_stopped = True
        for control in list(self.controls):
            control.stop.set()

    def _run(
        self, recipe: str, resolved: ResolvedRequest, store: Store, record_run: RecordRun
    ) -> Finished | QpipeError | None:
        if self.is_over():
            return None
        control = RunControl(self.is_over, host=self.host)
        self.controls.append(control)
        if self.is_stopped:
            raise KeyboardInterrupt
        try:
            return run_recipe(
                resolved,
                store,
                self.events.listener(recipe),
                lambda text: self.notify(f"{recipe}: {text}"),
                on_open=lambda run: record_run(recipe, run),
                control=control,
            )
        except QpipeError as error:
            return error


def _places(requests: Mapping[str, ResolvedRequest]) -> int:
    """Return how many recipes run at once: one, where a run starts a cluster on this machine."""
    clusters = {resolved.cluster for resolved in requests.values()}
    return 1 if LOCAL_CLUSTER in clusters else max(1, len(requests))


@dataclass
class _JointEvents:
    """Passes on the events of several runs as those of one, whose steps begin with the recipe."""

    listen: Listener
    planned: dict[str, int] = field(default_factory=dict)  # steps by recipe
    ended: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listener(self, recipe: str) -> Listener:
        """Return what listens to the run of a recipe."""

        def pass_on(event: Event) -> None:
            with self.lock:
                self.listen(self._joint(recipe, event))

        return pass_on

    def _joint(self, recipe: str, event: Event) -> Event:
        if event.what == "planned":
            self.planned[recipe] = int(event.total or 0)
            total = sum(self.planned.values())
            return replace(event, done=self.ended, total=total)
        if event.what in ENDINGS:
            self.ended += 1
        return replace(event, step=f"{recipe}: {event.step}")
