"""LAB.yaml: which recipes run every night on which devices, until when, and who is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

from qpipe.errors import RecipeError, suggest
from qpipe.recipe import inventory, pools, recipe, yaml_document
from qpipe.recipe.yaml_document import Document

KEYS = ("name", "recipes", "devices", "inventory", "cluster", "until", "notify", "keep", "pages")
RECIPE_KEYS = ("recipe", "devices", "only", "set")
PAGES = "nights"
CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
DAYS = re.compile(r"(\d+)d")
MINUTES_PER_HOUR = 60


@dataclass(frozen=True)
class NightlyRecipe:
    """A recipe of a lab, and what the lab says beside it."""

    name: str  # as the lab names it
    path: Path
    devices: Sequence[str] = ()  # empty: those of the lab, or else of the recipe
    only: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lab:
    """A lab file, checked; paths are absolute or relative to the working directory."""

    name: str
    path: Path
    recipes: Sequence[NightlyRecipe]
    inventory: Path | None
    pages: Path
    until: time | None = None
    cluster: str = ""  # whose workers carry out steps of the host; empty as each recipe says
    notify: str = ""  # a command line of the shell
    keep_raw: timedelta | None = None  # raw values of older measurements are dropped

    def deadline(self, started: datetime) -> datetime | None:
        """Return when a night that started then is over; None where it may take any time."""
        if self.until is None:
            return None
        deadline = started.replace(
            hour=self.until.hour, minute=self.until.minute, second=0, microsecond=0
        )
        return deadline if deadline > started else deadline + timedelta(days=1)


def read_lab(path: Path) -> Lab:
    """Read a lab file; raise RecipeError for whatever is wrong in it."""
    source = yaml_document.read(path)
    root = yaml_document.substitute(source, {}, skip="")
    if not isinstance(root, dict):
        raise RecipeError(f"{source.at()}: a lab is a map of {', '.join(KEYS)}")
    for key in root:
        if key not in KEYS:
            raise RecipeError(f"{source.at(key)}: unknown key '{key}'; {suggest(str(key), KEYS)}")
    return _Reader(source, root).lab()


class _Reader:
    """Converts the keys of one lab file."""

    def __init__(self, source: Document, root: Mapping[str, Any]) -> None:
        self.source = source
        self.root = root
        self.folder = source.path.parent

    def lab(self) -> Lab:
        devices = self.words(self.root.get("devices"), "devices")
        return Lab(
            name=yaml_document.checked_name(
                self.root.get("name", self.source.path.stem), self.source.at("name"), "lab"
            ),
            path=self.source.path,
            recipes=self.recipes(devices),
            inventory=self.inventory(),
            pages=self.folder / self.text("pages", PAGES),
            cluster=self.cluster(),
            until=self.until(),
            notify=self.text("notify", ""),
            keep_raw=self.keep_raw(),
        )

    def recipes(self, devices: Sequence[str]) -> list[NightlyRecipe]:
        entries = self.root.get("recipes")
        if not isinstance(entries, list) or not entries:
            reason = "recipes is missing" if entries is None else f"recipes is {entries!r}"
            raise RecipeError(f"{self.source.at('recipes')}: {reason}; give a list of recipe files")
        recipes = [self.recipe(entry, index, devices) for index, entry in enumerate(entries)]
        names = [recipe.name for recipe in recipes]
        for index, name in enumerate(names):
            if name in names[:index]:
                where = self.source.at("recipes", index)
                raise RecipeError(f"{where}: '{name}' is there twice; put its devices together")
        return recipes

    def recipe(self, entry: Any, index: int, devices: Sequence[str]) -> NightlyRecipe:
        where = self.source.at("recipes", index)
        fields = {"recipe": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, dict) or not isinstance(fields.get("recipe"), str):
            raise RecipeError(f"{where}: {entry!r}; give a file, or {{recipe: FILE, devices: ...}}")
        for key in fields:
            if key not in RECIPE_KEYS:
                raise RecipeError(f"{where}: unknown key '{key}'; {suggest(str(key), RECIPE_KEYS)}")
        path = self.folder / fields["recipe"]
        if not path.is_file():
            fix = "give it relative to the lab file"
            raise RecipeError(f"{where}: no such recipe '{fields['recipe']}'; {fix}")
        settings = fields.get("set", {})
        if not isinstance(settings, dict):
            raise RecipeError(f"{where}: set is {settings!r}; give a map such as {{bits: 4}}")
        return NightlyRecipe(
            fields["recipe"],
            path,
            self.words(fields.get("devices"), "recipes", index, "devices") or devices,
            self.words(fields.get("only"), "recipes", index, "only"),
            {name: str(value) for name, value in settings.items()},
        )

    def words(self, value: Any, *steps: str | int) -> list[str]:
        """Read a list of names; devices may be pools."""
        words = [] if value is None else value
        if not isinstance(words, list):
            words = [words]
        return [pools.checked_word(word, self.source.at(*steps)) for word in words]

    def inventory(self) -> Path | None:
        name = self.text("inventory", "")
        path = self.folder / (name or inventory.FILE)
        if name and not path.is_file():
            raise RecipeError(f"{self.source.at('inventory')}: no such file '{name}'")
        return path if path.is_file() else None

    def cluster(self) -> str:
        address = self.text("cluster", "")
        recipe.check_cluster(address, self.source.at("cluster"))
        return address

    def until(self) -> time | None:
        value = self.root.get("until")
        if value is None:
            return None
        if isinstance(value, int):  # YAML reads 16:30 as a number of base 60
            value = f"{value // MINUTES_PER_HOUR}:{value % MINUTES_PER_HOUR:02}"
        match = CLOCK.fullmatch(str(value))
        if match is None:
            where = self.source.at("until")
            raise RecipeError(f"{where}: until is {value!r}; give a time of day, such as '06:00'")
        return time(int(match[1]), int(match[2]))

    def keep_raw(self) -> timedelta | None:
        value = self.root.get("keep")
        if value is None:
            return None
        match = DAYS.fullmatch(str(value.get("raw"))) if isinstance(value, dict) else None
        if match is None or value.keys() != {"raw"}:
            where = self.source.at("keep")
            raise RecipeError(f"{where}: keep is {value!r}; give days of raw values: {{raw: 30d}}")
        return timedelta(days=int(match[1]))

    def text(self, key: str, default: str) -> str:
        value = self.root.get(key, default)
        if not isinstance(value, str):
            raise RecipeError(f"{self.source.at(key)}: {key} is {value!r}; give text")
        return value
