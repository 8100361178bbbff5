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
    found.add(plugin("one", ("quantize", "rtn")), "one", "one-dist", "1")
    with pytest.raises(PluginError) as error:
        found.add(plugin("two", ("quantize", "rtn")), "two", "two-dist", "1")
    assert str(error.value) == "two plugins offer quantize 'rtn': one and two; rename one"


def test_one_name_may_be_of_two_kinds() -> None:
    found = Registry()
    found.add(plugin("one", ("quantize", "rtn"), ("transform", "rtn")), "one", "d", "1")
    assert found.names("quantize") == found.names("transform") == ["rtn"]


def test_a_plugin_that_clashes_brings_nothing() -> None:
    found = Registry()
    found.add(plugin("one", ("quantize", "rtn")), "one", "d", "1")
    with pytest.raises(PluginError):
        found.add(plugin("two", ("quantize", "first"), ("quantize", "rtn")), "two", "d", "1")
    assert found.names("quantize") == ["rtn"]


def test_an_unknown_kind_is_told_with_the_near_one() -> None:
    with pytest.raises(PluginError) as error:
        Registry().add(plugin("one", ("quantise", "rtn")), "one", "d", "1")
    assert str(error.value) == "plugin 'one': unknown kind 'quantise'; did you mean 'quantize'?"


def test_a_misspelt_hook_is_told_with_all_there_are() -> None:
    misspelt = ModuleType("misspelt")

    def register_stage(register: Any) -> None: ...

    misspelt.register_stage = qpipe.hookimpl(register_stage)  # type: ignore[attr-defined]
    with pytest.raises(PluginError) as error:
        Registry().add(misspelt, "misspelt", "d", "1")
    assert str(error.value) == (
        "plugin 'misspelt': unknown hook 'register_stage'; "
        "there is register_stages, register_devices, register_power, step_finished"
    )


def test_an_unknown_stage_is_told_with_the_near_one_and_what_did_not_load() -> None:
    found = Registry()
    found.add(plugin("one", ("quantize", "symmetric")), "one", "d", "1")
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
