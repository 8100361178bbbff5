"""plugins, describe and devices: what there is to work with."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from qpipe import inventory, registry
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.errors import DeviceError, RecipeError, suggest
from qpipe.options import needs, options
from qpipe.registry import KINDS, Registry, Stage
from qpipe.store import Store


def _all(plugins: Registry) -> list[Stage]:
    stages = sorted(plugins.stages.values(), key=lambda stage: (KINDS.index(stage.kind), stage.name))
    return [*stages, *(plugins.devices[name] for name in sorted(plugins.devices))]


def plugins(as_json: bool) -> None:
    """Print every stage, then what did not load."""
    found = registry.load()
    entries = [
        {"kind": s.kind, "name": s.name, "help": s.help, "distribution": s.distribution, "version": s.version}
        for s in _all(found)
    ]
    if as_json:
        print_json({"stages": entries, "broken": found.broken})
        return
    print_table(("kind", "name", "from", "what it does"), [
        (e["kind"], e["name"], f"{e['distribution']} {e['version']}", e["help"]) for e in entries
    ])  # fmt: skip
    for source, reason in found.broken.items():
        print_text(f"did not load: {source}: {reason}")


def describe(kind: str, name: str | None, as_json: bool) -> None:
    """Print a stage's docstring, needs and options; without a name, the stages of the kind."""
    if kind not in (*KINDS, "device"):
        raise RecipeError(f"no kind '{kind}'; {suggest(kind, [*KINDS, 'device'])}")
    found = registry.load()
    if name is None:
        rows = [(stage.name, stage.help) for stage in _all(found) if stage.kind == kind]
        if as_json:
            print_json([{"kind": kind, "name": own, "help": does} for own, does in rows])
        else:
            print_table(("name", "what it does"), rows)
        return
    stage = found.device(name) if kind == "device" else found.stage(kind, name)
    own = options(stage.function)
    required = needs(stage.function) if kind != "device" else []
    if as_json:
        schema = {option.name: {**option.schema(), "required": option.required} for option in own.values()}
        doc = inspect.getdoc(stage.function)
        print_json({"kind": kind, "name": name, "doc": doc, "needs": required, "options": schema})
        return
    print_text(f"{kind} {name}  ({stage.distribution} {stage.version})\n")
    print_text(inspect.getdoc(stage.function) or "")
    if required:
        print_text(f"\nneeds: {', '.join(required)}")
    print_text("\noptions:" if own else "\nno options")
    if own:
        print_table(("name", "type", "default"), [
            (option.name, option.describe(), "must be given" if option.required else _written(option.default))
            for option in own.values()
        ])  # fmt: skip


def _written(value: Any) -> str:
    """As one writes it in YAML."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_written, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def devices(inventory_file: Path | None, db: Path, as_json: bool) -> None:
    """Print the inventory with what each device said last."""
    plugins = registry.load()
    known = inventory.load(_file(inventory_file), plugins)
    with Store(db) as store:
        rows = {name: store.device(name) for name in known}
    entries = [_device(name, call.name, rows[name]) for name, call in known.items()]
    _print_devices(entries, as_json)


def _device(name: str, driver: str, row: dict[str, Any] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "driver": driver, "checked": row["checked"] if row else None}
    if row:
        entry |= vars(row["capabilities"])
    return entry


def _print_devices(entries: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(entries)
        return
    if not entries:
        return
    columns = ("name", "driver", "arch", "cpu", "cores", "memory MB", "runtimes", "features", "checked")
    table = []
    for entry in entries:
        runtimes = ", ".join(f"{k} {v}" for k, v in (entry.get("runtimes") or {}).items())
        if entry["checked"] and not runtimes:
            runtimes = "none: install onnxruntime there"
        memory = f"{entry['memory_mb']:.0f}" if "memory_mb" in entry else ""
        table.append([
            entry["name"], entry["driver"], entry.get("arch"), entry.get("cpu"), entry.get("cores"), memory, runtimes,
            " ".join(entry.get("features", ())), (entry["checked"] or "never")[:16],
        ])  # fmt: skip
    print_table(columns, table, right=("cores", "memory MB"))


def check(names: list[str], inventory_file: Path | None, db: Path, as_json: bool) -> None:
    """Reach each device; exit status 1 where one does not answer."""
    plugins = registry.load()
    file = _file(inventory_file)
    known = inventory.load(file, plugins)
    picked = {name: inventory.pick(known, name, file) for name in names or known}
    entries, failed = [], {}
    with Store(db) as store:
        for name, call in picked.items():
            device = inventory.open_device(name, call)
            try:
                store.save_device(name, call.name, device.capabilities())
            except DeviceError as error:
                failed[name] = str(error)
            finally:
                device.close()
            entries.append({**_device(name, call.name, store.device(name)), "error": failed.get(name)})
    _print_devices([entry for entry in entries if as_json or not entry["error"]], as_json)
    _end(failed)


def clean(names: list[str], inventory_file: Path | None, as_json: bool) -> None:
    """Empty each device's folder; exit status 1 where one does not answer."""
    file = _file(inventory_file)
    known = inventory.load(file, registry.load())
    picked = {name: inventory.pick(known, name, file) for name in names}
    entries: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for name, call in picked.items():
        device = inventory.open_device(name, call)
        try:
            entries.append({"name": name, "freed_mb": device.clean() / 1e6, "error": None})
        except DeviceError as error:
            failed[name] = str(error)
            entries.append({"name": name, "freed_mb": None, "error": failed[name]})
        finally:
            device.close()
    if as_json:
        print_json(entries)
    for entry in entries:
        if not (as_json or entry["error"]):
            print_text(f"{entry['name']}: {entry['freed_mb']:.1f} MB freed")
    _end(failed)


def _file(given: Path | None) -> Path | None:
    """The inventory: the one given, the one here, the one of the recipes here."""
    return inventory.find(given) or inventory.find(None, Path("recipes"))


def _end(failed: dict[str, str]) -> None:
    for reason in failed.values():
        print(f"qpipe: {reason}", file=sys.stderr)  # noqa: T201
    if failed:
        sys.exit(1)
