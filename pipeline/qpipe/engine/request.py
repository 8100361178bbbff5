"""What is asked of a recipe, expanded: the recipe as it was read, the devices it names, the plan for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qpipe.engine import stage_results
from qpipe.engine.plan import DeviceInPlan, Plan, Step, make
from qpipe.engine.retry import RETRIES
from qpipe.errors import RecipeError
from qpipe.recipe import inventory, limits, recipe
from qpipe.recipe.recipe import Recipe
from qpipe.recipe.stage_call import Call
from qpipe.stages.registry import Registry
from qpipe.storage.cache import Cache
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Limits

HOME = Path(".qpipe")
SMOKE = {
    "calibrate": 4,
    "evaluate": 4,
    "rounds": 2,
}  # of a --smoke run, where stages have these options


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
        plain = {
            "settings": dict(self.settings),
            "devices": list(self.devices),
            "only": list(self.only),
        }
        where = {
            "inventory": str(self.inventory.resolve()) if self.inventory else None,
            "smoke": self.smoke,
        }
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
            return stage_results.sample_digests(self.cache.folder(step.kind, step.key) / "value")
        except (OSError, ValueError):  # damaged: as good as absent
            self.cache.remove(step.kind, step.key)
            return {}

    def offline_plan(self, store: Store) -> Plan:
        """The plan by what the devices said when they were last checked; reaches none of them."""
        rows = {name: store.device(name) for name in self.devices}
        return self.plan({name: row["capabilities"] for name, row in rows.items() if row})


def open_session(request: Request) -> Session:
    """Read recipe and inventory; RecipeError for whatever is wrong in them."""
    loaded, plugins = recipe.load(request.recipe, request.settings)
    loaded = loaded.narrowed(request.only, request.devices)
    if wrong := limits.misfits(request.limits, loaded.measured, loaded.shares):
        raise RecipeError(*wrong)
    notes = []
    if request.smoke:
        if loaded.expect:
            notes.append(
                "smoke: what is expected of the float network is not checked, for so few samples tell nothing"
            )
        few = {
            name: replace(call, beside={n: _few(own) for n, own in call.beside.items()})
            for name, call in loaded.models.items()
        }
        measure = [_few(call) for call in loaded.measure]
        loaded = replace(
            loaded, samples=_few(loaded.samples), models=few, measure=measure, expect={}
        )
    file = inventory.find(request.inventory, request.recipe.parent)
    known = inventory.load(file, plugins)
    devices = {name: inventory.pick(known, name, file) for name in loaded.devices}
    return Session(request, loaded, plugins, devices, notes)


def _few(call: Call) -> Call:
    return replace(
        call, options={name: SMOKE.get(name, value) for name, value in call.options.items()}
    )
