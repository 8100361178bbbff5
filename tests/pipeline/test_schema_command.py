"""`qpipe schema`: recipes that load are valid by it, recipes that are wrong are not."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from qpipe.errors import QpipeError
from qpipe.recipe import inventory, recipe
from qpipe.stages import options, registry
from qpipe.stages.registry import KINDS, Registry
from shell import Shell

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
Command = Callable[..., Any]
GOOD = """
name: good
variables: {count: 3, bits: 8, path: m.onnx}
samples: {images: {calibration: ., evaluation: ., size: "${count}", mean: [1, 2, 3], std: 4.5, calibration_count: null}}
models:
  a: {onnx: {path: "${path}", shapes: {x: [1, 3, 8, 8]}}}
  b: {onnx: {path: m.onnx}, samples: {scenes: {calibration_count: 2}}}
calibrate: histogram
schemes:
  float32: []
  other: null
  one: symmetric
  two: [equalize, {symmetric: {bits: "${bits}", exclude: [first]}}, correct_bias, compensate]
builds: {ort: {onnxruntime: {threads: 2}}}
deploy: copy
measure: [latency, {accuracy: {postprocess: ssd_boxes, metric: [{topk: {k: 5}}, coco_map], always: sqnr}}, size]
devices: [local, board-1]
pareto: {latency_ms: min, size_mb: min}
expect: {a: {top5: {value: 0.9, tolerance: 0.02}}}
"""


@pytest.fixture(scope="module")
def plugins() -> Registry:
    return registry.load()


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """What `qpipe schema WORDS` prints, read as JSON."""

    shell = Shell(monkeypatch, capsys)
    return lambda *words: json.loads(shell.ended("schema", *words)[1])


def wrong(schema: Any, text: str) -> list[str]:
    return [
        error.message for error in Draft202012Validator(schema).iter_errors(yaml.safe_load(text))
    ]


@pytest.mark.parametrize("words", [(), ("--of", "devices")])
def test_it_is_a_schema_of_the_draft_it_names(words: tuple[str, ...], printed: Command) -> None:
    schema = printed(*words)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_is_valid(file: Path, printed: Command) -> None:
    assert wrong(printed(), file.read_text(encoding="utf-8")) == []


def test_all_that_a_recipe_may_hold_is_valid_and_loads(printed: Command, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    (tmp_path / "r.yaml").write_text(GOOD, encoding="utf-8")
    recipe.load(tmp_path / "r.yaml")
    assert wrong(printed(), GOOD) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("calibrate: histogram", "calibration: histogram"),
        ("calibrate: histogram", "calibrate: histogramm"),
        ("calibrate: histogram", "calibrate: symmetric"),
        ("calibrate: histogram", "calibrate: [histogram]"),
        ("name: good", "name: ../evil"),
        ("name: good", "name: 3"),
        ("one: symmetric", "one: {symmetric: {bit: 8}}"),
        ("one: symmetric", "one: {symmetric: {bits: eight}}"),
        ("one: symmetric", "one: {symmetric: {granularity: chanel}}"),
        ("one: symmetric", "one: {symmetric: {exclude: first}}"),
        ("one: symmetric", "one: {symmetric: {}, equalize: {}}"),
        ("one: symmetric", "one: [latency]"),
        ("one: symmetric", "../one: symmetric"),
        ("{threads: 2}", "{threads: [2]}"),
        ("k: 5", "kk: 5"),
        ("metric: [{topk: {k: 5}}, coco_map]", "metric: nothing"),
        ("postprocess: ssd_boxes", "postprocess: topk"),
        ("postprocess: ssd_boxes", "postprocess: {ssd_boxes: {boxes: [1]}}"),
        ("std: 4.5, ", ""),
        ("mean: [1, 2, 3]", "mean: {a: 1}"),
        ("{onnx: {path: m.onnx}, samples:", "{onnx: {path: m.onnx}, sample:"),
        ("{onnx: {path: m.onnx}, samples: {scenes: {calibration_count: 2}}}", "onnx"),
        ("latency_ms: min", "latency_ms: low"),
        ("tolerance: 0.02", "tolerance: -1"),
        (", tolerance: 0.02", ""),
        ("value: 0.9", "value: much"),
        ("devices: [local, board-1]", "devices: local"),
        ("measure: [latency,", "measure: [latancy,"),
        ("schemes:\n", "schema:\n"),
        ("models:\n", "model:\n"),
    ],
)
def test_what_the_loader_refuses_is_not_valid(
    old: str, new: str, printed: Command, tmp_path: Path
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    (tmp_path / "m.onnx").write_bytes(b"")
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(QpipeError):
        recipe.load(tmp_path / "r.yaml")
    assert wrong(printed(), text)


def test_samples_may_be_absent_where_every_model_brings_its_own(printed: Command) -> None:
    content = yaml.safe_load(GOOD)
    del content["samples"]
    assert wrong(printed(), yaml.safe_dump(content)), "model a has none"
    content["models"]["a"]["samples"] = "scenes"
    assert wrong(printed(), yaml.safe_dump(content)) == []


def test_a_sweep_stands_beside_a_stage_of_a_chain(printed: Command) -> None:
    schema = printed()
    swept = "one: [{symmetric: {granularity: tensor}, sweep: {bits: [4, 8]}}]"
    assert wrong(schema, GOOD.replace("one: symmetric", swept)) == []
    assert wrong(schema, GOOD.replace("one: symmetric", swept.replace("[4, 8]", "[]")))
    assert wrong(schema, GOOD.replace("one: symmetric", swept.replace("[4, 8]", "4")))


def test_it_has_the_keys_the_loader_knows_and_every_installed_stage(
    printed: Command, plugins: Registry
) -> None:
    schema = printed()
    assert set(schema["properties"]) == set(recipe.KEYS)
    assert all(key["description"] for key in schema["properties"].values())
    for kind in KINDS:
        own = schema["$defs"][kind]["anyOf"][-1]["properties"]
        for name in plugins.names(kind):
            stage = plugins.stage(kind, name)
            assert set(own[name]["properties"]) == set(options.options(stage.function)), (
                kind,
                name,
            )
            assert own[name]["description"].startswith(stage.help)


def test_a_variable_may_stand_wherever_a_value_does(printed: Command) -> None:
    """Each value of a good recipe in turn; names of stages and keys are none."""
    schema, good = printed(), yaml.safe_load(GOOD)
    validator = Draft202012Validator(schema)
    for steps in places(good):
        if steps[0] == "variables":
            continue
        changed = copy.deepcopy(good)
        holder = changed
        for step in steps[:-1]:
            holder = holder[step]
        holder[steps[-1]] = "${count}"
        assert validator.is_valid(changed) or steps == ("name",), steps


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The steps to each plain value within."""
    if not isinstance(value, dict | list):
        return [above]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [steps for key, item in inner for steps in places(item, (*above, key))]


