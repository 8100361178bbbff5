"""The project itself: what is exported, what is helped, what is imported where, what the wheel holds."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer

import qpipe
from qpipe import hookspecs
from qpipe.recipe import recipe
from qpipe.stages import registry

pytestmark = pytest.mark.xdist_group("house")  # what is parsed is parsed once
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
    "vl_convert",
]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> set[str]:
    """The top-level names of all that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(parsed(path)):
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


def test_every_hook_and_kind_is_in_the_page_on_plugins_with_its_arguments() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for name, value in vars(hookspecs).items():
        if hasattr(value, "qpipe_spec"):
            arguments = ", ".join(inspect.signature(value).parameters)
            assert f"| `{name}({arguments})` |" in page
    for register in (hookspecs.Register, hookspecs.RegisterDevice, hookspecs.RegisterPower):
        names = [*inspect.signature(register.__call__).parameters][1:]
        optional = [name for name in names if name not in ("kind", "function")]
        required = [name for name in names if name not in optional]
        assert f"`register({', '.join([*required, '*', *optional])})`" in page
    for kind in registry.KINDS:
        assert f"| `{kind}` |" in page


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


def commands(group: typer.Typer, prefix: str = "") -> dict[str, Any]:
    """The function of each command, by the words of the command joined by an underscore."""
    functions = {}
    for command in group.registered_commands:
        name = command.name or command.callback.__name__
        functions[f"{prefix}{name}"] = command.callback
    for subgroup in group.registered_groups:
        name = f"{prefix}{subgroup.name}"
        if subgroup.typer_instance.registered_callback:
            functions[name] = subgroup.typer_instance.registered_callback.callback
        functions |= commands(subgroup.typer_instance, f"{name}_")
    return functions


def test_every_command_has_a_file_of_its_own_with_its_signature_and_body() -> None:
    from qpipe.cli.app import app

    functions = commands(app)
    assert {"run", "runs", "runs_tag", "devices_add", "cache_clean"} <= functions.keys()
    for name, function in functions.items():
        file = ROOT / "pipeline/qpipe/cli" / f"{name}.py"
        assert inspect.getsourcefile(function) == str(file)
        assert function.__name__ == name
        (definition,) = ast.parse(inspect.getsource(function)).body
        assert isinstance(definition, ast.FunctionDef)
        body = definition.body[1:]  # after the docstring
        statements = [node for node in body if not isinstance(node, ast.ImportFrom | ast.Import)]
        forwards = len(statements) == 1 and isinstance(statements[0], ast.Expr | ast.Return)
        assert statements, name
        assert not forwards, f"{name} only forwards to another function"


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
        "pipeline/qpipe/storage/run_names.py",
    }


def test_only_the_command_line_prints() -> None:
    # the agent and the runners are programs of their own, on the board
    allowed = ("pipeline/qpipe/cli/", "devices/qpipe_devices/agent/")
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(allowed):
            continue
        calls = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
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
    assert ast.get_docstring(parsed(path))


def test_every_module_can_be_imported() -> None:
    """Where torch is not installed, but for those that stand on it."""
    has_torch = importlib.util.find_spec("torch") is not None
    for root in ("pipeline", "plugins", "devices"):
        for path in sorted((ROOT / root).rglob("*.py")):
            words = path.relative_to(ROOT / root).with_suffix("").parts
            is_free_of_torch = path.stem in ("__init__", "operator_table")
            needs_torch = {"in_torch", "training"} & set(words) and not is_free_of_torch
            # what travels to the board finds its modules beside it
            if "agent" not in words and (has_torch or not needs_torch):
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
    assert "qpipe/start/plugin_templates/quantize/stage.py.template" in names
    assert {"qpipe/py.typed", "qpipe_plugins/py.typed", "qpipe_devices/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


# ---- the map, the words, the files


def core_rooms() -> set[str]:
    """The packages and modules of the core by name, but for its `__init__`."""
    entries = (ROOT / "pipeline" / "qpipe").iterdir()
    names = {path.stem for path in entries if path.is_dir() or path.suffix == ".py"}
    return {name for name in names if not name.startswith("__") and name != "py"}


def test_the_map_shows_every_room_of_the_core_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms of the engine")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    shown = [line.split("`")[1] for line in rows]
    assert sorted(shown) == sorted(core_rooms())
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(
        contract["layers"] for contract in contracts if contract.get("containers") == ["qpipe"]
    )
    floors = {room: floor for floor, layer in enumerate(layers) for room in layer.split(" | ")}
    assert [floors[room] for room in shown] == sorted(floors[room] for room in shown)


def test_every_file_that_the_documents_name_is_there() -> None:
    for document in ("docs/architecture.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w./-]+(?:\.(?:py|md|toml)|/))`", text):
            places = [ROOT / name, ROOT / "pipeline" / "qpipe" / name, ROOT / "devices" / name]
            assert any(place.exists() for place in places), f"{document}: {name}"


FORBIDDEN_WORDS = {
    "session", "manager", "handler", "helper", "helpers", "util", "utils", "processor", "context", "artifact", "impl",
}  # fmt: skip
# terms of other libraries: ONNX Runtime's session, the kernel's context switches, pluggy's manager, urllib's handler
ALLOWED_NAMES = {
    "open_session", "_open_session", "Session", "session_options", "context_switches", "_plugin_manager",
    "_DigestAuthHandler",
}  # fmt: skip


def words_of(name: str) -> set[str]:
    """The words of a name in snake case or camel case, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def definitions(path: Path) -> list[tuple[str, ast.AST]]:
    tree = parsed(path)
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [(node.name, node) for node in ast.walk(tree) if isinstance(node, kinds)]


def test_no_class_function_or_file_has_a_word_that_says_nothing() -> None:
    found = []
    for path in SOURCES:
        names = [path.stem, *(name for name, _ in definitions(path))]
        found += [
            f"{path}: {name}"
            for name in names
            if words_of(name) & FORBIDDEN_WORDS and name not in ALLOWED_NAMES
        ]
    assert not found


@pytest.mark.parametrize(
    "root", ["pipeline/qpipe", "plugins/qpipe_plugins", "devices/qpipe_devices"]
)
def test_files_and_classes_of_one_name_hold_one_thing(root: str) -> None:
    paths = [
        path for path in SOURCES if path.is_relative_to(ROOT / root) and path.stem != "__init__"
    ]
    # a command's file is named as the command
    stems = [path.stem for path in paths if "cli" not in path.parts]
    assert not {stem for stem in stems if stems.count(stem) > 1}
    classes = [
        name
        for path in paths
        for name, node in definitions(path)
        if isinstance(node, ast.ClassDef) and not name.startswith("_")
    ]
    assert not {name for name in classes if classes.count(name) > 1}


def test_functions_are_not_all_called_read_or_run() -> None:
    for path in SOURCES:
        tree = parsed(path)
        for outer in ast.walk(tree):
            if isinstance(outer, ast.FunctionDef):
                inner = {
                    node.name
                    for node in ast.walk(outer)
                    if isinstance(node, ast.FunctionDef) and node is not outer
                }
                assert not inner & {"run", "read"}, f"{path}: {outer.name}"
    top_level = [
        node.name
        for path in SOURCES
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef)
    ]
    for name in ("read", "run"):
        assert top_level.count(name) <= 2, (
            f"{name} is the name of {top_level.count(name)} functions"
        )
