"""qpipe nightly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    ClusterOption,
    DbOption,
    JsonOption,
)
from qpipe.cli.tables import print_json, print_text

if TYPE_CHECKING:
    from qpipe.nightly.lab_file import Lab
    from qpipe.nightly.night import NightReport


def nightly(
    lab: Annotated[
        Path, typer.Argument(metavar="LAB", help="The lab file (YAML).", show_default=False)
    ],
    init: Annotated[
        bool,
        typer.Option(
            "--init",
            help="Write the lab file from the devices and recipes that are there, a systemd timer "
            "with its service, and a job for CI.",
        ),
    ] = False,
    cluster: ClusterOption = "",
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Run the recipes of a lab on its devices, and say what moved since the nights before.

    Exit status 3 where a change for the worse is confirmed and not acknowledged, 1 where something
    failed or was not done. A night that was cut goes on.
    """
    if init:
        for path in _write_lab(lab):
            print_text(f"wrote {path}")
        return
    from dataclasses import replace

    from qpipe.nightly.lab_file import read_lab
    from qpipe.nightly.night_page import markdown, write_pages
    from qpipe.recipe.recipe import check_cluster

    checked_lab = read_lab(lab)
    if cluster:
        check_cluster(cluster, "--cluster")
        checked_lab = replace(checked_lab, cluster=cluster)
    report = _run_night(checked_lab, db, cache)
    page = write_pages(report, checked_lab.pages)
    if as_json:
        print_json(_to_json(report, page))
    else:
        print_text(markdown(report))
        print_text(f"page: {page}")
    _tell_people(checked_lab, report)
    sys.exit(report.status)


def _run_night(lab: Lab, db: Path, cache: Path) -> NightReport:
    from datetime import UTC, datetime

    from qpipe.cli.progress_display import open_display
    from qpipe.nightly.night import Night
    from qpipe.storage.nights import NightStore

    with open_display() as display, NightStore(db) as store:
        night = Night(
            lab,
            store,
            cache,
            clock=lambda: datetime.now(UTC),
            listen=display.event,
            notify=display.announce,
        )
        try:
            return night.run()
        except KeyboardInterrupt:
            display.announce("interrupted; what is done is kept, the same command goes on")
            sys.exit(130)


def _tell_people(lab: Lab, report: NightReport) -> None:
    from qpipe.nightly.night_page import markdown
    from qpipe.nightly.notification import notify_people

    if not lab.notify:
        return
    problem = notify_people(lab.notify, markdown(report))
    if problem:
        print(f"qpipe: {problem}", file=sys.stderr)  # noqa: T201


def _write_lab(file: Path) -> list[Path]:
    from qpipe.errors import RecipeError
    from qpipe.nightly.lab_start import write_lab
    from qpipe.recipe import inventory
    from qpipe.recipe.recipe import KEYS, REQUIRED_KEYS
    from qpipe.recipe.yaml_document import read
    from qpipe.stages import registry

    folder = file.parent
    recipes = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("recipes/*.yaml")]):
        try:
            root = read(path).root
        except RecipeError:
            continue
        if isinstance(root, dict) and root.keys() <= set(KEYS) and {*REQUIRED_KEYS} <= root.keys():
            recipes.append(path)
    if not recipes:
        raise RecipeError(f"{folder}: there is no recipe here; write one with: qpipe new")
    devices = inventory.load(inventory.find(None, folder), registry.load())
    boards = [name for name in devices if name != inventory.LOCAL]
    return write_lab(file, recipes=recipes, devices=boards or [inventory.LOCAL])


def _to_json(report: NightReport, page: Path) -> dict[str, object]:
    return {
        "lab": report.lab,
        "night": report.night,
        "status": report.status,
        "started": report.started.isoformat(),
        "finished": report.finished.isoformat(),
        "findings": list(report.findings),
        "canaries": list(report.canaries),
        "runs": report.runs,
        "missed": list(report.missed),
        "page": str(page),
    }
