"""The recipes that travel with qpipe, and the demo made of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path

from qpipe.errors import RecipeError

RECIPE = "mobilenet_ssd.yaml"
TAKEN = (".yaml", ".onnx", ".md")
OWN = ("devices.yaml",)  # what a user may have put beside them


def recipes(package: Traversable | None = None) -> Traversable:
    """The folder of shipped recipes: in the package where it was installed from a wheel, beside it in a clone."""
    home = files("qpipe") if package is None else package
    inside = home / "recipes"
    if inside.is_dir() or not isinstance(home, Path):
        return inside
    return home.resolve().parents[1] / "recipes"


def unpack(folder: Path, force: bool = False) -> Path:
    """Copy the demo into a folder; the recipe to run. RecipeError where something lies there already."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (force and folder.is_dir()):
        raise RecipeError(
            f"{folder}: exists already; give another --out, or --force to write into it"
        )
    shipped = dict(_files(recipes()))
    if RECIPE not in shipped:
        raise RecipeError(
            "the demo is not installed; install qpipe again, or run it in a clone of its repository"
        )
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


def _files(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for each in folder.iterdir():
        name = above + each.name
        if each.is_dir() and not above and not each.name.startswith("."):
            yield from _files(each, f"{name}/")
        elif each.name.endswith(TAKEN) and each.name not in OWN:
            yield name, each
