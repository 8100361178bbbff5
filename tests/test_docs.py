"""The pages of docs/: their commands parse, their recipes are recipes, their code runs, and their site builds.

A block of the language `console` is what a reader types: lines with `$ `, and below each a part of what is printed, where
numbers may differ. Blocks with a title are files. Blocks of `sh` need what is not here, such as a board, and are only parsed.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jsonschema
import onnx
import pytest
import typer.main
import yaml

import learned
import qpipe
from fresh_environment import make_environment
from qpipe.cli.app import app
from qpipe.errors import Failure
from qpipe.recipe import json_schema, yaml_document
from qpipe.stages import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    language: str
    title: str  # the name of a file, or empty
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def every_block(*languages: str) -> list[tuple[Path, Block]]:
    return [
        (page, block) for page in PAGES for block in blocks(page) if block.language in languages
    ]


def typed_lines(block: Block) -> list[str]:
    """The lines that a reader types."""
    lines = block.text.splitlines()
    if block.language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return lines


def test_every_command_of_the_pages_is_one() -> None:
    commands = 0
    for page, block in every_block("sh", "console"):
        for line in typed_lines(block):
            simple = re.split(r" [|>] | && ", line)[0]
            words = shlex.split(simple, comments=True)
            if words and Path(words[0]).name == "qpipe":
                commands += 1
                parse_command(words[1:], f"{name_of(page)}: {line}")
    assert commands > 40


def parse_command(words: list[str], where: str) -> None:
    """Parse a line as the command line does, and carry out nothing."""
    command: Any = typer.main.get_command(app)
    if "--install-completion" in words:
        return
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        raise AssertionError(f"{where}: no command {words[0]}")
    try:
        command.make_context("qpipe", words)
    except Exception as error:
        raise AssertionError(f"{where}: {error!r}") from error


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> registry.Registry:
    """All stages, with those of the plugins that the pages show."""
    folder = tmp_path_factory.mktemp("plugins")
    files = []
    for _, block in every_block("python"):
        if block.title:
            files.append(folder / block.title)
            files[-1].write_text(block.text, encoding="utf-8")
    assert len(files) == 2
    return registry.load(files)


def test_every_recipe_and_inventory_of_the_pages_is_one(plugins: registry.Registry) -> None:
    recipe_schema = json_schema.recipe(plugins)
    inventory_schema = json_schema.inventory(plugins)
    count = 0
    for page, block in every_block("yaml"):
        value = yaml_document.parse(block.text, page).root
        assert isinstance(value, dict), f"{name_of(page)}: {block.text}"
        if block.title == "devices.yaml":
            jsonschema.validate(value, inventory_schema)
        elif block.title != "lab.yaml":
            whole = {"samples": "scenes", "models": {"net": {"onnx": {"path": "net.onnx"}}}}
            whole |= {"schemes": {"float32": []}, "measure": ["size"]}
            jsonschema.validate({**whole, **value}, recipe_schema)
        count += 1
    assert count > 10


def test_every_name_of_qpipe_in_the_pages_is_exported() -> None:
    for page, block in every_block("python"):
        compile(block.text, name_of(page), "exec")
        for name in re.findall(r"(?<![\w.])qpipe\.(\w+)", block.text):
            is_module = (ROOT / "pipeline" / "qpipe" / name).exists()
            assert is_module or name in qpipe.__all__, f"{name_of(page)}: qpipe.{name}"


def test_every_public_name_is_in_the_reference() -> None:
    pages = ("python.md", "hooks.md")
    text = "".join((DOCS / "reference" / page).read_text(encoding="utf-8") for page in pages)
    for name in qpipe.__all__:
        if not name.startswith("__") and name != "hookimpl":
            assert f"### `qpipe.{name}`" in text or f"### `{name}`" in text, name
    assert "@qpipe.hookimpl" in text


def test_every_type_of_failure_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "json.md").read_text(encoding="utf-8")
    for failure in get_args(Failure):
        assert f"| `{failure}` |" in text


def test_every_page_is_in_the_site() -> None:
    class Loader(yaml.SafeLoader):
        """Reads the tags of mkdocs' extensions as nothing."""

    Loader.add_multi_constructor("", lambda *_: None)
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    named = set(re.findall(r"[\w/-]+\.md", json.dumps(settings["nav"])))
    assert named == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_the_site_asks_no_other_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:link|script|img|iframe)[^>]+(?:href|src)=\"?(https?://[^\" >]+)", text
        )
        assert not loaded, f"{page}: {loaded}"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_the_site_is_searched_from_disk(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / "how-to" / "board.html").as_uri())
        words = page.locator("[data-md-component=search-query]")
        words.focus()
        # what is typed before the index is read is not searched for
        page.get_by_text("Type to start searching").wait_for(state="attached")
        words.press_sequentially("booktabs")
        page.wait_for_selector(".md-search-result__item")
        links = page.locator(".md-search-result__item a").evaluate_all(
            "all => all.map(a => a.href)"
        )
        assert any("reference/commands.html" in link or "report.html" in link for link in links)
        assert complaints == []
        browser.close()


