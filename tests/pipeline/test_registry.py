"""Plugins found, looked up, broken, and at odds with each other."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import qpipe
from qpipe.errors import PluginError
from qpipe.stages import registry
from qpipe.stages.registry import Registry

FILE = '''
import qpipe

def shrink(model):
    """Make it smaller."""
    return model

@qpipe.hookimpl
def register_stages(register):
    register("quantize", shrink{more})
'''


def plugin(name: str, *stages: tuple[str, str]) -> ModuleType:
    """A module that registers stages of these kinds and names."""
    made = ModuleType(name)

    def register_stages(register: Any) -> None:
        for kind, stage in stages:

            def function(model: Any) -> Any:
                """Do something."""

            function.__module__ = name
            register(kind, function, name=stage)

    made.register_stages = qpipe.hookimpl(register_stages)  # type: ignore[attr-defined]
    return made


def test_the_built_ins_come_by_the_entry_points() -> None:
    found = registry.load()
    assert not found.broken
    assert ("quantize", "symmetric") in found.stages
    assert found.stage("compile", "onnxruntime").distribution == "qpipe-edge"
    assert {"local", "ssh", "null"} <= found.devices.keys()


def test_a_file_brings_stages_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(more=""), encoding="utf-8")
    stage = registry.load([file]).stage("quantize", "shrink")
    assert (stage.help, stage.distribution) == ("Make it smaller.", "mine.py")


def test_a_stage_may_be_registered_under_another_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(more=', name="smaller"'), encoding="utf-8")
    assert registry.load([file]).stage("quantize", "smaller").function.__name__ == "shrink"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def (", "SyntaxError: expected '(' (mine.py, line 1)"),
        ("raise ValueError('one\\n  two')", "ValueError: one two"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_does_not_load_is_an_error_in_one_line(
    text: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PluginError) as error:
        registry.load([file])
    message = str(error.value)
    assert message.startswith(f"{file}: the plugin does not load: {reason[:11]}")
    assert "\n" not in message


def test_a_name_clash_names_both_sides() -> None:
    found = Registry()
    found.add(
        plugin("one", ("quantize", "rtn")), source="one", distribution="one-dist", version="1"
    )
    with pytest.raises(PluginError) as error:
        found.add(
            plugin("two", ("quantize", "rtn")), source="two", distribution="two-dist", version="1"
        )
    assert str(error.value) == "two plugins offer quantize 'rtn': one and two; rename one"


def test_one_name_may_be_of_two_kinds() -> None:
    found = Registry()
    found.add(
        plugin("one", ("quantize", "rtn"), ("transform", "rtn")),
        source="one",
        distribution="d",
        version="1",
    )
    assert found.names("quantize") == found.names("transform") == ["rtn"]


def test_a_plugin_that_clashes_brings_nothing() -> None:
    found = Registry()
    found.add(plugin("one", ("quantize", "rtn")), source="one", distribution="d", version="1")
    with pytest.raises(PluginError):
        found.add(
            plugin("two", ("quantize", "first"), ("quantize", "rtn")),
            source="two",
            distribution="d",
            version="1",
        )
    assert found.names("quantize") == ["rtn"]


def test_an_unknown_kind_is_told_with_the_near_one() -> None:
    with pytest.raises(PluginError) as error:
        Registry().add(
            plugin("one", ("quantise", "rtn")), source="one", distribution="d", version="1"
        )
    assert str(error.value) == "plugin 'one': unknown kind 'quantise'; did you mean 'quantize'?"


def test_a_misspelt_hook_is_told_with_all_there_are() -> None:
    misspelt = ModuleType("misspelt")

    def register_stage(register: Any) -> None: ...

    misspelt.register_stage = qpipe.hookimpl(register_stage)  # type: ignore[attr-defined]
    with pytest.raises(PluginError) as error:
        Registry().add(misspelt, source="misspelt", distribution="d", version="1")
    assert str(error.value) == (
        "plugin 'misspelt': unknown hook 'register_stage'; "
        "there is register_stages, register_devices, register_power, step_finished"
    )


def test_an_unknown_stage_is_told_with_the_near_one_and_what_did_not_load() -> None:
    found = Registry()
    found.add(plugin("one", ("quantize", "symmetric")), source="one", distribution="d", version="1")
    with pytest.raises(PluginError) as error:
        found.stage("quantize", "symetric")
    assert str(error.value) == "no plugin offers quantize 'symetric'; did you mean 'symmetric'?"
    found.broken["other"] = "ImportError: no torch"
    with pytest.raises(PluginError) as error:
        found.stage("quantize", "qat", "r.yaml:7")
    assert str(error.value) == (
        "r.yaml:7: no plugin offers quantize 'qat'; there is symmetric; "
        "plugin 'other' did not load: ImportError: no torch"
    )


def test_an_unknown_kind_of_device_is_told() -> None:
    with pytest.raises(
        PluginError, match=r"^d\.yaml:2: no plugin offers device 'shs'; there is local, null, ssh$"
    ):
        registry.load().device("shs", "d.yaml:2")


# ---- hooks are called through pluggy


def flip(model: Any) -> Any:
    """Turn it over."""
    return model


def switch(name: str) -> Any:
    """Switch a device."""


def add(registered: Registry, **hooks: Any) -> Registry:
    """The registry with a plugin module that has these attributes."""
    made = ModuleType("hooked")
    vars(made).update(hooks)
    registered.add(made, source="hooked", distribution="d", version="1")
    return registered


def test_a_hook_may_be_implemented_under_another_name() -> None:
    @qpipe.hookimpl(specname="register_stages")
    def bring(register: Any) -> None:
        register("transform", flip)

    assert add(Registry(), bring=bring).stage("transform", "flip").function is flip


def test_a_function_that_is_not_marked_registers_nothing() -> None:
    def register_stages(register: Any) -> None:
        register("transform", flip)

    assert add(Registry(), register_stages=register_stages).names("transform") == []


def test_an_implementation_may_take_fewer_parameters_than_the_hook() -> None:
    calls: list[str] = []

    @qpipe.hookimpl
    def register_stages() -> None:
        calls.append("stages")

    @qpipe.hookimpl
    def register_power(register: Any) -> None:
        register(switch)

    found = add(Registry(), register_stages=register_stages, register_power=register_power)
    assert (calls, found.power("switch").function) == (["stages"], switch)


def test_an_implementation_with_a_parameter_that_no_hook_has_is_told_in_one_line() -> None:
    @qpipe.hookimpl
    def register_stages(register: Any, weather: Any) -> None: ...

    with pytest.raises(PluginError) as error:
        add(Registry(), register_stages=register_stages)
    message = str(error.value)
    assert message.startswith("plugin 'hooked': ")
    assert "weather" in message
    assert message.endswith("; take parameters of the hook's specification alone")
    assert "\n" not in message


def test_an_optional_hook_that_is_unknown_is_let_pass() -> None:
    @qpipe.hookimpl(optionalhook=True)
    def register_weather(register: Any) -> None: ...

    @qpipe.hookimpl
    def register_stages(register: Any) -> None:
        register("transform", flip)

    found = add(Registry(), register_weather=register_weather, register_stages=register_stages)
    assert found.names("transform") == ["flip"]
    add_clean = plugin("one", ("quantize", "rtn"))
    found.add(add_clean, source="one", distribution="d", version="1")
    assert found.names("quantize") == ["rtn"]


def test_a_plugin_that_breaks_brings_nothing_and_hears_nothing() -> None:
    heard: list[str] = []

    @qpipe.hookimpl
    def register_stages(register: Any) -> None:
        register("transform", flip)

    @qpipe.hookimpl
    def register_power(register: Any) -> None:
        register(switch)
        raise ValueError("no power")

    @qpipe.hookimpl
    def step_finished(step: str) -> None:
        heard.append(step)

    found = Registry()
    with pytest.raises(ValueError, match="no power"):
        add(
            found,
            register_stages=register_stages,
            register_power=register_power,
            step_finished=step_finished,
        )
    assert (found.stages, found.powers) == ({}, {})
    found.hooks.hook.step_finished(step="a", state="done", seconds=0.0, coordinates={})
    assert heard == []


def test_a_plugin_is_called_once_however_many_come_after_it() -> None:
    calls: list[str] = []

    @qpipe.hookimpl
    def register_stages(register: Any) -> None:
        calls.append("hooked")

    found = add(Registry(), register_stages=register_stages)
    found.add(plugin("one", ("quantize", "rtn")), source="one", distribution="d", version="1")
    assert calls == ["hooked"]
