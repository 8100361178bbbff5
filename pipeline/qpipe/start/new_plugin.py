"""`qpipe plugins new`: write a distribution with a plugin that works, tests and all."""

from __future__ import annotations

import keyword
import os
import re
import shutil
from importlib.resources import files
from pathlib import Path
from string import Template

import qpipe
from qpipe.errors import RecipeError, suggest
from qpipe.stages import registry
from qpipe.stages.registry import Registry

TEMPLATES = "plugin_templates"
SHARED = "shared"
SUFFIX = ".template"
NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
LONGEST_NAME = 50
TESTS = "test.py"
# how a recipe, or devices.yaml, uses a plugin of each kind
USAGE = {
    "quantize": "schemes: {mine: [$function, activations]}",
    "transform": "schemes: {mine: [$function, symmetric]}",
    "metric": "measure: [{accuracy: {metric: $function}}]",
    "samples": "samples: {$function: {calibration: FOLDER, evaluation: FOLDER}}",
    "compile": "builds: {mine: $function}",
    "device": "box: {$function: {command: [docker, exec, -i, box]}}",
    "measure": "measure: [$function]",
    "postprocess": "measure: [{accuracy: {postprocess: $function, metric: agreement}}]",
    "import": "models: {mine: {$function: {path: weights.npz}}}",
}


def write_new_plugin(name: str, kind: str, folder: Path) -> Path:
    """Write the distribution qpipe-NAME into a new folder of that name below `folder`.

    Raise RecipeError for a name that is none, or is taken, a kind without a template, and a folder
    that exists.
    """
    if kind not in USAGE:
        raise RecipeError(f"--kind {kind}: no template of this kind; {suggest(kind, USAGE)}")
    function = _function_name(name)
    _check_is_free(registry.load(), kind, function)
    title = function.replace("_", "-")
    target = folder / f"qpipe-{title}"
    if target.exists():
        raise RecipeError(f"{target}: exists already; give another name, or --out FOLDER")
    words = {
        "kind": kind,
        "function": function,
        "title": title,
        "package": f"qpipe_{function}",
        "version": qpipe.__version__,
    }
    words["place"] = "In devices.yaml:" if kind == "device" else "In a recipe:"
    words["usage"] = Template(USAGE[kind]).substitute(words)
    # written aside and renamed, so that nothing half-written remains
    aside = folder / f".{target.name}.{os.getpid()}"
    try:
        _write_files(kind, words, aside)
        aside.replace(target)
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _function_name(name: str) -> str:
    """Return the name as that of a function; raise RecipeError where it cannot be one."""
    is_name = len(name) <= LONGEST_NAME and NAME.fullmatch(name) is not None
    if not is_name or keyword.iskeyword(name):
        fix = f"give up to {LONGEST_NAME} small letters, digits, - and _, such as my-rounding"
        raise RecipeError(f"'{name}' is no name of a plugin; {fix}")
    return name.replace("-", "_")


def _check_is_free(plugins: Registry, kind: str, function: str) -> None:
    """Raise RecipeError where a stage of the kind has the name."""
    taken = plugins.devices if kind == "device" else plugins.names(kind)
    if function in taken:
        raise RecipeError(f"there is a {kind} '{function}' already; give another name")


def _write_files(kind: str, words: dict[str, str], folder: Path) -> None:
    templates = files("qpipe.start") / TEMPLATES
    package = folder / words["package"]
    for home in (templates / SHARED, templates / kind):
        for template in home.iterdir():
            file_name = template.name.removesuffix(SUFFIX)
            file = (folder if home.name == SHARED else package) / file_name
            if file_name == TESTS:
                file = folder / "tests" / f"test_{words['function']}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            text = Template(template.read_text(encoding="utf-8")).substitute(words)
            file.write_text(text, encoding="utf-8")
