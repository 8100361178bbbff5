"""What two runs' devices said of themselves, where it is not the same: who compares their numbers must know."""

from __future__ import annotations

from qpipe.storage.results import Store
from qpipe.types import Capabilities


def differing_devices(store: Store, before: str, after: str) -> dict[str, list[str]]:
    """Of each device that either run used, what it said of itself, where it is not the same: its runtimes, processor,
    libraries. None of those of which a run did not keep it."""
    olds, news = (store.capabilities(run) for run in (before, after))
    both = {
        device: (_fields(olds[device]), _fields(news[device])) for device in news if device in olds
    }
    found = {
        device: [_changed(field, was.get(field), now.get(field)) for field in {**was, **now}]
        for device, (was, now) in both.items()
    }
    return {
        device: [line for line in lines if line] for device, lines in found.items() if any(lines)
    }


def _fields(capabilities: Capabilities) -> dict[str, str | set[str]]:
    """All that can change a number, by what people call it."""
    named = {
        name: str(getattr(capabilities, name))
        for name in ("arch", "system", "cpu", "cores", "python", "numpy")
    }
    features = {"CPU features": set(capabilities.features)}
    return {
        **capabilities.runtimes,
        **named,
        **features,
        "clock": capabilities.emulated or "the device's own",
    }


def _changed(field: str, was: str | set[str] | None, now: str | set[str] | None) -> str:
    if isinstance(was, set) and isinstance(now, set):
        lost = sorted(was - now)
        won = sorted(now - was)
        changes = [
            f"{word} {' '.join(some)}" for word, some in (("without", lost), ("with", won)) if some
        ]
        return f"{field} are now {' and '.join(changes)}" if changes else ""
    return "" if was == now else f"{field} was {was or 'missing'}, now {now or 'missing'}"


def differing_environments(store: Store, before: str, after: str) -> list[str]:
    """What both runs' devices said of themselves, and of their clocks while they measured, where it is not the same."""
    said = differing_devices(store, before, after)
    told = [_environment(store, run) for run in (before, after)]
    return [f"{device}: {line}" for device, lines in said.items() for line in lines] + [
        f"{device}: {field} was {', '.join(sorted(told[0][device, field]))}, now {', '.join(sorted(now))}"
        for (device, field), now in told[1].items()
        if (device, field) in told[0] and told[0][device, field] != now
    ]


def _environment(store: Store, run: str) -> dict[tuple[str, str], set[str]]:
    """The kernels, governors and settings of each device's rounds."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in store.measurements(run):
        for condition in store.rounds(row["id"]):
            before = (condition["environment"] or {}).get("before", {})
            said = {
                "kernel": [before.get("kernel")],
                "governor": [*(before.get("governor") or {}).values()],
            }
            for field, values in said.items():
                found.setdefault((row["device"], field), set()).update(
                    str(each) for each in values if each
                )
    return {key: values for key, values in found.items() if values}
