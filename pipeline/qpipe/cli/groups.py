"""The commands that come in groups: runs, db, cache, devices. Imports nothing heavy: help must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.parameters import CACHE, DB, CacheFolder, Db, DevicesFile, Json

runs_app = typer.Typer(invoke_without_command=True)
db_app = typer.Typer(no_args_is_help=True, help="The database of results.")
cache_app = typer.Typer(invoke_without_command=True)
devices_app = typer.Typer(no_args_is_help=True, help="The devices one can measure on.")


@runs_app.callback()
def runs(
    context: typer.Context,
    tag: Annotated[str | None, typer.Option("--tag", help="Those with this tag alone.")] = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """All runs, newest first, with their tags."""
    from qpipe.cli import history

    context.default_map = {"tag": {"db": db, "as_json": as_json}}
    if context.invoked_subcommand is None:
        history.runs(tag, db, as_json)


@runs_app.command("tag")
def runs_tag(
    run: Annotated[str, typer.Argument(help="A run's id, its beginning, or a tag it has.", show_default=False)],
    tags: Annotated[list[str], typer.Argument(help="Words of your own.", show_default=False)],
    remove: Annotated[bool, typer.Option("--remove", help="Take these tags from it.")] = False,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Give a run tags, by which it is found wherever a run's id is asked for."""
    from qpipe.cli import history

    history.tag(run, tags, remove, db, as_json)


@db_app.command("merge")
def db_merge(
    others: Annotated[list[Path], typer.Argument(help="Databases of other machines.", show_default=False)],
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Bring the runs of other databases into this one; the others stay as they are."""
    from qpipe.cli import housekeeping

    housekeeping.merge_databases(others, db, as_json)


@cache_app.callback()
def cache(context: typer.Context, cache: CacheFolder = CACHE, as_json: Json = False) -> None:
    """What the cache holds, by kind."""
    from qpipe.cli import housekeeping

    context.default_map = {"clean": {"cache": cache, "as_json": as_json}}
    if context.invoked_subcommand is None:
        housekeeping.show_cache(cache, as_json)


@cache_app.command("clean")
def cache_clean(
    kind: Annotated[str | None, typer.Option("--kind", help="Results of this kind alone.")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, metavar="DAYS", help="Those unused for so long alone.")
    ] = None,
    keep_mb: Annotated[
        float | None, typer.Option("--keep-mb", min=0, metavar="MB", help="The longest unused, until this is left.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    cache: CacheFolder = CACHE,
    as_json: Json = False,
) -> None:
    """Remove cached results, all or those that fit every option; what a run is using stays."""
    from qpipe.cli import housekeeping

    housekeeping.clean_cache(kind, older_than, keep_mb, dry_run, cache, as_json)


@devices_app.command("list")
def devices_list(inventory: DevicesFile = None, db: Db = DB, as_json: Json = False) -> None:
    """The devices of the inventory and what they said when last checked."""
    from qpipe.cli import lab

    lab.devices(inventory, db, as_json)


@devices_app.command("check")
def devices_check(
    names: Annotated[list[str] | None, typer.Argument(help="Devices; all otherwise.", show_default=False)] = None,
    inventory: DevicesFile = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Reach devices, and record what they are."""
    from qpipe.cli import lab

    lab.check(names or [], inventory, db, as_json)


@devices_app.command("clean")
def devices_clean(
    names: Annotated[list[str], typer.Argument(help="The devices to clean.", show_default=False)],
    inventory: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Remove all that qpipe stored on devices; a later run sends again what it needs."""
    from qpipe.cli import lab

    lab.clean(names, inventory, as_json)
