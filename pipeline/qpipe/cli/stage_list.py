"""All stages of the loaded plugins, in the order in which commands list them."""

from __future__ import annotations

from qpipe.stages.registry import KINDS, Registry, Stage

INVENTORY_KINDS = ("device", "power")  # kinds that an inventory uses, not a recipe
ALL_KINDS = (*KINDS, *INVENTORY_KINDS)


def all_stages(registry: Registry) -> list[Stage]:
    """Return all stages by kind and name; devices and power switches come last."""
    stages = [
        *registry.stages.values(),
        *registry.devices.values(),
        *registry.powers.values(),
    ]
    return sorted(stages, key=lambda stage: (ALL_KINDS.index(stage.kind), stage.name))
