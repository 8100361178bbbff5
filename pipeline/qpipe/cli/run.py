"""qpipe run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

import qpipe
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
from qpipe.cli.recipe_settings import parse_keep, parse_limits, parse_settings
from qpipe.cli.tables import print_json

if TYPE_CHECKING:
    from collections.abc import Callable


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
    from qpipe.cli.progress_display import open_display
    from qpipe.cli.run_summary import print_run_summary

    command = _continue_command()
    try:
        # the display starts before the recipe is read: plugins take seconds on a slow machine
        with open_display(is_quiet=quiet) as display:
            steps = _StepLogs(display.announce)

            def listen(event: qpipe.Event) -> None:
                display.event(event)
                if verbose:
                    steps.show(event)

            loaded = qpipe.load(
                recipe, set=parse_settings(settings), inventory=inventory, db=db, cache=cache
            )
            finished = loaded.run(
                devices=device or (),
                only=only or (),
                smoke=smoke,
                new=new,
                limits=parse_limits(minima, maxima),
                keep=parse_keep(keep),
                retries=retries,
                wait_s=parse_duration("--wait", wait, may_be_zero=True),
                cluster=cluster,
                tags=tag or (),
                progress=listen,
                notify=display.announce,
                on_start=steps.set_run,
            )
    except KeyboardInterrupt:
        message = f"interrupted; finished steps are kept, continue with: {command}"
        print(f"\nqpipe: {message}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    results = finished.judged(knee=knee)
    if as_json:
        print_json(finished.to_dict(results))
    else:
        print_run_summary(finished, results, command, cache=cache)
    if finished.state != "done":
        sys.exit(1)


def _continue_command() -> str:
    """Return the command that continues this run: the same, but not with a new run."""
    import shlex

    words = [word for word in sys.argv[1:] if word != "--new"]
    return shlex.join(["qpipe", *words])


class _StepLogs:
    """Shows what steps of a run have logged, as they end."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.announce = announce
        self.run: qpipe.Run | None = None

    def set_run(self, run: qpipe.Run) -> None:
        """Note which run it is, once there is one."""
        self.run = run

    def show(self, event: qpipe.Event) -> None:
        """Print the log of a step whose attempt has ended."""
        if self.run is not None and event.what in ("done", "failed", "retry"):
            for line in self.run.log(event.step).splitlines():
                self.announce(f"  {line}")
