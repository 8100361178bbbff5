"""A device as `qpipe devices list` and `check` show it: its driver, capabilities and health."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qpipe.cli.device_events import last_known_holder
from qpipe.engine.targets import VNNI
from qpipe.recipe.pools import tags
from qpipe.recipe.stage_call import Call
from qpipe.storage.results import Store
from qpipe.types import Capabilities

# CPU features that decide how fast integer kernels are, in words
INTEGER_FEATURES = {
    "asimddp": "dot product",
    "i8mm": "i8mm",
    "svei8mm": "SVE i8mm",
    "sme": "SME",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "amx_int8": "AMX int8",
}


@dataclass(frozen=True)
class DeviceEntry:
    """What is known of a device of the inventory."""

    name: str
    driver: str
    checked: str | None  # when it was last checked
    health: str | None
    holder: str | None
    tags: Sequence[str]
    capabilities: Capabilities | None  # at the last check

    def to_json(self) -> dict[str, Any]:
        """Return the entry as one flat object."""
        entry: dict[str, Any] = {
            "name": self.name,
            "driver": self.driver,
            "checked": self.checked,
            "health": self.health,
            "holder": self.holder,
            "tags": list(self.tags),
        }
        if self.capabilities:
            entry |= asdict(self.capabilities)
        return entry


def read_device_entry(store: Store, name: str, call: Call) -> DeviceEntry:
    """Read what the database knows of a device."""
    row = store.device(name)
    health = store.health(name)
    return DeviceEntry(
        name=name,
        driver=call.name,
        checked=row["checked"] if row else None,
        health=health["health"] if health else None,
        holder=last_known_holder(store, name),
        tags=tags(call),
        capabilities=row["capabilities"] if row else None,
    )


def describe_integer_support(arch: str, features: Collection[str]) -> str:
    """Return what the CPU has for integer kernels, in words."""
    words = [word for feature, word in INTEGER_FEATURES.items() if feature in features]
    if arch == "x86_64" and VNNI.isdisjoint(features):
        words = ["no VNNI"]
    if arch == "aarch64" and "asimddp" not in features:
        words = ["no dot product", *words]
    return ", ".join(dict.fromkeys(words))
