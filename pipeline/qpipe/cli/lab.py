"""plugins and describe: what there is to work with."""

from __future__ import annotations

import inspect
from typing import Any

from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.errors import RecipeError, suggest
from qpipe.stages import registry
from qpipe.stages.options import needs, options
from qpipe.stages.registry import KINDS, Registry, Stage

BESIDE = ("device", "power")  # kinds of which an inventory speaks


def _all(plugins: Registry) -> list[Stage]:
    stages = sorted(
        plugins.stages.values(), key=lambda stage: (KINDS.index(stage.kind), stage.name)
    )
    beside = [shelf[name] for shelf in (plugins.devices, plugins.powers) for name in sorted(shelf)]
    return [*stages, *beside]


def plugins(as_json: bool) -> None:
    """Print every stage, then what did not load."""
    found = registry.load()
    entries = [
        {
            "kind": s.kind,
            "name": s.name,
            "help": s.help,
            "distribution": s.distribution,
            "version": s.version,
        }
        for s in _all(found)
    ]
    if as_json:
        print_json({"stages": entries, "broken": found.broken})
        return
    print_table(
        ("kind", "name", "from", "what it does"),
        [(e["kind"], e["name"], f"{e['distribution']} {e['version']}", e["help"]) for e in entries],
    )
    for source, reason in found.broken.items():
        print_text(f"did not load: {source}: {reason}")


def describe(kind: str, name: str | None, as_json: bool) -> None:
    """Print a stage's docstring, needs and options; without a name, the stages of the kind."""
    if kind not in (*KINDS, *BESIDE):
        raise RecipeError(f"no kind '{kind}'; {suggest(kind, [*KINDS, *BESIDE])}")
    found = registry.load()
    if name is None:
        rows = [(stage.name, stage.help) for stage in _all(found) if stage.kind == kind]
        if as_json:
            print_json([{"kind": kind, "name": own, "help": does} for own, does in rows])
        else:
            print_table(("name", "what it does"), rows)
        return
    look_up = {"device": found.device, "power": found.power}.get(kind)
    stage = look_up(name) if look_up else found.stage(kind, name)
    own = options(stage.function)
    required = [] if look_up else needs(stage.function)
    if as_json:
        schema = {
            option.name: {**option.schema(), "required": option.required} for option in own.values()
        }
        doc = inspect.getdoc(stage.function)
        print_json({"kind": kind, "name": name, "doc": doc, "needs": required, "options": schema})
        return
    print_text(f"{kind} {name}  ({stage.distribution} {stage.version})\n")
    print_text(inspect.getdoc(stage.function) or "")
    if required:
        print_text(f"\nneeds: {', '.join(required)}")
    print_text("\noptions:" if own else "\nno options")
    if own:
        print_table(
            ("name", "type", "default"),
            [
                (
                    option.name,
                    option.describe(),
                    "must be given" if option.required else _written(option.default),
                )
                for option in own.values()
            ],
        )


def _written(value: Any) -> str:
    """As one writes it in YAML."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_written, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
