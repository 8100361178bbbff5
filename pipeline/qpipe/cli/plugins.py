"""qpipe plugins."""

from __future__ import annotations

import typer

from qpipe.cli.parameters import JsonOption
from qpipe.cli.tables import print_json, print_table, print_text


def plugins(context: typer.Context, as_json: JsonOption = False) -> None:
    """List all stages and kinds of device, and the plugins that did not load."""
    # options that stand before the name of a subcommand are its defaults
    context.default_map = {"check": {"as_json": as_json}}
    if context.invoked_subcommand is not None:
        return
    from qpipe.cli.stage_list import all_stages
    from qpipe.stages import registry

    loaded = registry.load()
    stages = all_stages(loaded)
    if as_json:
        entries = [
            {
                "kind": stage.kind,
                "name": stage.name,
                "help": stage.help,
                "distribution": stage.distribution,
                "version": stage.version,
            }
            for stage in stages
        ]
        print_json({"stages": entries, "broken": loaded.broken})
        return
    rows = [
        (stage.kind, stage.name, f"{stage.distribution} {stage.version}", stage.help)
        for stage in stages
    ]
    print_table(("kind", "name", "from", "what it does"), rows)
    for source, reason in loaded.broken.items():
        print_text(f"did not load: {source}: {reason}")