# ---- the pages followed to the letter


def make_commands(folder: Path) -> Path:
    """The commands of an environment of the reader's own, which sees what is installed here."""
    python = make_environment(folder)
    for name, module in (
        ("qpipe", "from qpipe.cli import main; main()"),
        ("pytest", "import pytest; raise SystemExit(pytest.main())"),
    ):
        command = python.parent / name
        command.write_text(f'#!/bin/sh\nexec "{python}" -c "{module}" "$@"\n', encoding="utf-8")
        command.chmod(0o755)
    return python.parent


class Reader:
    """Somebody in a folder who types what a page says."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        path = [str(make_commands(folder)), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = {
            **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
            "NO_COLOR": "1",
            "PATH": os.pathsep.join(path),
            # what `pip install` installs is built here, and goes into the environment of the reader
            "PIP_PYTHON": str(folder / "venv" / "bin" / "python"),
            "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip reads it: none
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            **environment,
        }
        self.names: dict[str, Any] = {}

    def follow(self, page: Path) -> int:
        """Type all blocks of a page; return how many commands there were."""
        count = 0
        for block in blocks(page):
            if block.title:
                (self.folder / block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "console":
                count += self.type_block(block.text)
            elif block.language == "python":
                exec(compile(block.text, name_of(page), "exec"), self.names)
        return count

    def type_block(self, text: str) -> int:
        """Type the lines with `$ `; what stands below each must be in what it prints."""
        _, *parts = re.split(r"^\$ ", text, flags=re.M)
        for part in parts:
            line, *shown = part.splitlines()
            done = subprocess.run(
                ["bash", "-c", line], cwd=self.folder, env=self.environment,
                capture_output=True, text=True, timeout=900,
            )  # fmt: skip
            printed = done.stdout + done.stderr
            assert done.returncode == 0, f"{line}\n{printed}"
            for expected in filter(None, shown):
                assert plain(expected) in plain(printed), f"{line}: {expected}\n{printed}"
        return len(parts)


def plain(text: str) -> str:
    """Text whose numbers are all the same, and its spaces."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "0", text))


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Somebody with a classifier, pictures, and a home of their own."""
    monkeypatch.chdir(tmp_path)
    onnx.save(learned.classifier(), tmp_path / "net.onnx")
    learned.pictures(tmp_path / "pictures" / "train", 48, seed=1)
    learned.pictures(tmp_path / "pictures" / "val", 60, seed=2)
    (tmp_path / "devices.yaml").write_text(f"local: {{local: {{folder: {tmp_path}/here}}}}\n")
    return Reader(tmp_path, {})


@pytest.mark.lab
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["network", "algorithm", "runtime", "driver"])
def test_a_page_followed_to_the_letter(name: str, reader: Reader) -> None:
    assert reader.follow(DOCS / "how-to" / f"{name}.md") >= 1


@pytest.mark.lab
@pytest.mark.timeout(1800)
def test_the_page_on_notebooks_followed_to_the_letter(reader: Reader) -> None:
    reader.type_block("$ qpipe new net.onnx --samples images:pictures")
    reader.follow(DOCS / "how-to" / "notebook.md")
    assert {row.scheme for row in reader.names["run"].results} >= {"float32", "int8-channel"}
    assert reader.names["network"].graph.node
    assert (reader.folder / "report.html").exists()


@pytest.mark.lab
@pytest.mark.timeout(3600)
def test_the_tutorial_followed_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_sshd: Any
) -> None:
    """The board is this machine by sshd, with a home folder of its own and a Python without packages."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    board_home = tmp_path / "board"
    board_home.mkdir()
    environment = f"HOME={board_home} PATH=/usr/local/bin:/usr/bin:/bin SHLVL=2"
    server = start_sshd("ed25519", environment=environment)
    (home / ".ssh" / "config").write_text(
        f"Host rpi4\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
        f"  IdentityFile {server.key}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    assert Reader(tmp_path, {"HOME": str(home)}).follow(DOCS / "tutorial.md") > 10


def test_the_pages_on_the_parts_of_a_plugin_hold_plugins() -> None:
    for page, name in (("algorithm", "rtn"), ("metric", "miscount")):
        (block,) = [b for b in blocks(DOCS / "how-to" / f"{page}.md") if b.title]
        names: dict[str, Any] = {}
        exec(compile(block.text, block.title, "exec"), names)
        assert inspect.getdoc(names[name])
