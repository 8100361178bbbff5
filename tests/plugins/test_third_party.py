"""Other people's plugins, installed as they would install them: the smallest that works, and two that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpipe
from fresh_environment import install, qpipe_command, run
from models import RTN

# its tests share fixtures that are slow to make
pytestmark = pytest.mark.xdist_group("third party")

BROKEN = "import a_library_that_is_not_installed\n"
CLASH = '''"""Offers a name that is taken."""
import qpipe

def symmetric(model):
    """Quantize otherwise."""
    return model

def fine(model):
    """Nothing wrong with this one, but it comes with the other."""
    return model

@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("quantize", fine)
    register("quantize", symmetric)
'''
PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.3"
dependencies = ["qpipe-edge{version}"]

[project.entry-points.qpipe]
{name} = "{name}"

[tool.hatch.build.targets.wheel]
include = ["*.py"]
"""
# a distribution of two modules: the second decides what the stage does
PAIR = RTN.replace("def rtn(", "from pair_of_it import BITS\n\n\ndef pair(").replace(
    "bits: int = 8", "bits: int = BITS"
)
PAIR = PAIR.replace('"quantize", rtn', '"quantize", pair')
PLUGINS = {
    "pair_plugin": PAIR,
    "rtn_plugin": RTN,
    "broken_plugin": BROKEN,
    "clash_plugin": CLASH,
    "future_plugin": "raise AssertionError('it must not be imported')",
}
USE = """
import json, sys
import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from qpipe.stages import registry

given = json.load(sys.stdin)
weight = np.array(given["weight"], np.float32)
graph = onnx.parser.parse_graph("g (float[1,4] x) => (float[1,3] y) { y = MatMul(x, w) }")
graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10))
stage = registry.load().stage("quantize", "rtn")
quantized = ir.to_proto(stage.function(model, bits=given["bits"]))
onnx.checker.check_model(quantized)
(y,) = ReferenceEvaluator(quantized).run(None, {"x": np.array(given["x"], np.float32)})
kinds = sorted(node.op_type for node in quantized.graph.node)
print(json.dumps({"y": y.tolist(), "kinds": kinds, "from": [stage.distribution, stage.version]}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with five plugins installed by pip."""
    folder = tmp_path_factory.mktemp("third")
    projects = []
    for name, text in PLUGINS.items():
        project = folder / name
        project.mkdir()
        version = ">=99" if name == "future_plugin" else ">=0.1"
        settings = PROJECT.format(name=name, version=version)
        (project / "pyproject.toml").write_text(settings, encoding="utf-8")
        (project / f"{name}.py").write_text(text, encoding="utf-8")
        if name == "pair_plugin":
            (project / "pair_of_it.py").write_text("BITS = 6\n", encoding="utf-8")
        projects.append(project)
    return install(folder, projects)


@pytest.fixture(scope="module")
def plugins(python: Path) -> Any:
    """What `qpipe plugins --json` says in there."""
    return json.loads(run([*qpipe_command(python), "plugins", "--json"]))


def test_an_installed_plugin_is_found(plugins: Any) -> None:
    (rtn,) = (stage for stage in plugins["stages"] if stage["name"] == "rtn")
    assert rtn == {
        "kind": "quantize", "name": "rtn", "distribution": "rtn_plugin", "version": "0.3",
        "help": "Quantize each weight to the nearest step of a symmetric per-channel scale.",
    }  # fmt: skip


def test_a_broken_plugin_is_named_with_its_reason_and_stops_nobody(plugins: Any) -> None:
    assert plugins["broken"]["broken_plugin"] == (
        "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'"
    )
    assert {"rtn", "symmetric", "onnxruntime"} <= {stage["name"] for stage in plugins["stages"]}


def test_a_plugin_that_wants_a_newer_qpipe_is_not_imported_and_says_so(plugins: Any) -> None:
    assert plugins["broken"]["future_plugin"] == (
        f"it requires qpipe-edge>=99, this is {qpipe.__version__}; "
        "pip install --upgrade qpipe-edge future_plugin"
    )


def test_a_name_clash_names_both_and_the_built_in_stays(plugins: Any) -> None:
    assert plugins["broken"]["clash_plugin"] == (
        "two plugins offer quantize 'symmetric': qpipe_plugins.quantize.symmetric and clash_plugin; rename one"
    )
    (symmetric,) = (stage for stage in plugins["stages"] if stage["name"] == "symmetric")
    assert symmetric["distribution"] == "qpipe-edge"
    assert "fine" not in {stage["name"] for stage in plugins["stages"]}, "all it brings, or nothing"


def test_its_stage_quantizes_by_the_shared_arithmetic(python: Path) -> None:
    random = np.random.default_rng(3)
    weight = random.normal(size=(4, 3)).astype(np.float32) * np.array([1, 10, 0.1], np.float32)
    x = random.normal(size=(1, 4)).astype(np.float32)
    given = {"weight": weight.tolist(), "x": x.tolist(), "bits": 4}
    told = json.loads(run([python, "-c", USE], json.dumps(given)))
    scale = np.abs(weight).max(axis=0) / 7  # symmetric at 4 bits: -7 .. 7
    rounded = np.round(weight / scale) * scale
    # float32 sums of four products
    assert (
        np.abs(np.array(told["y"]) - x @ rounded).max()
        <= 8 * np.finfo(np.float32).eps * np.abs(x).max() * np.abs(weight).max()
    )
    assert told["kinds"] == ["DequantizeLinear", "MatMul"]
    assert told["from"] == ["rtn_plugin", "0.3"]


def test_every_module_of_a_distribution_is_in_the_key_and_the_kit_finds_nothing_wrong(
    python: Path,
) -> None:
    results = json.loads(run([*qpipe_command(python), "plugins", "check", "pair_plugin", "--json"]))
    assert {result["state"] for result in results} == {"ok"}, results
    script = (
        "from qpipe.engine.cache_keys import code_files; from qpipe.stages import registry; "
        "print(*code_files(registry.load().stage('quantize', 'pair')))"
    )
    files = run([python, "-c", script]).split()
    assert {"pair_plugin.py", "pair_of_it.py"} <= set(files)
