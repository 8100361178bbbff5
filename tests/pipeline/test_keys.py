"""What a result depends on: everything that can change it, and nothing that cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scratch_lab
from onnx import numpy_helper
from scratch_lab import Lab

from qpipe.engine import cache_keys, code_digest
from qpipe.engine.code_digest import stage_files
from qpipe.quant.external_data import external_files
from qpipe.quant.in_torch import operator_table
from qpipe.recipe import recipe
from qpipe.recipe.stage_call import Call
from qpipe.stages import registry


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return scratch_lab.lab(tmp_path / "a")


def key_of(lab: Lab, pick: Callable[[recipe.Recipe], Call], **settings: str) -> str:
    """The key of a stage as the recipe calls it, read anew."""
    return cache_keys.key(cache_keys.of_call(pick(recipe.load(lab.recipe, settings)[0])))


def snapped(loaded: recipe.Recipe) -> Call:
    return loaded.schemes["snapped"][0]


def samples(loaded: recipe.Recipe) -> Call:
    return loaded.samples


def scored(loaded: recipe.Recipe) -> Call:
    return loaded.measure[0]


def test_the_same_is_the_same(lab: Lab) -> None:
    assert key_of(lab, snapped) == key_of(lab, snapped)
    assert key_of(lab, snapped) == key_of(lab, snapped, bits="8"), (
        "a default and the same value given"
    )


def test_an_option_changes_the_key_of_its_stage_alone(lab: Lab) -> None:
    assert key_of(lab, snapped) != key_of(lab, snapped, bits="4")
    assert key_of(lab, samples) == key_of(lab, samples, bits="4")


@pytest.mark.parametrize("file", ["stages.py", "beside.py"])
def test_a_plugin_file_and_the_modules_that_it_imports_are_code(file: str, lab: Lab) -> None:
    lab.write("beside.py", "STEP = 1\n")
    lab.edit("stages.py", "import qpipe", "import beside\nimport qpipe")
    before = key_of(lab, snapped)
    lab.write(file, (lab.folder / file).read_text(encoding="utf-8") + "\n# changed\n")
    assert key_of(lab, snapped) != before


def test_a_module_that_appears_where_a_plugin_file_looks_for_it_is_code(lab: Lab) -> None:
    lab.edit(
        "stages.py",
        "import qpipe",
        "try:\n    import appears\nexcept ImportError:\n    pass\nimport qpipe",
    )
    before = key_of(lab, snapped)
    lab.write("appears.py", "STEP = 1\n")
    assert key_of(lab, snapped) != before


def test_a_module_that_nothing_imports_is_no_code(lab: Lab) -> None:
    before = key_of(lab, snapped)
    lab.write("mine.py", "STEP = 1\n")
    assert key_of(lab, snapped) == before


@pytest.mark.parametrize("file", ["registers.py", "holds.py"])
def test_a_stage_from_beside_the_file_that_registers_it_is_the_code_of_both(
    file: str, lab: Lab
) -> None:
    stage = 'def bend(model, *, by: int = 1):\n    """Bend."""\n    return model\n'
    lab.write("holds.py", stage)
    text = "import qpipe\nfrom holds import bend\n@qpipe.hookimpl\ndef register_stages(register):\n    "
    lab.write("registers.py", f'{text}register("quantize", bend)\n')
    lab.edit("recipe.yaml", "plugins: [stages.py]", "plugins: [stages.py, registers.py]")
    lab.edit("recipe.yaml", "schemes:", "schemes:\n  bent: [bend]")

    def bent(loaded: recipe.Recipe) -> Call:
        return loaded.schemes["bent"][0]

    before, others = key_of(lab, bent), key_of(lab, snapped)
    lab.write(file, (lab.folder / file).read_text(encoding="utf-8") + "\n# changed\n")
    assert key_of(lab, bent) != before
    assert key_of(lab, snapped) == others


def test_an_operator_that_a_plugin_adds_for_torch_is_code_of_what_trains(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_table, "OPERATORS", {})
    text = (
        "from qpipe.quant.in_torch.operator_table import torch_operator\n"
        '@torch_operator("Swish", domain="com.example")\n'
        "def swish(operation, x):\n    return x * x.sigmoid()\n"
    )
    lab.write("swish.py", text)
    lab.edit("recipe.yaml", "plugins: [stages.py]", "plugins: [stages.py, swish.py]")
    lab.edit("recipe.yaml", "schemes:", "schemes:\n  trained: [qat]\n  plain: [symmetric]")

    def trained(loaded: recipe.Recipe) -> Call:
        return loaded.schemes["trained"][0]

    def plain(loaded: recipe.Recipe) -> Call:
        return loaded.schemes["plain"][0]

    before, others = key_of(lab, trained), key_of(lab, plain)
    lab.write("swish.py", text.replace("x * x", "2 * x * x"))
    assert key_of(lab, trained) != before
    assert key_of(lab, plain) == others


def test_a_lab_that_moves_keeps_its_keys(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write("data/one.bin", "1")
    lab.edit("recipe.yaml", "{noise: {", "{noise: {data: data, sources: [data/one.bin], ")
    before = key_of(lab, snapped), key_of(lab, samples)
    lab.folder.rename(tmp_path / "elsewhere")
    moved = Lab(tmp_path / "elsewhere")
    assert (key_of(moved, snapped), key_of(moved, samples)) == before
    monkeypatch.chdir(moved.folder)
    assert (key_of(Lab(Path()), snapped), key_of(Lab(Path()), samples)) == before


@pytest.mark.parametrize(
    "where", ["data: data", "sources: [data/one.bin]", "sources: [stages.py, data]"]
)
def test_what_is_in_a_file_or_folder_that_an_option_names_is_part_of_the_key(
    where: str, lab: Lab
) -> None:
    one = lab.write("data/one.bin", "1")
    lab.write("data/deep/two.bin", "2")
    lab.edit("recipe.yaml", "{noise: {", f"{{noise: {{{where}, ")
    before = key_of(lab, samples)
    os.utime(one, (0, 0))
    assert key_of(lab, samples) == before, "a time stamp is no content"
    one.write_text("x", encoding="utf-8")
    assert key_of(lab, samples) != before


def test_a_file_that_an_option_of_an_option_names_is_part_of_the_key(lab: Lab) -> None:
    table = lab.write("table.csv", "1")
    lab.edit(
        "recipe.yaml",
        "measure: [pace,",
        "measure: [{score: {metric: {closeness: {table: table.csv}}}}, pace,",
    )
    before = key_of(lab, scored)
    table.write_text("2", encoding="utf-8")
    assert key_of(lab, scored) != before
    changed = key_of(lab, scored)
    lab.edit("recipe.yaml", "closeness: {", "closeness: {power: 3, ")
    assert key_of(lab, scored) != changed


def test_a_file_that_is_no_network_has_a_key_too(lab: Lab) -> None:
    lab.edit("recipe.yaml", "models: {tiny: tiny}", "models: {tiny: {tiny: {path: broken.onnx}}}")
    lab.write("broken.onnx", "")
    before = key_of(lab, lambda loaded: loaded.models["tiny"])
    lab.write("broken.onnx", "no network")
    assert key_of(lab, lambda loaded: loaded.models["tiny"]) != before


def network(folder: Path, values: Any) -> Path:
    """An ONNX file whose weights lie in a file beside it."""
    graph = onnx.parser.parse_graph("g (float[64] x) => (float[64] y) { y = Mul(x, w) }")
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), "w"))
    model = onnx.helper.make_model(graph)
    onnx.save_model(
        model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    return folder / "m.onnx"


def test_the_external_weights_of_a_network_are_part_of_its_digest(tmp_path: Path) -> None:
    path = network(tmp_path, range(64))
    before, text = cache_keys.digest(path), path.read_bytes()
    (tmp_path / "w.bin").write_bytes(bytes(256))
    assert path.read_bytes() == text
    assert cache_keys.digest(path) != before


def test_the_names_in_a_folder_are_part_of_its_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1", encoding="utf-8")
    before = cache_keys.digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert cache_keys.digest(tmp_path) != before


def test_the_fields_of_a_stage_can_be_read(lab: Lab) -> None:
    fields = cache_keys.of_call(snapped(recipe.load(lab.recipe)[0]))
    assert {name: fields[name] for name in ("kind", "stage", "distribution")} == {
        "kind": "quantize", "stage": "snap", "distribution": "stages.py",
    }  # fmt: skip
    assert fields["options"]["bits"] == 8
    assert list(fields["code"]) == ["quantize snap"]


def test_the_code_of_a_built_in_is_its_module_and_what_that_imports() -> None:
    plugins = registry.load()
    quantize = stage_files(plugins.stage("quantize", "symmetric"))
    latency = stage_files(plugins.stage("measure", "latency"))
    assert {
        "qpipe_plugins/quantize/symmetric.py",
        "qpipe/quant/qdq.py",
        "qpipe/quant/ranges.py",
        "qpipe/engine/stage_results.py",
    } <= quantize.keys()
    assert {
        "qpipe_plugins/measure/latency.py",
        "qpipe_plugins/measure/round_journal.py",
        "qpipe/compare/round_statistics.py",
    } <= latency.keys()
    assert not any(name.startswith("qpipe_plugins/measure/") for name in quantize)
    assert "qpipe_plugins/quantize/__init__.py" not in quantize


def test_what_every_result_passes_through_is_code_of_every_stage(lab: Lab) -> None:
    plugins = registry.load([lab.folder / "stages.py"])
    passed = {
        "qpipe/engine/host_step.py",
        "qpipe/engine/measurement_check.py",
        "qpipe/samples/store.py",
        "qpipe/types.py",
    }
    for stage in plugins.stages.values():
        files = stage_files(stage).keys()
        assert passed <= files, stage.name
        rooms = {name.split("/")[1] for name in files if name.startswith("qpipe/")}
        assert not rooms & {"cli", "report", "recipe", "storage", "diagnose"}, stage.name


def test_a_plugins_key_has_what_it_uses_of_qpipe_by_whatever_name(lab: Lab) -> None:
    def used() -> set[str]:
        plugins = registry.load([lab.folder / "stages.py"])
        return set(stage_files(plugins.stage("quantize", "snap")))

    assert "stages.py" in used()
    assert "qpipe/quant/knapsack.py" not in used()
    lab.edit("stages.py", "import qpipe", "import qpipe.quant.knapsack\nimport qpipe")
    assert "qpipe/quant/knapsack.py" in used()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import qpipe\nqpipe.Sample", {"qpipe/types.py"}),
        ("import qpipe as q\nq.StageOption", {"qpipe/stages/options.py"}),
        ("from qpipe import Samples", {"qpipe/samples/store.py"}),
        ("import qpipe\ngetattr(qpipe, 'Sample')", {"qpipe/types.py", "qpipe/samples/store.py"}),
        ("import qpipe\nqpipe.__version__", {"qpipe/__init__.py"}),
        ("import qpipe", set()),
        ("from qpipe.quant import knapsack", {"qpipe/quant/knapsack.py"}),
        ("import qpipe.quant.knapsack as k", {"qpipe/quant/knapsack.py"}),
        ("import importlib", {"qpipe/quant/knapsack.py"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import qpipe.cli.app", set()),
    ],
)
def test_what_a_plugin_file_uses_of_qpipe_is_followed(
    text: str, expected: set[str], tmp_path: Path
) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(text, encoding="utf-8")
    files = code_digest._used_of_qpipe([file]).keys()
    assert expected <= files
    assert bool(files) == bool(expected)
    assert not any(name.startswith("qpipe/cli/") for name in files)


# in a copy of qpipe: what stands in a file is changed, and the digests are printed before and after
EDITS = """
import json, sys
from pathlib import Path
from qpipe.engine.code_digest import CodeDigests
from qpipe.stages import registry