PLUGIN = '''
"""A stage with types of its own."""
from dataclasses import dataclass
from typing import Annotated
from pydantic import Field
import qpipe

@dataclass
class Window:
    low: float
    high: float

class Odd:
    pass

def cut(model, *, window: Window, rounds: Annotated[int, Field(ge=1)] = 2, windows: dict[str, Window] = {}):
    """Cut."""
    return model

@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("quantize", cut)
'''


def test_a_plugin_files_stages_are_in_it_with_types_of_their_own(
    printed: Command, tmp_path: Path
) -> None:
    (tmp_path / "cut.py").write_text(PLUGIN, encoding="utf-8")
    schema = printed("--plugin", str(tmp_path / "cut.py"))
    with_it = "one: {cut: {window: {low: 0, high: 1}, rounds: 1, windows: {a: {low: '${count}', high: 3}}}}"
    assert wrong(schema, GOOD.replace("one: symmetric", with_it)) == []
    for bad in (
        with_it.replace("low: 0", "lo: 0"),
        with_it.replace("rounds: 1", "rounds: 0"),
        with_it.replace("high: 3", "high: much"),
        "one: cut",
    ):
        assert wrong(schema, GOOD.replace("one: symmetric", bad)), bad


# ---- devices.yaml

DEMAND = registry.DEMANDS[0]
DEVICES = f"""
board: {{ssh: {{host: 10.0.0.7, user: "${{env:USER}}", port: 22}}, target: {{{DEMAND}: true}}}}
here: local
other: {{local: {{python: python3}}}}
nothing: 'null'
"""


def test_an_inventory_that_loads_is_valid(
    printed: Command, plugins: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "pi")
    (tmp_path / "devices.yaml").write_text(DEVICES, encoding="utf-8")
    assert set(inventory.load(tmp_path / "devices.yaml", plugins)) >= {
        "board",
        "here",
        "other",
        "nothing",
    }
    assert wrong(printed("--of", "devices"), DEVICES) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("here: local", "here: locall"),
        ("here: local", "here: ssh"),
        ("here: local", "../here: local"),
        ("host: 10.0.0.7, ", ""),
        ("port: 22", "port: ssh"),
        ("port: 22", "prot: 22"),
        (f"{DEMAND}: true", "quick: true"),
        (f"{DEMAND}: true", f"{DEMAND}: perhaps"),
        ("target:", "targets:"),
    ],
)
def test_an_inventory_that_does_not_load_is_not_valid(
    old: str,
    new: str,
    printed: Command,
    plugins: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USER", "pi")
    assert old in DEVICES
    text = DEVICES.replace(old, new, 1)
    (tmp_path / "devices.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(QpipeError, match=re.escape("devices.yaml:")):
        inventory.load(tmp_path / "devices.yaml", plugins)
    assert wrong(printed("--of", "devices"), text)
