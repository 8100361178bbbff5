"""Sweeps: a scheme of which a stage takes several values becomes a scheme for each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from qpipe.errors import RecipeError
from qpipe.recipe.yaml_document import Document, Steps

EXAMPLE = "{sweep: {bits: [4, 6, 8]}}"
MOST_ROWS = 200  # that a scheme becomes: more take days to measure

Chain = Sequence[Any]  # stages as they are written
Setting = tuple[int, str, Any]  # the position of a stage, an option of it, and its value


@dataclass(frozen=True)
class WrittenChain:
    """A chain of stages as it is written, without sweeps."""

    scheme: str  # the scheme of the recipe that it stands in
    stages: Chain


def expand(source: Document, schemes: Mapping[str, Any]) -> dict[str, WrittenChain]:
    """Return the chain of each scheme by name; a swept one is there once for each combination.

    A name tells the swept values in the order of the recipe: `int-bits4-channel`.
    """
    chains: dict[str, WrittenChain] = {}
    for scheme, value in schemes.items():
        written = value if isinstance(value, list) else [value]
        stages = [] if value is None else written
        for settings in _combinations(source, scheme, stages):
            name = "-".join([scheme, *(_part(option, item) for _, option, item in settings)])
            if name in chains:
                where = source.at("schemes", scheme)
                raise RecipeError(f"{where}: two schemes are named '{name}'; rename one of them")
            chains[name] = WrittenChain(scheme, _with_settings(stages, settings))
    return chains


def _combinations(source: Document, scheme: str, stages: Chain) -> list[tuple[Setting, ...]]:
    """Return all combinations of the swept values; a single empty one without sweeps."""
    alternatives: list[list[Setting]] = []
    count = 1
    for position, stage in enumerate(stages):
        for option, values in _sweep(source, stage, ("schemes", scheme, position)).items():
            alternatives.append([(position, option, value) for value in values])
            count *= len(values)
    if count > MOST_ROWS:
        where = source.at("schemes", scheme)
        reason = f"the sweeps of '{scheme}' make {count} schemes"
        raise RecipeError(
            f"{where}: {reason}, at most {MOST_ROWS} are allowed; give fewer values, or let "
            "qpipe search choose"
        )
    return list(product(*alternatives))


def _sweep(source: Document, stage: Any, steps: Steps) -> Mapping[str, Sequence[Any]]:
    """Return the values of each swept option of a stage."""
    if not isinstance(stage, dict) or "sweep" not in stage or len(stage) < 2:
        return {}
    sweep = stage["sweep"]
    where = source.at(*steps, "sweep")
    if not isinstance(sweep, dict) or not sweep:
        raise RecipeError(f"{where}: sweep is {sweep!r}; give options with their values: {EXAMPLE}")
    for option, values in sweep.items():
        where = source.at(*steps, "sweep", option)
        if not isinstance(values, list) or not values:
            raise RecipeError(f"{where}: sweep of '{option}' is {values!r}; give a list: {EXAMPLE}")
        texts = [_part(option, value) for value in values]
        if len(set(texts)) < len(texts):
            raise RecipeError(f"{where}: sweep of '{option}' has a value twice; give it once")
        if option in _options(stage):
            reason = f"option '{option}' has a value and is swept"
            raise RecipeError(f"{where}: {reason}; remove one of both")
    return sweep


def _options(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options that are written of a stage with a sweep."""
    written = next(value for name, value in stage.items() if name != "sweep")
    return written if isinstance(written, dict) else {}


def _with_settings(stages: Chain, settings: Sequence[Setting]) -> Chain:
    """Return the stages without their sweeps, and with these values."""
    swept: dict[int, dict[str, Any]] = {}
    for position, option, value in settings:
        swept.setdefault(position, {})[option] = value
    return [
        _with_options(stage, swept[position]) if position in swept else stage
        for position, stage in enumerate(stages)
    ]


def _with_options(stage: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage without its sweep, and with the values of swept options."""
    others = {name: value for name, value in stage.items() if name != "sweep"}
    name = next(iter(others))
    if others[name] is None or isinstance(others[name], dict):
        others[name] = {**(others[name] or {}), **values}
    return others


def _part(option: str, value: Any) -> str:
    """Return what a value adds to the name of its scheme: a text itself, or bits4."""
    items = value if isinstance(value, list) else [value]
    text = ".".join(str(item).lower() for item in items)
    name = text if isinstance(value, str) else f"{option}{text}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
