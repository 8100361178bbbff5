"""The commands assembled. Imports nothing heavy: help must be fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from qpipe.cli.cache import cache
from qpipe.cli.cache_clean import cache_clean
from qpipe.cli.compare import compare
from qpipe.cli.db_merge import db_merge
from qpipe.cli.describe import describe
from qpipe.cli.devices_add import devices_add
from qpipe.cli.devices_check import devices_check
from qpipe.cli.devices_clean import devices_clean
from qpipe.cli.devices_clear import devices_clear
from qpipe.cli.devices_hold import devices_hold
from qpipe.cli.devices_list import devices_list
from qpipe.cli.devices_log import devices_log
from qpipe.cli.devices_power import devices_power
from qpipe.cli.devices_rekey import devices_rekey
from qpipe.cli.devices_release import devices_release
from qpipe.cli.devices_setup import devices_setup
from qpipe.cli.diagnose import diagnose
from qpipe.cli.doctor import doctor
from qpipe.cli.export import export
from qpipe.cli.findings import findings
from qpipe.cli.new import new
from qpipe.cli.nightly import nightly
from qpipe.cli.pareto import pareto
from qpipe.cli.plan import plan
from qpipe.cli.plugins import plugins
from qpipe.cli.plugins_check import plugins_check
from qpipe.cli.plugins_new import plugins_new
from qpipe.cli.report import report
from qpipe.cli.run import run
from qpipe.cli.runs import runs
from qpipe.cli.runs_tag import runs_tag
from qpipe.cli.samples import samples
from qpipe.cli.schema import schema
from qpipe.cli.search import search
from qpipe.cli.serve import serve
from qpipe.cli.show import show
from qpipe.cli.trend import trend
from qpipe.cli.why import why

Command = Callable[..., Any]

STARTING = "Starting"
RUNNING = "Running"
RESULTS = "Results"
PARTS = "Parts"

# by the heading that help shows them under, in its order
COMMANDS: dict[str, tuple[Command, ...]] = {
    STARTING: (new, doctor, schema),
    RUNNING: (run, nightly, search, plan, why, samples),
    RESULTS: (pareto, report, compare, findings, trend, diagnose, export, show, serve),
    PARTS: (describe,),
}
DEVICE_COMMANDS: dict[str, Command] = {
    "list": devices_list,
    "add": devices_add,
    "rekey": devices_rekey,
    "check": devices_check,
    "setup": devices_setup,
    "clean": devices_clean,
    "hold": devices_hold,
    "release": devices_release,
    "clear": devices_clear,
    "log": devices_log,
    "power": devices_power,
}


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from qpipe import __version__

        typer.echo(f"qpipe {__version__}")
        raise typer.Exit


def qpipe(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Find out which quantization scheme to ship on a board.

    qpipe runs every scheme on your network, measures it on the board, and shows the evidence.
    """


def _assemble() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(qpipe)
    for heading, commands in COMMANDS.items():
        for command in commands:
            app.command(rich_help_panel=heading)(command)
    app.add_typer(_runs_group(), name="runs", rich_help_panel=RESULTS)
    app.add_typer(_db_group(), name="db", rich_help_panel=RESULTS)
    app.add_typer(_plugins_group(), name="plugins", rich_help_panel=PARTS)
    app.add_typer(_cache_group(), name="cache", rich_help_panel=PARTS)
    app.add_typer(_devices_group(), name="devices", rich_help_panel=PARTS)
    return app


def _runs_group() -> typer.Typer:
    group = typer.Typer(invoke_without_command=True)
    group.callback()(runs)
    group.command("tag")(runs_tag)
    return group


def _db_group() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help="Manage the database of results.")
    group.command("merge")(db_merge)
    return group


def _plugins_group() -> typer.Typer:
    group = typer.Typer(invoke_without_command=True)
    group.callback()(plugins)
    group.command("check")(plugins_check)
    group.command("new")(plugins_new)
    return group


def _cache_group() -> typer.Typer:
    group = typer.Typer(invoke_without_command=True)
    group.callback()(cache)
    group.command("clean")(cache_clean)
    return group


def _devices_group() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help="Manage the devices to measure on.")
    for name, command in DEVICE_COMMANDS.items():
        group.command(name)(command)
    return group


app = _assemble()
