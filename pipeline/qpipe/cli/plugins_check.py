"""qpipe plugins check."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpipe.cli.parameters import JsonOption
from qpipe.cli.tables import print_json, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qpipe.stages.registry import Stage
    from qpipe.testing import CheckResult
    from qpipe.testing.plugin_choice import ChosenPlugins


def plugins_check(
    name: Annotated[
        str,
        typer.Argument(
            help="A stage, a device driver, a plugin, a distribution, or a plugin file.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None, typer.Option(help="The kind, where stages of several have the name.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Set an option of what is checked, as a recipe would; repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check plugins against the contracts of their kinds; exit status 1 where one fails.

    A device is cleaned: what qpipe stored there is sent again when it is needed.
    """
    from qpipe.testing.plugin_choice import choose_plugins

    chosen = choose_plugins(name, kind)
    values = _parse_options(settings or [], chosen.stages)
    with _without_warnings():
        results = [*chosen.loaded, *_check_stages(chosen, values)]
    counts = Counter(result.state for result in results)
    if as_json:
        print_json([vars(result) for result in results])
    else:
        rows = [
            (f"{result.kind} {result.stage}", result.check, result.state, result.detail)
            for result in results
        ]
        print_table(("stage", "check", "result", "detail"), rows)
        print_text("\n" + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    if counts["failed"]:
        sys.exit(1)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out what stages log of a trial network: it helps nobody."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _check_stages(chosen: ChosenPlugins, values: Mapping[str, Any]) -> Iterator[CheckResult]:
    """Hold each stage to the requirements of its kind, with the values of its options."""
    from qpipe.stages.options import options
    from qpipe.testing import Subject, checks_of

    for stage in chosen.stages:
        declared = options(stage.function)
        own_values = {option: value for option, value in values.items() if option in declared}
        for check in checks_of(Subject(stage, chosen.plugins, own_values)):
            yield check.result()


def _parse_options(settings: Sequence[str], stages: Sequence[Stage]) -> dict[str, Any]:
    """Return options by name, their values read as YAML; RecipeError where no stage has one."""
    from pathlib import Path

    from qpipe.cli.recipe_settings import parse_settings
    from qpipe.errors import RecipeError, suggest
    from qpipe.recipe import yaml_document
    from qpipe.stages.options import options

    declared = {option for stage in stages for option in options(stage.function)}
    values = {}
    for option, text in parse_settings(settings).items():
        if option not in declared:
            raise RecipeError(f"--set {option}: no such option; {suggest(option, declared)}")
        values[option] = yaml_document.parse(text, Path(f"--set {option}")).root
    return values
