"""What a user asks of a recipe, and the same resolved: recipe and devices read, ready to plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypedDict

from qpipe.engine import stage_results
from qpipe.engine.device_health import PATIENCE_S
from qpipe.engine.plan import DeviceInPlan, Plan, Step, make_plan
from qpipe.engine.retry import RETRIES
from qpipe.errors import RecipeError, shown
from qpipe.recipe import inventory, limits, pools, recipe
from qpipe.recipe.recipe import Recipe
from qpipe.recipe.stage_call import Call
from qpipe.stages.registry import Registry
from qpipe.storage.cache import Cache
from qpipe.storage.remote_cache import RemoteCache
from qpipe.storage.results import Store
from qpipe.storage.sharing_cache import SharingCache
from qpipe.storage.workspace import DEFAULT_CACHE, DEFAULT_DB, run_folder
from qpipe.types import Capabilities, Limits

# what a --smoke run sets, where stages have these options
SMOKE_OPTIONS = {
    "calibration_count": 4,
    "evaluation_count": 4,
    "rounds": 2,
    "epochs": 1,
    "steps": 2,
}


class StoredRequest(TypedDict, total=False):
    """A request as a run's row in the store holds it."""

    settings: dict[str, str]
    devices: list[str]
    only: list[str]
    inventory: str | None
    smoke: bool
    limits: dict[str, list[str | float]]
    keep: float


@dataclass(frozen=True)
class Request:
    """What a user asks of a recipe, as the options of `qpipe run` and `qpipe plan` say it."""

    recipe: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[str] = ()
    only: Sequence[str] = ()
    inventory: Path | None = None
    db: Path = DEFAULT_DB
    cache: Path = DEFAULT_CACHE
    new: bool = False
    smoke: bool = False
    retries: int = RETRIES  # of a step on a device
    wait_s: float = PATIENCE_S  # for a device that another run uses
    limits: Limits = field(default_factory=dict)  # what the recommendation has to satisfy
    keep: float | None = None  # points that it may lose against float; None as the recipe says
    cluster: str = ""  # whose workers carry out steps of the host; empty as the recipe says

    def to_store(self) -> StoredRequest:
        """Return what a later command needs to expand the same recipe again, as JSON."""
        stored: StoredRequest = {
            "settings": dict(self.settings),
            "devices": list(self.devices),
            "only": list(self.only),
            "inventory": str(self.inventory.resolve()) if self.inventory else None,
            "smoke": self.smoke,
        }
        if self.limits:
            stored["limits"] = {metric: list(limit) for metric, limit in self.limits.items()}
        if self.keep is not None:
            stored["keep"] = self.keep
        return stored


@dataclass(frozen=True)
class ResolvedRequest:
    """A request with its recipe read and expanded, and its devices looked up in the inventory."""

    request: Request
    recipe: Recipe
    plugins: Registry
    devices: Mapping[str, Call]  # how to reach each; none was contacted
    notes: Sequence[str] = ()  # what to tell the user before it runs
    # device or pool, as the recipe or --device names it -> the devices that it may be
    candidates: Mapping[str, Mapping[str, Call]] = field(default_factory=dict)

    def to_store(self) -> StoredRequest:
        """Return the request as a run's row holds it, with what the recipe says of `keep`."""
        keep = self.recipe.keep if self.request.keep is None else self.request.keep
        return replace(self.request, keep=keep).to_store()

    @cached_property
    def cache(self) -> Cache:
        """The cache that results are read from and written to."""
        if self.recipe.cache_url:
            return RemoteCache(self.request.cache, self.recipe.cache_url)
        if self.recipe.sharing is not None:
            return SharingCache(self.request.cache, self.recipe.sharing)
        return Cache(self.request.cache)

    @property
    def cluster(self) -> str:
        """The address of the cluster that carries out steps of the host; empty for none."""
        return self.request.cluster or self.recipe.cluster

    @property
    def plan_folder(self) -> Path:
        """The folder of the steps that planning carries out, for their logs."""
        return self.request.db.parent / "plan"

    def run_folder(self, run: str) -> Path:
        """Return the folder of a run, for its lock and the logs of its steps."""
        return run_folder(self.request.db, run)

    def plan(self, capabilities: Mapping[str, Capabilities]) -> Plan:
        """Return the plan for these capabilities, by device.

        A device without any counts as a current x86 machine.
        """
        devices = []
        for name, call in self.devices.items():
            devices.append(DeviceInPlan(name, call, capabilities.get(name)))
        return make_plan(self.recipe, devices, self._sample_digests)

    @property
    def open_choices(self) -> dict[str, list[str]]:
        """The devices of each pool of which any one is used."""
        words = [word for word in self.candidates if word.startswith(pools.ANY)]
        return {word: list(self.candidates[word]) for word in words}

    @property
    def all_candidates(self) -> dict[str, Call]:
        """Every device that it may use."""
        return {
            name: call for devices in self.candidates.values() for name, call in devices.items()
        }

    def with_choice(self, choice: Mapping[str, str]) -> ResolvedRequest:
        """Return the request with one device of each of these pools."""
        devices: dict[str, Call] = {}
        for word, candidates in self.candidates.items():
            chosen = [choice[word]] if word in choice else candidates
            devices |= {name: candidates[name] for name in chosen}
        return replace(self, devices=devices)

    def offline_plan(self, store: Store) -> Plan:
        """Return the plan for the capabilities at the last check of each device; contact none."""
        choice = {}
        for word, names in self.open_choices.items():
            choice[word] = next((name for name in names if not _is_bad(store, name)), names[0])
        chosen = self.with_choice(choice)
        capabilities = {}
        for name in chosen.devices:
            row = store.device(name)
            if row is not None:
                capabilities[name] = row["capabilities"]
        return chosen.plan(capabilities)

    def _sample_digests(self, step: Step) -> Mapping[str, str]:
        """Return the digests of samples in the cache; empty for samples that are not made yet."""
        if not self.cache.has(step.kind, step.key):
            return {}
        try:
            return stage_results.sample_digests(step.result_folder(self.cache))
        except (OSError, ValueError):  # damaged: as good as absent
            self.cache.remove(step.kind, step.key)
            return {}


