"""devices list, check, setup and clean: what the boards are, how ready, and making them so."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qpipe.cli.holding import HOLD, RELEASE
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.engine.targets import VNNI
from qpipe.errors import BusyError, DeviceError
from qpipe.recipe import inventory
from qpipe.recipe.stage_call import Call
from qpipe.stages import registry
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Device, Finding, Provisioned

DAY_S = 86400.0
BLOCKING = {"connection", "python", "numpy", "folder"}  # without them no agent starts
HELD = "busy: held by "
CHECKED = "check"  # the event of a check in a device's audit trail
# CPU features that decide how fast integers are, in words
WORDS = {
    "asimddp": "dot product",
    "i8mm": "i8mm",
    "svei8mm": "SVE i8mm",
    "sme": "SME",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "amx_int8": "AMX int8",
}


def show(inventory_file: Path | None, db: Path, as_json: bool) -> None:
    """Print the inventory with what each device said last, and how it was found last."""
    known = inventory.load(inventory.find_here(inventory_file), registry.load())
    with Store(db) as store:
        entries = [_entry(store, name, call) for name, call in known.items()]
    if as_json:
        print_json(entries)
    elif entries:
        _print_devices(entries)


def _entry(store: Store, name: str, call: Call) -> dict[str, Any]:
    row = store.device(name)
    health = store.health(name)
    entry: dict[str, Any] = {
        "name": name,
        "driver": call.name,
        "checked": row["checked"] if row else None,
        "health": health["health"] if health else None,
        "holder": _holder(store, name),
    }
    if row:
        entry |= asdict(row["capabilities"])
    return entry


def _holder(store: Store, name: str) -> str | None:
    """Who had it, by the last that was seen or done from here."""
    last = next(
        (e for e in reversed(store.events(name)) if e["event"] in (CHECKED, HOLD, RELEASE)), None
    )
    return str(last["why"]).removeprefix(HELD) if last and last["now"] in ("busy", "held") else None


def _print_devices(entries: list[dict[str, Any]]) -> None:
    columns = (
        "name",
        "driver",
        "arch",
        "cpu",
        "cores",
        "memory MB",
        "integers",
        "runtimes",
        "health",
        "holder",
        "checked",
    )
    table = []
    for entry in entries:
        runtimes = ", ".join(f"{k} {v}" for k, v in (entry.get("runtimes") or {}).items())
        if entry["checked"] and not runtimes:
            runtimes = f"none: qpipe devices setup {entry['name']}"
        memory = f"{entry['memory_mb']:.0f}" if "memory_mb" in entry else ""
        cpu = " ".join(filter(None, [entry.get("cpu"), _emulated(entry)]))
        table.append(
            [
                entry["name"],
                entry["driver"],
                entry.get("arch"),
                cpu,
                entry.get("cores"),
                memory,
                integers(entry.get("arch", ""), entry.get("features", ())),
                runtimes,
                entry["health"],
                entry["holder"],
                (entry["checked"] or "never")[:16],
            ]
        )
    print_table(columns, table, right=("cores", "memory MB"))


def _emulated(entry: Mapping[str, Any]) -> str:
    return f"(emulated: {entry['emulated']})" if entry.get("emulated") else ""


def integers(arch: str, features: Any) -> str:
    """What the CPU does for integer kernels, in words."""
    words = dict.fromkeys(word for feature, word in WORDS.items() if feature in features)
    if arch == "x86_64" and not VNNI & set(features):
        return "no VNNI"
    if arch == "aarch64" and "asimddp" not in features:
        return ", ".join(["no dot product", *words])
    return ", ".join(words)


def check(names: list[str], inventory_file: Path | None, db: Path, as_json: bool) -> None:
    """Say of each device line by line how ready it is, and record it; exit status 1 where one is not."""
    failed = {}
    entries = []
    with Store(db) as store:
        for name, call in _picked(names, inventory_file).items():
            findings = []
            for finding in _findings(store, name, call):
                findings.append(finding)
                if not as_json:
                    _print(name, finding)
            bad = [finding for finding in findings if finding.state == "bad"]
            if bad:
                failed[name] = f"{name}: not ready: {bad[0].what}: {bad[0].said}"
            _record(store, name, findings)
            error = bad[0].said if bad else None
            entries.append(
                {
                    **_entry(store, name, call),
                    "error": error,
                    "findings": [asdict(each) for each in findings],
                }
            )
    if as_json:
        print_json(entries)
    _end(failed)


def _findings(store: Store, name: str, call: Call) -> Iterator[Finding]:
    """What the device's own check finds, then what it says of itself, then what the store knows of it."""
    device = inventory.open_device(name, call)
    blocked = False
    try:
        if isinstance(device, Provisioned):
            for finding in device.check():
                blocked |= finding.state == "bad" and finding.what in BLOCKING
                yield finding
        if not blocked:
            yield from _agent(store, device, call)
    finally:
        device.close()
    health = store.health(name)
    if health:
        fix = f"; clear it with: qpipe devices clear {name}" if health["health"] == "bad" else ""
        state = "ok" if health["health"] == "good" else "bad" if fix else "warning"
        said = f"{health['health']} since {health['since'][:16]}Z: {health['why']}{fix}"
        yield Finding("health", state, said)  # type: ignore[arg-type]


