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
    run: Annotated[
        str, typer.Argument(help="A run's id, its beginning, or a tag it has.", show_default=False)
    ],
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
    others: Annotated[
        list[Path], typer.Argument(help="Databases of other machines.", show_default=False)
    ],
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
        float | None,
        typer.Option("--older-than", min=0, metavar="DAYS", help="Those unused for so long alone."),
    ] = None,
    keep_mb: Annotated[
        float | None,
        typer.Option(
            "--keep-mb", min=0, metavar="MB", help="The longest unused, until this is left."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    cache: CacheFolder = CACHE,
    as_json: Json = False,
) -> None:
    """Remove cached results, all or those that fit every option; what a run is using stays."""
    from qpipe.cli import housekeeping

    housekeeping.clean_cache(kind, older_than, keep_mb, dry_run, cache, as_json)


@devices_app.command("list")
def devices_list(inventory: DevicesFile = None, db: Db = DB, as_json: Json = False) -> None:
    """The devices of the inventory: what they said when last checked, their health, and who had them then."""
    from qpipe.cli import devices

    devices.show(inventory, db, as_json)


@devices_app.command("add")
def devices_add(
    name: Annotated[str, typer.Argument(help="What it is to be called.", show_default=False)],
    address: Annotated[
        str, typer.Argument(metavar="USER@HOST[:PORT]", help="Where it is.", show_default=False)
    ],
    key: Annotated[Path | None, typer.Option("--key", help="The key to log in with.")] = None,
    jump: Annotated[
        str | None, typer.Option("--jump", help="The host to go through, user@host:port.")
    ] = None,
    python: Annotated[str | None, typer.Option("--python", help="The Python to run there.")] = None,
    folder: Annotated[
        str | None, typer.Option("--folder", help="Where qpipe keeps its things there.")
    ] = None,
    driver: Annotated[str, typer.Option("--driver", help="The kind of device.")] = "ssh",
    yes: Annotated[bool, typer.Option("--yes", help="Trust what it shows without asking.")] = False,
    inventory: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Enrol a device: show its host key, ask, pin it, log in, and write it into devices.yaml."""
    from qpipe.cli import enrolling

    absolute = Path.cwd() / key.expanduser() if key else None
    given = {"key": absolute, "jump": jump, "python": python, "folder": folder}
    enrolling.add(name, address, driver, given, inventory, yes, as_json)


@devices_app.command("rekey")
def devices_rekey(
    name: Annotated[str, typer.Argument(help="A device of the inventory.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Trust what it shows without asking.")] = False,
    inventory: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Trust the host key that a device shows now, as after it was set up anew; the old one goes."""
    from qpipe.cli import enrolling

    enrolling.rekey(name, inventory, yes, as_json)


@devices_app.command("check")
def devices_check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Devices; all otherwise.", show_default=False)
    ] = None,
    inventory: DevicesFile = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Reach devices, say line by line what is ready and what to do about the rest, and record what they are."""
    from qpipe.cli import devices

    devices.check(names or [], inventory, db, as_json)


@devices_app.command("setup")
def devices_setup(
    name: Annotated[
        str,
        typer.Argument(help="The device, which needs no more than Python 3.8.", show_default=False),
    ],
    wheels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Take the wheels out of this folder alone.",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[==VERSION]",
            help="What to bring; onnxruntime, no newer than here, otherwise.",
        ),
    ] = None,
    use_system_runtime: Annotated[
        bool,
        typer.Option(
            "--use-system-runtime", help="Bring nothing: what is installed there is to be used."
        ),
    ] = False,
    inventory: DevicesFile = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Bring numpy and a runtime to a bare board, fetched here by pip, and prove them by a tiny int8 network."""
    from qpipe.cli import devices

    if use_system_runtime and (wheels or runtime):
        raise typer.BadParameter(
            "--use-system-runtime brings nothing: leave out --wheels and --runtime"
        )
    devices.setup(name, wheels, runtime, use_system_runtime, inventory, db, as_json)


@devices_app.command("clean")
def devices_clean(
    names: Annotated[list[str], typer.Argument(help="The devices to clean.", show_default=False)],
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", min=0, metavar="DAYS", help="What was unused for so long alone."
        ),
    ] = None,
    keep_mb: Annotated[
        float | None,
        typer.Option(
            "--keep-mb", min=0, metavar="MB", help="The longest unused, until this is left."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be freed.")
    ] = False,
    runtime: Annotated[
        bool, typer.Option("--runtime", help="Also the runtime that setup brought.")
    ] = False,
    inventory: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Remove what qpipe stored on devices; a later run sends again what it needs. What a run is using stays."""
    from qpipe.cli import devices

    devices.clean(names, older_than, keep_mb, dry_run, runtime, inventory, as_json)


@devices_app.command("hold")
def devices_hold(
    name: Annotated[str, typer.Argument(help="The device.", show_default=False)],
    lasting: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long: 45m, 2h, 1d.")
    ] = "8h",
    reason: Annotated[str, typer.Option("--reason", help="What for, for the others to read.")] = "",
    inventory: DevicesFile = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Keep all runs off a device, your own too, while you work at it by hand."""
    from qpipe.cli import holding

    holding.hold(name, lasting, reason, inventory, db, as_json)


@devices_app.command("release")
def devices_release(
    name: Annotated[str, typer.Argument(help="The device.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Even if somebody else holds it.")] = False,
    inventory: DevicesFile = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Let runs in again before a hold is over."""
    from qpipe.cli import holding

    holding.release(name, force, inventory, db, as_json)


@devices_app.command("clear")
def devices_clear(
    name: Annotated[str, typer.Argument(help="The device.", show_default=False)],
    note: Annotated[
        str, typer.Option("--note", help="What was done about it, for the trail.")
    ] = "",
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Let runs use a device again that is bad; the next one checks it."""
    from qpipe.cli import tending

    tending.clear(name, note, db, as_json)


@devices_app.command("log")
def devices_log(
    name: Annotated[str, typer.Argument(help="The device.", show_default=False)],
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """What became of a device, and why: its health, and each time its power was switched."""
    from qpipe.cli import tending

    tending.log(name, db, as_json)


@devices_app.command("power")
def devices_power(
    name: Annotated[str, typer.Argument(help="The device.", show_default=False)],
    action: Annotated[
        str, typer.Argument(metavar="on|off|cycle", help="What to do.", show_default=False)
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Even if somebody is at it, whose work is lost.")
    ] = False,
    inventory: DevicesFile = None,
    db: Db = DB,
) -> None:
    """Switch a device by the power option of the inventory, and look that it follows."""
    from qpipe.cli import tending

    tending.power(name, action, force, inventory, db)
