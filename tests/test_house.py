"""The project itself: what is exported, what is helped, what is imported where, what the wheel holds."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer

import qpipe
from qpipe import hookspecs
from qpipe.recipe import recipe
from qpipe.stages import registry

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for root in ("pipeline", "plugins", "devices")
    for path in sorted((ROOT / root).rglob("*.py"))
]
HEAVY = [
    "numpy",
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "paramiko",
    "sqlite_utils",
    "pycocotools",
    "PIL",
    "yaml",
]


def imports(path: Path) -> set[str]:
    """The top-level names of all that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def importers(of: str) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in SOURCES if of in imports(path)]


def test_every_name_that_is_exported_is_there() -> None:
    assert qpipe.__all__ == sorted(qpipe.__all__)
    for name in qpipe.__all__:
        assert getattr(qpipe, name) is not None, name
    assert dir(qpipe) == qpipe.__all__
    with pytest.raises(AttributeError, match="module 'qpipe' has no attribute 'Samplse'"):
        qpipe.Samplse  # noqa: B018


def test_what_type_checkers_see_is_what_is_exported() -> None:
    tree = ast.parse((ROOT / "pipeline/qpipe/__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen | {"__version__"} == set(qpipe.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert qpipe.__version__ == version("qpipe-edge")


def test_every_hook_says_what_it_is_for() -> None:
    hooks = [value for value in vars(hookspecs).values() if hasattr(value, "qpipe_spec")]
    assert len(hooks) >= 3
    assert all(hook.__doc__ for hook in hooks)


def test_every_command_and_each_of_its_options_has_help() -> None:
    from qpipe.cli.app import app

    group = typer.main.get_command(app)
    left = [("qpipe", group)]
    while left:
        name, command = left.pop()
        assert command.help, name
        left += [(f"{name} {word}", sub) for word, sub in getattr(command, "commands", {}).items()]
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name}"


def test_every_stage_and_device_says_what_it_does() -> None:
    found = registry.load()
    assert not found.broken
    for stage in [*found.stages.values(), *found.devices.values()]:
        assert stage.help.endswith("."), f"{stage.kind} {stage.name}: {stage.help!r}"


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["devices", "check", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    heavy = (
        HEAVY if len(words) > 1 else [*HEAVY, "pydantic"]
    )  # typer itself uses it for a command's parameters
    script = (
        "import atexit, sys\n"
        f"sys.argv = ['qpipe', *{words!r}]\n"
        f"atexit.register(lambda: print('heavy:', *[m for m in {heavy!r} if m in sys.modules], file=sys.stderr))\n"
        "from qpipe.cli import main\nmain()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "Usage: qpipe" in ended.stdout
    assert ended.stderr == "heavy:\n"


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_recipe_is_one_and_its_stages_exist(name: str) -> None:
    # what a recipe leaves to --set is set here, to something that exists
    own = dict.fromkeys(("model", "calibration", "evaluation"), str(ROOT))
    settings = dict.fromkeys(("image_classifier", "mobilenet_v2_schemes"), own)
    loaded, _ = recipe.load(ROOT / "recipes" / name, settings.get(Path(name).stem))
    assert loaded.name == Path(name).stem
    assert len(loaded.floats) == 1


def test_only_the_ssh_driver_knows_paramiko() -> None:
    assert all(place.startswith("devices/qpipe_devices/ssh/") for place in importers("paramiko"))


def test_only_the_database_knows_sqlite_utils() -> None:
    assert importers("sqlite_utils") == ["pipeline/qpipe/storage/database.py"]
    assert set(importers("sqlite3")) <= {
        "pipeline/qpipe/storage/database.py",
        "pipeline/qpipe/storage/merge.py",
    }


def test_only_the_command_line_prints() -> None:
    # the agent and the runners are programs of their own, on the board
    allowed = ("pipeline/qpipe/cli/", "devices/qpipe_devices/agent/")
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(allowed):
            continue
        calls = (
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        )
        assert not [
            c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"
        ], place


def test_the_core_knows_no_plugin_and_no_driver() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert not imports(path) & {"qpipe_plugins", "qpipe_devices"}, path


def test_plugins_and_devices_do_not_know_each_other() -> None:
    assert not [
        path for path in (ROOT / "plugins").rglob("*.py") if "qpipe_devices" in imports(path)
    ]
    assert not [
        path for path in (ROOT / "devices").rglob("*.py") if "qpipe_plugins" in imports(path)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_every_module_can_be_imported() -> None:
    for root in ("pipeline", "plugins", "devices"):
        for path in sorted((ROOT / root).rglob("*.py")):
            words = path.relative_to(ROOT / root).with_suffix("").parts
            if "agent" not in words:  # what travels to the board finds its modules beside it
                importlib.import_module(".".join(words).removesuffix(".__init__"))


@pytest.mark.slow
def test_the_wheel_holds_three_packages_the_recipes_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "qpipe", "qpipe_plugins", "qpipe_devices", f"qpipe_edge-{qpipe.__version__}.dist-info",
    }  # fmt: skip
    inside = {name.rpartition("/")[2] for name in names if name.startswith("qpipe/recipes/")}
    assert {path.name for path in (ROOT / "recipes").glob("*.yaml")} <= inside
    assert {"qpipe/py.typed", "qpipe_plugins/py.typed", "qpipe_devices/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
