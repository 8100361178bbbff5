"""What differs between the devices of two runs: their reports, and the environment of rounds."""

from __future__ import annotations

from qpipe.storage.results import Store
from qpipe.types import Capabilities

Field = str | frozenset[str]  # a value, or the set of CPU features

NAMED_FIELDS = ("arch", "system", "cpu", "cores", "python", "numpy")


def differing_devices(store: Store, before: str, after: str) -> dict[str, list[str]]:
    """Return for each device of both runs what differs in its report: runtimes, CPU, libraries.

    A device is left out where nothing differs, or where a run does not have its report.
    """
    old_reports = store.capabilities(before)
    new_reports = store.capabilities(after)
    changes = {}
    for device, report in new_reports.items():
        if device in old_reports:
            lines = _changed_fields(_fields(old_reports[device]), _fields(report))
            if lines:
                changes[device] = lines
    return changes


def _fields(capabilities: Capabilities) -> dict[str, Field]:
    """Return all that can change a number, by the name that people use."""
    fields: dict[str, Field] = dict(capabilities.runtimes)
    for name in NAMED_FIELDS:
        fields[name] = str(getattr(capabilities, name))
    fields["CPU features"] = frozenset(capabilities.features)
    fields["clock"] = capabilities.emulated or "the device's own"
    return fields


def _changed_fields(old: dict[str, Field], new: dict[str, Field]) -> list[str]:
    lines = []
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            lines.append(_change(name, old.get(name), new.get(name)))
    return lines


def _change(name: str, old: Field | None, new: Field | None) -> str:
    if isinstance(old, frozenset) and isinstance(new, frozenset):
        parts = []
        if old - new:
            parts.append(f"without {' '.join(sorted(old - new))}")
        if new - old:
            parts.append(f"with {' '.join(sorted(new - old))}")
        return f"{name} are now {' and '.join(parts)}"
    return f"{name} was {old or 'missing'}, now {new or 'missing'}"


def differing_environments(store: Store, before: str, after: str) -> list[str]:
    """Return what differs in the devices' reports, and in their clocks while they measured."""
    lines = []
    for device, changes in differing_devices(store, before, after).items():
        lines += [f"{device}: {change}" for change in changes]
    old_environments = _round_environments(store, before)
    new_environments = _round_environments(store, after)
    for (device, name), values in new_environments.items():
        old_values = old_environments.get((device, name), values)
        if old_values != values:
            old_text = ", ".join(sorted(old_values))
            new_text = ", ".join(sorted(values))
            lines.append(f"{device}: {name} was {old_text}, now {new_text}")
    return lines


def _round_environments(store: Store, run: str) -> dict[tuple[str, str], set[str]]:
    """Return kernels, firmware and governors of each device's rounds, by device and which it is."""
    environments: dict[tuple[str, str], set[str]] = {}
    for row in store.measurements(run):
        device = row["device"]
        for round_row in store.rounds(row["id"]):
            before = round_row["environment"].get("before", {})
            for name in ("kernel", "firmware"):
                if before.get(name):
                    environments.setdefault((device, name), set()).add(str(before[name]))
            for governor in (before.get("governor") or {}).values():
                if governor:
                    environments.setdefault((device, "governor"), set()).add(str(governor))
    return environments
