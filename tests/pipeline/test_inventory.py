"""devices.yaml: what is in it, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpipe.errors import PluginError, RecipeError
from qpipe.recipe import inventory
from qpipe.stages import registry

PLUGINS = registry.load()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str) -> dict[str, inventory.Call]:
    Path("d.yaml").write_text(text, encoding="utf-8")
    return inventory.load(Path("d.yaml"), PLUGINS)


def test_local_is_always_there() -> None:
    assert list(inventory.load(None, PLUGINS)) == ["local"]
    assert list(load("board: 'null'")) == ["board", "local"]


def test_a_device_may_be_called_local_and_be_another() -> None:
    assert load("local: {'null': {latency_ms: 2}}")["local"].options["latency_ms"] == 2


def test_the_options_are_the_drivers_and_paths_are_relative_to_the_inventory(here: Path) -> None:
    (here / "deep").mkdir()
    (here / "deep" / "d.yaml").write_text(
        "rpi: {ssh: {host: 10.0.0.7, port: '2222', key: keys/id}}", encoding="utf-8"
    )
    rpi = inventory.load(Path("deep/d.yaml"), PLUGINS)["rpi"]
    assert (rpi.name, rpi.options["port"], rpi.options["key"]) == (
        "ssh",
        2222,
        here / "deep" / "keys" / "id",
    )


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPIPE_TEST_HOST", "10.0.0.9")
    assert load("rpi: {ssh: {host: '${env:QPIPE_TEST_HOST}'}}")["rpi"].options["host"] == "10.0.0.9"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "d.yaml:1: an inventory is a map of device names to drivers, such as board: {ssh: {host: 10.0.0.7}}"),
        ("../x: 'null'", "d.yaml:1: device name '../x' is not allowed; use letters, digits, '.', '_' and '-'"),
        ("a: 'null'\nb: shs", "d.yaml:2: no plugin offers device 'shs'; there is local, null, ssh"),
        ("a: {ssh: {}}", "d.yaml:1: device ssh: option 'host' is missing; give text"),
        ("a: ssh", "d.yaml:1: device ssh: option 'host' is missing; give text"),
        ("a:\n  ssh:\n    host: x\n    port: many", "d.yaml:4: device ssh: option 'port' is 'many'; "
         "give a whole number or null"),
        ("a: {'null': {latency_ms: 0}}", "d.yaml:1: device null: option 'latency_ms' is 0; give more than 0.0"),
        ("a: {host: x}", "d.yaml:1: 'host' is neither a driver nor a setting of a device; write {ssh: {host: ...}}"),
        ("a: {ssh: {host: x}, powr: {}}",
         "d.yaml:1: 'powr' is neither a driver nor a setting of a device; did you mean 'power'?"),
        ("a: null", "d.yaml:1: None names no device; write name, or {name: {option: value}}"),
        ("a: {ssh: {host: '${host}'}}", "d.yaml:1: unknown variable 'host'; there is none"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises((RecipeError, PluginError)) as error:
        load(text)
    assert str(error.value) == message


def test_a_device_that_is_not_there_is_told_with_the_place_to_add_it() -> None:
    known = load("rpi4: 'null'")
    with pytest.raises(RecipeError) as error:
        inventory.pick(known, "rpi5", Path("d.yaml"))
    assert str(error.value) == (
        "d.yaml: no device 'rpi5'; did you mean 'rpi4'?; add it as rpi5: {ssh: {host: ADDRESS}}"
    )
    with pytest.raises(
        RecipeError,
        match=r"^devices\.yaml: no device 'orin'; there is local, rpi4; add it as orin: ",
    ):
        inventory.pick(known, "orin", None)


def test_the_inventory_is_the_one_given_or_beside_the_recipe_or_here(here: Path) -> None:
    assert inventory.find(None, here / "recipes") is None
    (here / "devices.yaml").touch()
    assert inventory.find(None, here / "recipes") == here / "devices.yaml"
    (here / "recipes").mkdir()
    (here / "recipes" / "devices.yaml").touch()
    assert inventory.find(None, here / "recipes") == here / "recipes" / "devices.yaml"
    assert inventory.find(Path("other.yaml"), here / "recipes") == Path("other.yaml")
    with pytest.raises(
        RecipeError, match=r"^other\.yaml: no such file; give the path of a YAML file$"
    ):
        inventory.load(Path("other.yaml"), PLUGINS)
