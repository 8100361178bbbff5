"""What a shell completes: kinds, stages, schemes, devices, runs and tags. Imports nothing heavy.

A completion prints nothing and never fails: where a file is missing or wrong, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qpipe.storage.run_names import NAME, run_names, scheme_names

if TYPE_CHECKING:
    from collections.abc import Mapping

INVENTORY = "devices.yaml"
LOCAL = "local"  # which every inventory has


def complete_kind(incomplete: str) -> list[str]:
    """Return kinds of stages, for `describe`."""
    from qpipe.cli.stage_list import ALL_KINDS

    return _beginning(ALL_KINDS, incomplete)


def complete_stage(context: typer.Context, incomplete: str) -> list[str]:
    """Return the stages of the kind that was typed."""
    from qpipe.cli.stage_list import all_stages
    from qpipe.stages import registry

    kind = context.params.get("kind")
    stages = all_stages(registry.load())
    return _beginning((stage.name for stage in stages if stage.kind == kind), incomplete)


def complete_scheme(context: typer.Context, incomplete: str) -> list[str]:
    """Return the schemes of the recipe that was typed, or else those that were measured."""
    recipe = context.params.get("recipe")
    if recipe is None:
        return _beginning(scheme_names(_database(context)), incomplete)
    schemes = _read_yaml(Path(recipe)).get("schemes")
    return _beginning(schemes if isinstance(schemes, dict) else (), incomplete)


def complete_device(context: typer.Context, incomplete: str) -> list[str]:
    """Return the devices of the inventory that the command would use."""
    return _beginning([*_read_yaml(_inventory(context)), LOCAL], incomplete)


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Return ids and tags of runs."""
    return _beginning(run_names(_database(context)), incomplete)


def _beginning(names: Iterable[Any], incomplete: str) -> list[str]:
    """Return the names that begin so and that a shell takes as one word."""
    words = [name for name in names if isinstance(name, str) and NAME.fullmatch(name)]
    return list(dict.fromkeys(word for word in words if word.startswith(incomplete)))


def _database(context: typer.Context) -> Path:
    from qpipe.cli.parameters import DEFAULT_DB

    return Path(context.params.get("db") or DEFAULT_DB)


def _inventory(context: typer.Context) -> Path:
    """Return the inventory that is named, or the first that lies where commands look."""
    named = context.params.get("inventory")
    if named is not None:
        return Path(named)
    recipe = context.params.get("recipe")
    folders = [Path(recipe).parent] if recipe is not None else []
    folders += [Path(), Path("recipes")]
    files = [folder / INVENTORY for folder in folders]
    return next((file for file in files if file.is_file()), files[0])


def _read_yaml(file: Path) -> Mapping[str, Any]:
    from qpipe.errors import RecipeError
    from qpipe.recipe import yaml_document

    try:
        root = yaml_document.read(file).root
    except RecipeError:
        return {}
    return root if isinstance(root, dict) else {}