def _is_bad(store: Store, device: str) -> bool:
    health = store.health(device)
    return health is not None and health["health"] == "bad"


def resolve_request(request: Request) -> ResolvedRequest:
    """Read recipe and inventory; raise RecipeError for whatever is wrong in them."""
    loaded, plugins = recipe.load(request.recipe, request.settings)
    return resolve_recipe(request, loaded, plugins)


def resolve_recipe(request: Request, loaded: Recipe, plugins: Registry) -> ResolvedRequest:
    """Read the inventory for a recipe that was read already; see resolve_request."""
    loaded = loaded.narrowed(request.only, request.devices)
    recipe.check_cluster(request.cluster, "--cluster")
    problems = limits.limit_errors(request.limits, measured=loaded.measured, shares=loaded.shares)
    if problems:
        raise RecipeError(*problems)
    notes = [
        f"scheme '{name}' has no quantize stage, so its network stays float"
        for name in loaded.unquantized
    ]
    if request.smoke:
        if loaded.expect:
            notes.append(
                "smoke: the expected score of the float network is not checked; "
                "so few samples tell nothing"
            )
        loaded = _smoke_recipe(loaded)
    file = inventory.find(request.inventory, request.recipe.parent)
    inventory_devices = inventory.load(file, plugins)
    candidates = {}
    for word in loaded.devices:
        names = _names(word, inventory_devices, file)
        candidates[word] = {name: inventory.pick(inventory_devices, name, file) for name in names}
    resolved = ResolvedRequest(request, loaded, plugins, {}, notes, candidates)
    return resolved.with_choice({word: names[0] for word, names in resolved.open_choices.items()})


def _names(word: str, inventory_devices: Mapping[str, Call], file: Path | None) -> list[str]:
    """Return the devices that a word names: itself, or those of a pool."""
    if not pools.is_pool(pools.checked_word(word, "--device")):
        return [word]
    return pools.members(word, inventory_devices, shown(file) if file else inventory.FILE)


def _smoke_recipe(loaded: Recipe) -> Recipe:
    """Return the recipe with few samples and rounds, hardly trained, without expected scores."""
    models = {}
    for name, call in loaded.models.items():
        companions = {key: _smoke_call(companion) for key, companion in call.beside.items()}
        models[name] = replace(call, beside=companions)
    return replace(
        loaded,
        samples=_smoke_call(loaded.samples),
        models=models,
        schemes={
            name: [_smoke_call(call) for call in chain] for name, chain in loaded.schemes.items()
        },
        measure=[_smoke_call(call) for call in loaded.measure],
        expect={},
    )


def _smoke_call(call: Call) -> Call:
    options = {name: SMOKE_OPTIONS.get(name, value) for name, value in call.options.items()}
    return replace(call, options=options)
