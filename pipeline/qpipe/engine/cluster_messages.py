"""What a run and the workers of a cluster tell each other: JSON, of which nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from qpipe.engine.plan import READING_KINDS, Plan, Step
from qpipe.errors import Failure
from qpipe.recipe.stage_call import CallByName, calls_by_name
from qpipe.storage.cache import Cache
from qpipe.storage.remote_cache import RemoteCache
from qpipe.storage.sharing_cache import SharingCache

# that it cannot be done there, that it is done, that it failed
ANSWERS = ({"lost"}, {"manifest"}, {"reason", "failure", "log_file"})
PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Place:
    """Where a worker finds results and leaves its own, and whom it tells how far it is."""

    topic: str
    store: Mapping[str, Any]
    seen: str  # a folder in the run's own cache
    plugins: list[str]


def step_message(step: Step, plan: Plan, place: Place, token: str) -> str:
    """Return all that a worker needs to carry out a step; raise TypeError where JSON has no word.

    Results are named by their keys: a worker takes them from the cache.
    """
    inputs = {}
    for parameter, need in step.needs.items():
        needed = plan.steps[need]
        inputs[parameter] = [needed.kind, needed.key]
    options = calls_by_name(step.call.options) if step.call else {}
    message = {
        "token": token,
        "topic": place.topic,
        "store": place.store,
        "seen": place.seen,
        "plugins": place.plugins,
        "step": step.id,
        "kind": step.kind,
        "key": step.key,
        "stage": step.stage_name,
        "options": encode(options),
        "inputs": inputs,
        "target": asdict(step.target) if step.target else None,
        "platform": asdict(step.platform) if step.platform else None,
    }
    return json.dumps(message)


def checked_answer(answer: Any) -> dict[str, str]:
    """Return how a step ended on a worker; raise ValueError for what no worker says."""
    is_text = isinstance(answer, dict) and all(isinstance(text, str) for text in answer.values())
    if not is_text or not any(names <= answer.keys() for names in ANSWERS):
        raise ValueError("no answer of a worker")
    if answer.get("failure", "bug") not in get_args(Failure):
        raise ValueError("no type of failure")
    return dict(answer)


def can_be_sent(step: Step) -> bool:
    """Return whether a step is one for a cluster: one that reads nothing which the recipe names."""
    if step.device is not None or step.kind in READING_KINDS or step.fields.get("files"):
        return False
    if step.call is None or step.call.secret:
        return False
    try:
        encode(calls_by_name(step.call.options))
    except TypeError:
        return False
    return True


def encode(value: Any) -> Any:
    """Return an option as JSON; each container is a map with its type, so that it comes back."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, CallByName):
        call = {"kind": value.kind, "name": value.name, "options": encode(value.options)}
        return {"call": call}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {"map": {name: encode(item) for name, item in value.items()}}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [encode(item) for item in value]}
    raise TypeError(type(value).__name__)


def decode(value: Any) -> Any:
    """Return the option that was encoded."""
    if not isinstance(value, dict):
        return value
    ((container, content),) = value.items()
    if container == "call":
        return CallByName(content["kind"], content["name"], decode(content["options"]))
    if container == "map":
        return {name: decode(item) for name, item in content.items()}
    items = [decode(item) for item in content]
    return tuple(items) if container == "tuple" else items


def describe_store(cache: Cache) -> dict[str, Any]:
    """Return what opens the same cache on another machine."""
    store: dict[str, Any] = {"root": str(cache.root.resolve())}
    if isinstance(cache, SharingCache):
        store["shared"] = str(cache.shared_folder.resolve())
        store["users"] = dict(cache.users)
    if isinstance(cache, RemoteCache):
        store["url"] = cache.url
    return store


# ---- what results depend on besides the keys of what they are made of


def expected_environment(plan: Plan) -> dict[str, Any]:
    """Return what a worker must have in common with this machine, as the keys of a plan say it."""
    environment: dict[str, Any] = {"host": {}, "code": {}, "version": {}, "requires": {}}
    for step in plan.steps.values():
        if can_be_sent(step):
            name = f"{step.kind} {step.stage_name}"
            environment["host"] = step.fields["host"]
            environment["code"].update(step.fields["code"])
            environment["version"][name] = step.fields["version"]
            environment["requires"][name] = step.fields["requires"]
    return environment


def differences(here: Mapping[str, Any], there: Mapping[str, Any], path: str = "") -> list[str]:
    """Return where an environment is not that of this machine, in words."""
    lines = []
    for name in sorted({*here, *there}):
        place = f"{path} {name}".strip()
        mine = here.get(name)
        theirs = there.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            lines += differences(mine, theirs, place)
        elif mine != theirs:
            lines.append(f"{place} is {_shown(theirs)} there and {_shown(mine)} here")
    return lines


def _shown(value: Any) -> str:
    return "missing" if value is None else str(value)
