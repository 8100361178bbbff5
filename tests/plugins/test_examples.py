"""Distributions of others: those of examples/, and what `qpipe plugins new` writes, installed and run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fresh_environment import install, qpipe_command, run
from qpipe.errors import RecipeError
from qpipe.start.new_plugin import USAGE, write_new_plugin

# its tests share fixtures that are slow to make
pytestmark = pytest.mark.xdist_group("examples")

ROOT = Path(__file__).parents[2]
EXAMPLES = ("qpipe-hqq", "qpipe-serial")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, copied, and a new plugin of each kind."""
    folder = tmp_path_factory.mktemp("examples")
    for name in EXAMPLES:
        shutil.copytree(ROOT / "examples" / name, folder / name)
    for kind in USAGE:
        write_new_plugin(f"my-{kind}", kind, folder)
    return folder


@pytest.fixture(scope="module")
def python(folder: Path) -> Path:
    """The Python of a new environment with all of them installed by pip."""
    return install(folder, sorted(folder.glob("qpipe-*")))


@pytest.fixture
def port() -> Iterator[str]:
    """The host's end of a line to a board, which is a process."""
    board = ROOT / "examples" / "qpipe-serial" / "tests" / "board.py"
    process = subprocess.Popen([sys.executable, board], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()  # its shell ends with its terminal
    process.communicate()


@pytest.mark.slow
def test_all_of_them_pass_their_own_tests(python: Path, folder: Path) -> None:
    tests = [distribution / "tests" for distribution in sorted(folder.glob("qpipe-*"))]
    words = [python, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    out = run([*words, "-p", "no:randomly", "-rs", *tests], folder=folder)
    assert " passed" in out
    # a share of the checks says nothing about a plugin of that kind, here
    reasons = {line.partition(": ")[2] for line in out.splitlines() if line.startswith("SKIPPED")}
    assert reasons <= {"it is measured in every run: cached=False"}, out


@pytest.mark.slow
def test_a_recipe_runs_the_algorithm_on_the_board_at_the_end_of_the_line(
    python: Path, folder: Path, port: str
) -> None:
    options = {"port": port, "python": sys.executable, "folder": str(folder / "board")}
    (folder / "devices.yaml").write_text(json.dumps({"board": {"serial": options}}))
    model = ROOT / "recipes" / "models" / "mobilenet_ssd.onnx"
    words = ["run", "qpipe-hqq/recipe.yaml", "--device", "board", "--inventory", "devices.yaml"]
    settings = ["--set", f"model={model}", "--set", "scenes=6", "--json"]
    rows = json.loads(run([*qpipe_command(python), *words, *settings], folder=folder))["rows"]
    bits = {row["scheme"]: row["metrics"]["effective_bits"]["value"] for row in rows}
    assert bits == {"float32": 32, "int4": 4, "hqq4": 4}
    sqnr = {row["scheme"]: row["metrics"]["sqnr_db"]["value"] for row in rows}
    assert sqnr["hqq4"] > 6
    assert {row["device"] for row in rows} == {"board"}


def test_what_is_written_is_named_for_its_kind(folder: Path) -> None:
    for kind in USAGE:
        written = folder / f"qpipe-my-{kind}"
        names = {str(file.relative_to(written)) for file in written.rglob("*") if file.is_file()}
        package = f"qpipe_my_{kind}"
        tests = f"tests/test_my_{kind}.py"
        assert {"pyproject.toml", "README.md", f"{package}/__init__.py", tests} < names
        assert not [name for name in names if "template" in name]


def refusal(name: str, kind: str, folder: Path) -> str:
    with pytest.raises(RecipeError) as error:
        write_new_plugin(name, kind, folder)
    return str(error.value)


RULE = "give up to 50 small letters, digits, - and _, such as my-rounding"


@pytest.mark.parametrize(
    "name", ["../up", "/tmp/there", "a/b", "a\\b", "..", "", "Mine", "9", "a" * 51, "class", "a\n"]
)
def test_a_name_never_leaves_the_folder(name: str, tmp_path: Path) -> None:
    assert refusal(name, "quantize", tmp_path).endswith(f"is no name of a plugin; {RULE}")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_neither_overwritten_nor_doubled(tmp_path: Path) -> None:
    write_new_plugin("mine", "metric", tmp_path)
    expected = f"{tmp_path}/qpipe-mine: exists already; give another name, or --out FOLDER"
    assert refusal("mine", "metric", tmp_path) == expected
    taken = "there is a metric 'topk' already; give another name"
    assert refusal("topk", "metric", tmp_path) == taken
    kinds = refusal("mine", "metrics", tmp_path)
    assert kinds == "--kind metrics: no template of this kind; did you mean 'metric'?"


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    words: list[Any] = [*qpipe_command(Path(sys.executable)), "plugins", "new", "mine"]
    out = run([*words, "--kind", "postprocess"], folder=tmp_path)
    *files, empty, following = out.splitlines()
    assert files == [
        "qpipe-mine/README.md",
        "qpipe-mine/pyproject.toml",
        "qpipe-mine/qpipe_mine/__init__.py",
        "qpipe-mine/qpipe_mine/stage.py",
        "qpipe-mine/tests/test_mine.py",
    ]
    assert empty == ""
    assert following == "next: pip install -e qpipe-mine pytest   then: pytest qpipe-mine"
