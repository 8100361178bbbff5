"""Recipes: load one, see what a run would do, run it, search for schemes beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.api.finished_runs import Run, RunEnding, as_runs, check_tags
from qpipe.api.recipe_plan import RecipePlan
from qpipe.api.search_result import SearchResult
from qpipe.api.step_explanations import StepExplanation, explain_step
from qpipe.engine.events import Event
from qpipe.engine.request import Request, ResolvedRequest, resolve_recipe
from qpipe.engine.run import Finished, prepare_plan, run_recipe
from qpipe.errors import unknown_step
from qpipe.recipe import recipe as recipes
from qpipe.recipe.recipe import Recipe
from qpipe.samples.selection import TRIAL_COUNT
from qpipe.stages.registry import Registry
from qpipe.storage.results import Store
from qpipe.storage.workspace import DEFAULT_CACHE, DEFAULT_DB
from qpipe.types import Limits

if TYPE_CHECKING:
    from qpipe.api.diagnosis import Diagnosis
    from qpipe.api.fed_samples import FedSamples

DIAGNOSED_SAMPLES = 16
SAMPLES = 64  # that score a trial of a search
Setting = str | int | float | bool
ProgressListener = Callable[[Event], None]


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with its variables set, and where its results go."""

    path: Path
    _content: Recipe = field(repr=False)
    _plugins: Registry = field(repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    inventory: Path | None = None  # None: devices.yaml beside the recipe
    db: Path = DEFAULT_DB
    cache: Path = DEFAULT_CACHE

    def plan(
        self,
        *,
        devices: Sequence[str] = (),
        only: Sequence[str] = (),
        smoke: bool = False,
        progress: ProgressListener | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> RecipePlan:
        """Return the steps of a run, after checking samples and networks as `qpipe plan` does.

        Raise QpipeError with a line for each mistake.
        """
        resolved = self._resolve(self._request(devices, only, smoke=smoke))
        with Store(self.db) as store:
            planned = prepare_plan(resolved, store, progress or _ignore, notify or _ignore)
        return RecipePlan(planned, resolved.cache)

    def run(
        self,
        *,
        devices: Sequence[str] = (),
        only: Sequence[str] = (),
        smoke: bool = False,
        new: bool = False,
        limits: Limits | None = None,
        keep: float | None = None,
        retries: int = Request.retries,
        wait_s: float = Request.wait_s,
        cluster: str = "",
        tags: Sequence[str] = (),
        progress: ProgressListener | None = None,
        notify: Callable[[str], None] | None = None,
        on_start: Callable[[Run], None] | None = None,
    ) -> Run:
        """Run the recipe to its end and return the run, also where some of its steps failed.

        A run that was interrupted, by Ctrl-C or a kill, is continued unless `new` is set.
        `limits` are what a scheme to ship has to satisfy, such as {"latency_ms": ("<=", 5)}, `keep`
        what it may lose, in points, instead of what the recipe says. `retries` is how often a step
        is tried again whose device failed, `wait_s` how many seconds to wait for a device that
        others use; `cluster` is the address of a Dask scheduler, and `tags` are names for the run.
        `progress` gets what happens to each step, `notify` messages that belong to no step, and
        `on_start` the run once it has an id. Raise QpipeError where the recipe is wrong,
        DeviceError where no device can be used.
        """
        check_tags(tags)
        request = replace(
            self._request(devices, only, smoke=smoke),
            new=new,
            limits=limits or {},
            keep=keep,
            retries=retries,
            wait_s=wait_s,
            cluster=cluster,
        )
        resolved = self._resolve(request)
        with Store(self.db) as store:

            def start(run: str) -> None:
                if on_start is not None:
                    on_start(*as_runs(store, [store.run(run)]))

            finished = run_recipe(
                resolved, store, progress or _ignore, notify or _ignore, on_open=start
            )
            store.tag(finished.run, tags)
            return _finished_run(store, finished)

    def why(
        self,
        step: str,
        run: Run,
        *,
        devices: Sequence[str] = (),
        only: Sequence[str] = (),
        smoke: bool = False,
    ) -> StepExplanation:
        """Explain why a step is a cache hit or will be computed, against what a run recorded.

        Raise QpipeError where the recipe has no such step.
        """
        resolved = self._resolve(self._request(devices, only, smoke=smoke))
        with Store(self.db) as store:
            plan = resolved.offline_plan(store)
        if step not in plan.steps:
            name = resolved.recipe.name
            raise unknown_step(step, plan.steps, where=name, list_command="qpipe plan RECIPE")
        recorded = {row["step"]: row for row in run.steps}
        return explain_step(plan.steps[step], recorded.get(step), resolved.cache, run=run.id)

    def search(
        self,
        *,
        out: Path,
        budget_s: float,
        trials: int | None = None,
        samples: int = SAMPLES,
        devices: Sequence[str] = (),
        progress: ProgressListener | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> SearchResult:
        """Search for schemes that those of the recipe do not dominate; see `qpipe search`.

        Trials run on this machine on `samples` samples, at most `trials`; the best are measured on
        the devices by a run of the recipe that is written to `out`.
        """
        from qpipe.search.discoveries import discoveries
        from qpipe.search.search import Budget, Search
        from qpipe.storage.trials import TrialStore

        with TrialStore(self.db) as store:
            search = Search(
                self._request(devices, (), smoke=False),
                store,
                out,
                Budget(budget_s, trials),
                samples,
                listen=progress or _ignore,
                notify=notify or _ignore,
            )
            finished = search.run()
            found = discoveries(store, finished.run, search.recipe.schemes)
            return SearchResult(_finished_run(store, finished), out, found)

    def samples(
        self,
        folder: Path | None = None,
        *,
        count: int | None = None,
        progress: ProgressListener | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> FedSamples:
        """Write a page of what the network is fed: pictures, statistics, and what float predicts.

        It shows `count` samples of each part, by default those that `qpipe new` scores, and lies in
        .qpipe/samples/RECIPE by default.
        """
        from qpipe.api.fed_samples import write_fed_samples

        resolved = self._resolve(self._request((), (), smoke=False))
        with Store(self.db) as store:
            return write_fed_samples(
                resolved,
                store,
                folder,
                count or TRIAL_COUNT,
                progress or _ignore,
                notify or _ignore,
            )

    def diagnose(
        self,
        scheme: str,
        *,
        model: str | None = None,
        build: str | None = None,
        device: str | None = None,
        count: int = DIAGNOSED_SAMPLES,
        progress: ProgressListener | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> Diagnosis:
        """Find where a scheme loses accuracy, from float to a device and layer by layer.

        The device is by default the first of the recipe; `count` evaluation samples are scored.
        """
        from qpipe.api.diagnosis import diagnose_case
        from qpipe.diagnose.scheme_networks import make_case

        listen = progress or _ignore
        devices = [device] if device else []
        resolved = self._resolve(self._request(devices, [scheme], smoke=False))
        with Store(self.db) as store:
            case = make_case(
                resolved,
                store,
                scheme=scheme,
                model=model,
                build=build,
                device=device or next(iter(resolved.devices)),
                listen=listen,
            )
            return diagnose_case(case, store, count, listen, notify or _ignore)

    def _resolve(self, request: Request) -> ResolvedRequest:
        return resolve_recipe(request, self._content, self._plugins)

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
    db: Path | str = DEFAULT_DB,
    cache: Path | str = DEFAULT_CACHE,
) -> LoadedRecipe:
    """Load a recipe with these values of its variables; raise QpipeError where it is wrong."""
    settings = {name: _as_text(value) for name, value in (set or {}).items()}
    content, plugins = recipes.load(Path(path), settings)
    return LoadedRecipe(
        Path(path),
        content,
        plugins,
        settings,
        Path(inventory) if inventory is not None else None,
        Path(db),
        Path(cache),
    )


def _finished_run(store: Store, finished: Finished) -> Run:
    states = list(finished.outcome.states.values())
    ending = RunEnding(
        finished.seconds,
        len(states),
        states.count("cached"),
        finished.unreachable,
        finished.bad,
    )
    (run,) = as_runs(store, [store.run(finished.run)], ending)
    return run


def _as_text(value: Setting) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ignore(_: object) -> None:
    pass
