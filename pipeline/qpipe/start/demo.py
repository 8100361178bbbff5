"""The shipped recipes, and the demo made of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path

from qpipe.errors import RecipeError

RECIPE = "mobilenet_ssd.yaml"
SHIPPED_SUFFIXES = (".yaml", ".onnx", ".md")
USER_FILES = ("devices.yaml",)  # what a user may have put beside the recipes


def recipes(package: Traversable | None = None) -> Traversable:
    """Return the folder of shipped recipes: in an installed package, or beside it in a clone."""
    home = files("qpipe") if package is None else package
    installed = home / "recipes"
    if installed.is_dir() or not isinstance(home, Path):
        return installed
    return home.resolve().parents[1] / "recipes"


def unpack(folder: Path, force: bool = False) -> Path:
    """Copy the demo into a folder and return the recipe to run.

    Raise RecipeError where the folder has content, unless with `force`.
    """
    is_free = _is_free(folder)
    if not is_free and not (force and folder.is_dir()):
        fix = "give another --out, or --force to write into it"
        raise RecipeError(f"{folder}: exists already; {fix}")
    shipped = dict(_shipped_files(recipes()))
    if RECIPE not in shipped:
        fix = "install qpipe again, or run it in a clone of its repository"
        raise RecipeError(f"the demo is not installed; {fix}")
    # written aside and renamed, so that nothing half-written remains
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for name, content in shipped.items():
            file = aside / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read_bytes())
        if is_free:
            aside.replace(folder)
        else:
            shutil.copytree(aside, folder, dirs_exist_ok=True)
    except OSError as error:
        raise RecipeError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder / RECIPE


def _is_free(folder: Path) -> bool:
    if not folder.exists():
        return True
    return folder.is_dir() and not any(folder.iterdir())


def _shipped_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield the shipped files of a folder, and of the folders in it, by relative name."""
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            if not prefix and not entry.name.startswith("."):
                yield from _shipped_files(entry, f"{name}/")
        elif entry.name.endswith(SHIPPED_SUFFIXES) and entry.name not in USER_FILES:
            yield name, entry
