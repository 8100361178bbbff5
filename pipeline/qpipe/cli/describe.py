"""qpipe describe."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpipe.cli.completions import complete_kind, complete_stage
from qpipe.cli.parameters import JsonOption
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.errors import RecipeError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe.stages.options import Option
    from qpipe.stages.registry import Registry, Stage


def describe(
    kind: Annotated[
        str,
        typer.Argument(
            help="A kind of stage, 'device' or 'power'.",
            show_default=False,
            autocompletion=complete_kind,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            help="The name of the stage; by default all stages of the kind.",
            show_default=False,
            autocompletion=complete_stage,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a stage: what it does, what it needs, and its options."""
    from qpipe.cli.stage_list import ALL_KINDS
    from qpipe.stages import registry

    if kind not in ALL_KINDS:
        raise RecipeError(f"kind '{kind}' is not known; {suggest(kind, ALL_KINDS)}")
    loaded = registry.load()
    if name is None:
        _describe_kind(loaded, kind, as_json=as_json)
    else:
        _describe_stage(_find_stage(loaded, kind, name), as_json=as_json)


def _describe_kind(registry: Registry, kind: str, *, as_json: bool) -> None:
    """Print the stages of a kind, a line each."""
    from qpipe.cli.stage_list import all_stages

    stages = [stage for stage in all_stages(registry) if stage.kind == kind]
    if as_json:
        print_json([{"kind": kind, "name": stage.name, "help": stage.help} for stage in stages])
    else:
        rows = [(stage.name, stage.help) for stage in stages]
        print_table(("name", "what it does"), rows)


def _find_stage(registry: Registry, kind: str, name: str) -> Stage:
    if kind == "device":
        return registry.device(name)
    if kind == "power":
        return registry.power(name)
    return registry.stage(kind, name)


def _describe_stage(stage: Stage, *, as_json: bool) -> None:
    """Print the docstring, needs and options of a stage."""
    from qpipe.cli.stage_list import INVENTORY_KINDS
    from qpipe.stages.options import needs, options

    docstring = inspect.getdoc(stage.function)
    stage_options = list(options(stage.function).values())
    # drivers are called by the inventory: they need nothing of a run
    stage_needs = [] if stage.kind in INVENTORY_KINDS else needs(stage.function)
    if as_json:
        schemas = {
            option.name: {**option.schema(), "required": option.required}
            for option in stage_options
        }
        print_json(
            {
                "kind": stage.kind,
                "name": stage.name,
                "doc": docstring,
                "needs": stage_needs,
                "options": schemas,
            }
        )
        return
    print_text(f"{stage.kind} {stage.name}  ({stage.distribution} {stage.version})\n")
    print_text(docstring or "")
    if stage_needs:
        print_text(f"\nneeds: {', '.join(stage_needs)}")
    _print_options(stage_options)


def _print_options(stage_options: Sequence[Option]) -> None:
    if not stage_options:
        print_text("\nno options")
        return
    print_text("\noptions:")
    rows = []
    for option in stage_options:
        default = "required" if option.required else yaml_text(option.default)
        rows.append((option.name, option.describe(), default))
    print_table(("name", "type", "default"), rows)


def yaml_text(value: Any) -> str:
    """Return a value as one writes it in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(yaml_text(element) for element in value)}]"
    return str(value)