def _agent(store: Store, device: Device, call: Call) -> Iterator[Finding]:
    try:
        said = inventory.labelled(call, device.capabilities())
    except BusyError as error:
        yield Finding("holder", "warning", _reason(device.name, error))
    except DeviceError as error:
        yield Finding("agent", "bad", _reason(device.name, error))
    else:
        store.save_device(device.name, call.name, said)
        yield Finding("agent", "ok", "answers")
        yield Finding("cpu", "ok", _cpu(said))


def _cpu(said: Capabilities) -> str:
    parts = [
        said.cpu,
        f"{said.cores} cores",
        f"{said.memory_mb:.0f} MB",
        integers(said.arch, said.features),
    ]
    if said.emulated:
        parts.append(f"emulated ({said.emulated})")
    return ", ".join(filter(None, parts))


def _record(store: Store, name: str, findings: list[Finding]) -> None:
    """A line of the device's audit trail: ready, busy (why: by whom) or not ready (why: what is bad)."""
    bad = [f"{finding.what}: {finding.said}" for finding in findings if finding.state == "bad"]
    held = [finding.said for finding in findings if finding.what == "holder"]
    now = "not ready" if bad else "busy" if held else "ready"
    store.record_event(name, event=CHECKED, now=now, why="; ".join(bad or held))


def setup(
    name: str,
    wheels: Path | None,
    runtime: str | None,
    system_runtime: bool,
    inventory_file: Path | None,
    db: Path,
    as_json: bool,
) -> None:
    """Make a device ready, and print each thing that was done; exit status 1 where it could not be."""
    call = _picked([name], inventory_file)[name]
    device = inventory.open_device(name, call)
    findings = []
    failed = {}
    try:
        if not isinstance(device, Provisioned):
            raise DeviceError(
                f"{name}: a device of kind {call.name} cannot be set up by qpipe",
                failure="configuration",
            )
        for finding in device.setup(wheels=wheels, runtime=runtime, system_runtime=system_runtime):
            findings.append(finding)
            if not as_json:
                _print(name, finding)
        with Store(db) as store:
            store.save_device(name, call.name, inventory.labelled(call, device.capabilities()))
    except DeviceError as error:
        failed[name] = str(error)
    finally:
        device.close()
    if as_json:
        sent = sum(each.facts.get("bytes", 0) for each in findings if each.what == "sent")
        steps = [asdict(each) for each in findings]
        print_json(
            {
                "name": name,
                "ready": not failed,
                "sent_bytes": sent,
                "steps": steps,
                "error": failed.get(name),
            }
        )
    elif not failed:
        print_text(f"{name}: ready")
    _end(failed)


def clean(
    names: list[str],
    older_than: float | None,
    keep_mb: float | None,
    dry_run: bool,
    runtime: bool,
    inventory_file: Path | None,
    as_json: bool,
) -> None:
    """Remove what was stored on devices; exit status 1 where one does not answer or is in use."""
    given = {
        "older_than_s": None if older_than is None else older_than * DAY_S,
        "keep_bytes": None if keep_mb is None else keep_mb * 1e6,
        "dry_run": dry_run or None,
        "runtime": runtime or None,
    }
    what: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    entries: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for name, call in _picked(names, inventory_file).items():
        device = inventory.open_device(name, call)
        entry: dict[str, Any] = {"name": name, "freed_mb": None, "dry_run": dry_run, "error": None}
        try:
            entry["freed_mb"] = device.clean(**what) / 1e6
        except DeviceError as error:
            failed[name] = entry["error"] = str(error)
        finally:
            device.close()
        entries.append(entry)
    if as_json:
        print_json(entries)
    for entry in entries:
        if not (as_json or entry["error"]):
            print_text(
                f"{entry['name']}: {entry['freed_mb']:.1f} MB {'would be freed' if dry_run else 'freed'}"
            )
    _end(failed)


def _picked(names: list[str], inventory_file: Path | None) -> dict[str, Call]:
    """The devices of those names; all, where there are none."""
    file = inventory.find_here(inventory_file)
    known = inventory.load(file, registry.load())
    return {name: inventory.pick(known, name, file) for name in names or known}


def _print(name: str, finding: Finding) -> None:
    print_text(f"{name}: {finding.state:7} {finding.what:10} {finding.said}")


def _reason(name: str, error: DeviceError) -> str:
    return str(error).removeprefix(f"{name}: ")


def _end(failed: dict[str, str]) -> None:
    for reason in failed.values():
        print(f"qpipe: {reason}", file=sys.stderr)  # noqa: T201
    if failed:
        sys.exit(1)
