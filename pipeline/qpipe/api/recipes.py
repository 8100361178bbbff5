"""Recipes: load one, see what a run would do, run it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qpipe.api.finished_runs import Run, as_run
from qpipe.engine.events import Event
from qpipe.engine.request import HOME, Request, resolve_request
from qpipe.engine.run import prepare_plan, run_recipe
from qpipe.storage.results import Store

Setting = str | int | float | bool
ProgressListener = Callable[[Event], None]


@dataclass(frozen=True)
class PlannedStep:
    """A step that a run would carry out, or take from the cache."""

    name: str
    kind: str
    stage: str
    is_cached: bool
    coordinates: Mapping[str, str]  # model, scheme, build and device, where it has them


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with its variables set, and where its results go."""

    path: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    inventory: Path | None = None  # None: devices.yaml beside the recipe
    db: Path = HOME / "results.db"
    cache: Path = HOME / "cache"

    def plan(
        self,
        *,
        devices: Sequence[str] = (),
        only: Sequence[str] = (),
        smoke: bool = False,
        progress: ProgressListener | None = None,
    ) -> list[PlannedStep]:
        """Return the steps of a run, after checking samples and networks as `qpipe plan` does.

        Raise QpipeError with a line for each mistake.
        """
        request = self._request(devices, only, smoke=smoke)
        resolved = resolve_request(request)
        with Store(self.db) as store:
            planned = prepare_plan(resolved, store, progress or _ignore)
        steps = []
        for step in planned.steps.values():
            stage = step.call.name if step.call else step.kind
            is_cached = step.cacheable and resolved.cache.has(step.kind, step.key)
            steps.append(PlannedStep(step.id, step.kind, stage, is_cached, step.coordinates))
        return steps

    def run(
        self,
        *,
        devices: Sequence[str] = (),
        only: Sequence[str] = (),
        smoke: bool = False,
        new: bool = False,
        keep: float | None = None,
        retries: int = Request.retries,
        wait_s: float = Request.wait_s,
        tags: Sequence[str] = (),
        progress: ProgressListener | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> Run:
        """Run the recipe to its end and return the run, also where some of its steps failed.

        A run that was interrupted, by Ctrl-C or a kill, is continued unless `new` is set.
        `keep` is what a scheme to ship may lose, in points, instead of what the recipe says.
        `retries` is how often a step is tried again whose device failed, `wait_s` how many seconds
        to wait for a device that others use; `tags` are names for the run.
        `progress` gets what happens to each step, `notify` messages that belong to no step. Raise
        QpipeError where the recipe is wrong, DeviceError where no device can be used.
        """
        request = replace(
            self._request(devices, only, smoke=smoke),
            new=new,
            keep=keep,
            retries=retries,
            wait_s=wait_s,
        )
        resolved = resolve_request(request)
        with Store(self.db) as store:
            finished = run_recipe(resolved, store, progress or _ignore, notify or _ignore)
            store.tag(finished.run, tags)
            return as_run(store.run(finished.run), self.db)

    def _request(self, devices: Sequence[str], only: Sequence[str], *, smoke: bool) -> Request:
        return Request(
            recipe=self.path,
            settings=self.settings,
            devices=devices,
            only=only,
            inventory=self.inventory,
            db=self.db,
            cache=self.cache,
            smoke=smoke,
        )


def load(
    path: Path | str,
    *,
    set: Mapping[str, Setting] | None = None,  # noqa: A002  (as the command line names it)
    inventory: Path | str | None = None,
    db: Path | str = HOME / "results.db",
    cache: Path | str = HOME / "cache",
) -> LoadedRecipe:
    """Load a recipe with these values of its variables; raise QpipeError where it is wrong."""
    settings = {name: _as_text(value) for name, value in (set or {}).items()}
    loaded = LoadedRecipe(
        Path(path),
        settings,
        Path(inventory) if inventory is not None else None,
        Path(db),
        Path(cache),
    )
    resolve_request(Request(recipe=loaded.path, settings=settings, inventory=loaded.inventory))
    return loaded


def _as_text(value: Setting) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ignore(_: object) -> None:
    pass