plugins = registry.load()
stages = {f"{kind} {name}": stage for (kind, name), stage in plugins.stages.items()}

def digests():
    code = CodeDigests()
    codes = {name: code.of_stage(stage) for name, stage in stages.items()}
    return codes | {f"device {name}": code.of_driver(stage) for name, stage in plugins.devices.items()}

changed = {}
for name in sys.argv[1:]:
    before = digests()
    file = Path(name)
    file.write_text(file.read_text(encoding="utf-8") + "\\n# changed\\n", encoding="utf-8")
    changed[name] = [stage for stage, code in digests().items() if code != before[stage]]
print(json.dumps(changed))
"""


def test_a_change_of_a_file_changes_the_keys_of_what_depends_on_it_alone(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for package in ("pipeline/qpipe", "plugins/qpipe_plugins", "devices/qpipe_devices"):
        shutil.copytree(root / package, tmp_path / Path(package).name)
    constants = tmp_path / "qpipe_plugins/quantize/some_constants.py"
    constants.write_text("LEAST = 1\n", encoding="utf-8")
    symmetric = tmp_path / "qpipe_plugins/quantize/symmetric.py"
    text = symmetric.read_text(encoding="utf-8")
    statement = "from qpipe_plugins.quantize.some_constants import LEAST  # noqa: F401\n"
    first = text.index("import onnx_ir")
    symmetric.write_text(text[:first] + statement + text[first:], encoding="utf-8")
    edited = [
        "qpipe_plugins/quantize/some_constants.py",
        "qpipe/types.py",
        "qpipe/engine/measurement_check.py",
        "qpipe_devices/agent/timing.py",
        "qpipe/cli/__init__.py",
        "qpipe/report/__init__.py",
        "qpipe/engine/scheduler.py",
        "qpipe_plugins/quantize/__init__.py",
    ]
    process = subprocess.run(
        [sys.executable, "-c", EDITS, *edited],
        cwd=tmp_path, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    changed = json.loads(process.stdout)
    dependent = changed.pop("qpipe_plugins/quantize/some_constants.py")
    assert "quantize symmetric" in dependent
    assert not {"quantize asymmetric", "measure latency", "device local"} & set(dependent)
    everything = changed.pop("qpipe/types.py")
    assert {"quantize symmetric", "measure latency", "samples npz", "device local"} <= set(
        everything
    )
    checked = changed.pop("qpipe/engine/measurement_check.py")
    assert set(checked) == {name for name in everything if not name.startswith("device ")}
    driven = changed.pop("qpipe_devices/agent/timing.py")
    assert set(driven) == {name for name in everything if name.startswith("device ")}
    assert set(map(len, changed.values())) == {0}, changed


def test_a_package_beside_a_plugin_file_is_part_of_its_code_where_it_imports_by_name(
    lab: Lab,
) -> None:
    lab.write("parts/__init__.py", "")
    lab.write("parts/deep.py", "ONE = 1\n")
    lab.edit("stages.py", "import qpipe", "import importlib\nimport qpipe")
    before = key_of(lab, snapped)
    lab.write("parts/deep.py", "ONE = 2\n")
    assert key_of(lab, snapped) != before


def test_the_versions_of_what_another_distribution_requires_count() -> None:
    assert cache_keys._required_versions("pytest").keys() >= {"pluggy", "iniconfig"}
    assert cache_keys._required_versions("no-such-distribution") == {}
    assert cache_keys._required_versions("qpipe-edge") == {}


def test_the_host_contributes_versions_and_instructions() -> None:
    host = cache_keys.of_host()
    assert {"numpy", "onnx", "onnxruntime"} <= host["libraries"].keys()
    assert host["machine"]
    assert host["instructions"]


def test_a_gpu_counts_where_a_stage_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = registry.load()
    monkeypatch.setattr(cache_keys, "gpu_count", lambda: 1)
    assert cache_keys.of_host(plugins.stage("quantize", "qat"))["gpu"]
    assert cache_keys.of_host(plugins.stage("quantize", "symmetric")) == cache_keys.of_host()


def test_what_comes_from_the_environment_is_part_of_the_key_and_cannot_be_read_from_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.edit(
        "recipe.yaml",
        '{snap: {bits: "${bits}"}}',
        '{snap: {say: "${env:QPIPE_TOKEN}", exclude: ["x${env:QPIPE_TOKEN}"]}}',
    )
    monkeypatch.setenv("QPIPE_TOKEN", "abracadabra")
    loaded = recipe.load(lab.recipe)[0]
    call = snapped(loaded)
    assert call.options["say"] == "abracadabra"
    assert "abracadabra" not in repr(cache_keys.of_call(call)) + repr(call.plain())
    before = key_of(lab, snapped)
    monkeypatch.setenv("QPIPE_TOKEN", "another")
    assert key_of(lab, snapped) != before


def external_constant(path: Path, location: str, *, inside: bool) -> Path:
    """A network with a Constant whose values lie in another file; in a branch of an If where it is `inside`."""
    own = "d = Constant <value = float[1] {1.0}> ()"
    whole = f"d = If (yes) <then_branch = a () => (float[1] d) {{ {own} }}, else_branch = b () => (float[1] d) {{ {own} }}>"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) <bool yes = {{1}}>'
        f"{{ {whole if inside else own} y = Add (x, d) }}"
    )
    attribute = model.graph.node[0].attribute[0]
    tensor = attribute.g.node[0].attribute[0].t if inside else attribute.t
    tensor.raw_data = b""
    onnx.external_data_helper.set_external_data(tensor, location)
    del tensor.float_data[:]
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", ["m.onnx", "m.model"])
@pytest.mark.parametrize("inside", [False, True], ids=["attribute", "subgraph"])
def test_external_values_anywhere_in_a_network_are_part_of_its_digest(
    tmp_path: Path, name: str, inside: bool
) -> None:
    path = external_constant(tmp_path / name, "w.bin", inside=inside)
    digests = {cache_keys.digest(path)}
    for value in (1.0, 2.0):
        (tmp_path / "w.bin").write_bytes(np.float32(value).tobytes())
        digests.add(cache_keys.digest(path))
    assert len(digests) == 3


@pytest.mark.parametrize(
    "location", ["/dev/zero", "../w.bin", "zero", "pipe", "a\0b", "x" * 5000, ""]
)
def test_what_is_no_file_in_the_folder_of_a_network_is_not_read(
    tmp_path: Path, location: str
) -> None:
    (tmp_path / "w.bin").write_bytes(b"1234")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    path = external_constant(folder / "m.onnx", location, inside=False)
    assert external_files(path) == []
    assert cache_keys.digest(path) == cache_keys.digest(path)


def test_what_is_no_network_has_no_external_files(tmp_path: Path) -> None:
    for content in (b"", b"file,label\na.png,1\n", b"\xff" * 99, bytes(99)):
        path = tmp_path / "x"
        path.write_bytes(content)
        assert external_files(path) == []
    assert external_files(tmp_path) == external_files(tmp_path / "absent") == []
