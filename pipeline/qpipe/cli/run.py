"""qpipe run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.durations import parse_duration
from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    ClusterOption,
    DbOption,
    JsonOption,
    KeepOption,
    KneeOption,
    MaxOption,
    MinOption,
    OnlyOption,
    RecipeArgument,
    RecipeDevicesOption,
    RecipeInventoryOption,
    SettingsOption,
    SmokeOption,
)
from qpipe.cli.recipe_settings import parse_keep, parse_settings
from qpipe.cli.tables import print_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qpipe.engine.events import Event
    from qpipe.engine.request import Request
    from qpipe.engine.run import Finished


def run(
    recipe: RecipeArgument,
    settings: SettingsOption = None,
    device: RecipeDevicesOption = None,
    only: OnlyOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    smoke: SmokeOption = False,
    new: Annotated[
        bool, typer.Option("--new", help="Start a new run, even if an earlier one is unfinished.")
    ] = False,
    retries: Annotated[
        int,
        typer.Option(
            "--retries",
            min=0,
            metavar="N",
            help="How often to retry a step after its device or the connection failed.",
        ),
    ] = 2,
    wait: Annotated[
        str,
        typer.Option(
            "--wait",
            metavar="TIME",
            help="How long to wait for a device that others use, such as 10m; 0s: not at all.",
        ),
    ] = "1h",
    cluster: ClusterOption = "",
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="Give the run a tag, a name of your choice; repeatable."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the results and nothing of the progress.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print what each step has logged, too.")
    ] = False,
    minima: MinOption = None,
    maxima: MaxOption = None,
    keep: KeepOption = None,
    knee: KneeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe: quantize, deploy, measure and compare."""
    from qpipe.cli.run_summary import print_run_summary
    from qpipe.engine.request import Request
    from qpipe.recipe.limits import read_limits
    from qpipe.recipe.yaml_document import checked_name
    from qpipe.report.run_document import run_document
    from qpipe.report.run_results import read_results
    from qpipe.storage.results import Store

    tags = [checked_name(name, "run --tag", "tag") for name in tag or ()]
    limits = read_limits(minima or [], maxima or [])
    request = Request(
        recipe=recipe,
        settings=parse_settings(settings),
        devices=device or (),
        only=only or (),
        inventory=inventory,
        db=db,
        cache=cache,
        new=new,
        smoke=smoke,
        retries=retries,
        wait_s=parse_duration("--wait", wait, may_be_zero=True),
        limits=limits,
        keep=parse_keep(keep),
        cluster=cluster,
    )
    command = _continue_command()
    try:
        finished = _run_with_display(request, is_quiet=quiet, is_verbose=verbose)
    except KeyboardInterrupt:
        message = f"interrupted; finished steps are kept, continue with: {command}"
        print(f"\nqpipe: {message}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    with Store(db) as store:
        store.tag(finished.run, tags)
        if as_json:
            results = read_results(store, finished.run, limits, request.keep, is_knee=knee)
            print_json(run_document(store, results))
        else:
            print_run_summary(store, finished, request, command, is_knee=knee)
    if finished.state != "done":
        sys.exit(1)


def _continue_command() -> str:
    """Return the command that continues this run: the same, but not with a new run."""
    import shlex

    words = [word for word in sys.argv[1:] if word != "--new"]
    return shlex.join(["qpipe", *words])


def _run_with_display(request: Request, *, is_quiet: bool, is_verbose: bool) -> Finished:
    from qpipe.cli.progress_display import open_display
    from qpipe.engine.request import resolve_request
    from qpipe.engine.run import run_recipe
    from qpipe.storage.results import Store

    # the display starts before the recipe is read: loading plugins takes seconds on a slow machine
    with open_display(is_quiet=is_quiet) as display:
        logs = _StepLogs(request.db, display.announce)
        resolved = resolve_request(request)

        def listen(event: Event) -> None:
            display.event(event)
            if is_verbose:
                logs.show(event)

        with Store(request.db) as store:
            return run_recipe(resolved, store, listen, display.announce, on_open=logs.set_run)


class _StepLogs:
    """Shows what steps of a run have logged, as they end."""

    def __init__(self, db: Path, announce: Callable[[str], None]) -> None:
        self.db = db
        self.announce = announce
        self.run = ""

    def set_run(self, run: str) -> None:
        """Note which run it is, once there is one."""
        self.run = run

    def show(self, event: Event) -> None:
        """Print the log of a step whose attempt has ended."""
        from qpipe.engine.request import run_folder
        from qpipe.engine.step_log import read_log

        if event.what in ("done", "failed", "retry"):
            for line in read_log(run_folder(self.db, self.run), event.step).splitlines():
                self.announce(f"  {line}")
