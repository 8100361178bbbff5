"""Recipes, runs and one network from Python: the numbers of the command line, and one line for what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import qpipe
from shell import Shell

RECIPE = """
name: api
variables: {rounds: 3}
samples: {npz: {calibration: few.npz, evaluation: many.npz}}
models: {net: {onnx: {path: net.onnx}}}
schemes: {int8: [symmetric], int4: [{symmetric: {bits: 4}}]}
measure: [{latency: {rounds: "${rounds}", values: 5, warmup_s: 0.02}}, accuracy, size]
pareto: {latency_ms: min, agreement: max, size_mb: min}
"""
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] image) => (float[N, 4] y)
<float[8, 3, 3, 3] w, float[8, 4] g>
{
    c = Conv <pads = [1, 1, 1, 1]> (image, w)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = MatMul (f, g)
}
"""
SCRIPT = """
import sys
import numpy as np
import qpipe

print("started")
image = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
quantized = qpipe.quantize(sys.argv[1], scheme=["symmetric"], samples={"image": image})
print(quantized.graph.node[0].op_type)
"""


def network() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(NETWORK)
    del model.graph.initializer[:]
    for name, shape in (("w", (8, 3, 3, 3)), ("g", (8, 4))):
        array = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)


def outputs(model: onnx.ModelProto, fed: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in fed])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "devices.yaml").write_text(
        f"local: {{local: {{folder: {folder / 'here'}}}}}\n", encoding="utf-8"
    )
    onnx.save(network(), folder / "net.onnx")
    np.savez(folder / "few.npz", image=images(32)[24:])
    np.savez(folder / "many.npz", image=images(24))
    return folder


@pytest.fixture(scope="module")
def steps() -> list[str]:
    return []


@pytest.fixture(scope="module")
def run(home: Path, steps: list[str]) -> qpipe.Run:
    recipe = qpipe.load(
        home / "recipe.yaml", set={"rounds": 2}, db=home / "results.db", cache=home / "cache"
    )
    planned = recipe.plan()
    assert {step.kind for step in planned} >= {"samples", "import", "quantize", "measure"}
    assert [step.name for step in planned if step.will == "cached"] == [
        "samples",
        "net/import",
        "net/float32/ort",
    ]
    return recipe.run(progress=lambda event: steps.append(event.step))


def test_a_run_has_the_rows_of_the_command_line(
    home: Path,
    run: qpipe.Run,
    steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run.state == "done"
    assert "net/int8/ort@local/accuracy" in steps
    rows = Shell(monkeypatch, capsys).json(f"pareto --db {home / 'results.db'}")["rows"]
    assert run.to_dict()["rows"] == rows
    by_scheme = {row["scheme"]: row for row in rows}
    assert len(run.results) == len(rows) == 3
    for row in run.results:
        printed = by_scheme[row.scheme]
        assert row.on_front == printed["on_front"]
        for name, measured in printed["metrics"].items():
            value = row[name]
            given = (value.value, value.low, value.high, value.unit)
            assert given == (measured["value"], measured["low"], measured["high"], measured["unit"])
    assert [one.id for one in qpipe.runs(home / "results.db")] == [run.id]


def test_rows_become_tables(run: qpipe.Run) -> None:
    flat = run.results.to_dicts()
    assert flat[0]["latency_ms_low"] <= flat[0]["latency_ms"] <= flat[0]["latency_ms_high"]
    assert run.results._repr_html_().count("<tr>") == 4
    table = run.results.to_dataframe()
    assert len(table) == len(flat)
    for name in ("scheme", "on_front", "latency_ms", "latency_ms_low"):
        assert list(table[name]) == [row[name] for row in flat]


def test_a_script_does_what_commands_do(
    home: Path,
    run: qpipe.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    db = home / "results.db"
    shell = Shell(monkeypatch, capsys)
    places = f"--db {db} --cache {home / 'cache'}"
    tagged = run.tag("first")
    assert list(tagged.tags) == ["first"]
    assert qpipe.find_run("first", db=db).record == tagged.record
    step = "net/int8/ort@local/size"
    assert run.step(step).to_dict() == shell.json(f"show {step} --db {db}")
    assert run.compare(run).to_dict() == shell.json(f"compare first first --db {db}")
    recipe = qpipe.load(home / "recipe.yaml", set={"rounds": 2}, db=db, cache=home / "cache")
    command = f"{home / 'recipe.yaml'} {{}} --set rounds=2 {places}"
    why = recipe.why(step, run).to_dict()
    assert why == shell.json("why " + command.format(step))
    planned = [one.to_dict() for one in recipe.plan()]
    assert planned == shell.json("plan " + command.format(""))
    limit = 1.001 * max(row["size_mb"].value for row in run.results if not row.is_float)
    judged = run.judged(limits={"size_mb": ("<=", limit)}, keep=100)
    (shipped,) = judged.shipped
    assert not shipped.is_float
    manifest = run.export(
        tmp_path / "out", device="local", scheme=shipped.scheme, cache=home / "cache"
    )
    assert (tmp_path / "out" / manifest["model"]).is_file()


def test_a_table_needs_pandas(run: qpipe.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # what Python takes for one that is not there
    with pytest.raises(
        qpipe.QpipeError, match=r"^no pandas is installed; run: pip install pandas$"
    ):
        run.results.to_dataframe()


def test_a_run_recommends_what_the_command_line_does(run: qpipe.Run) -> None:
    ((place, lines),) = run.results.recommendations.items()
    assert place == ("net", "local")
    rows = run.results.shipped
    if not rows:
        assert "nothing is recommended" in lines[0]
    else:
        assert f"ship {rows[0].scheme}" in lines[0]


def test_a_report_is_written(run: qpipe.Run, tmp_path: Path) -> None:
    file = run.report(tmp_path / "report.html")
    assert run.id in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("from_file", [False, True], ids=["in memory", "file"])
def test_one_network_is_quantized_for_stock_onnx_runtime(from_file: bool, tmp_path: Path) -> None:
    model: onnx.ModelProto | Path = network()
    if from_file:
        model = tmp_path / "net.onnx"
        onnx.save(network(), model)
    quantized = qpipe.quantize(
        model,
        scheme=["equalize", {"symmetric": {"granularity": "tensor"}}],
        samples={"image": images(16)},
    )
    onnx.checker.check_model(quantized)
    assert "DequantizeLinear" in {node.op_type for node in quantized.graph.node}
    fed = images(32)
    expected = outputs(network(), fed)
    error = outputs(quantized, fed) - expected
    sqnr = 10 * np.log10(np.sum(expected**2) / np.sum(error**2))
    assert sqnr > 30


def test_a_script_without_a_guard_runs_once(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, script, home / "net.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("started\nQuantizeLinear\n", "")


def test_what_is_wrong_is_one_line(home: Path) -> None:
    with pytest.raises(qpipe.RecipeError, match=r"recipe\.yaml.*round"):
        qpipe.load(home / "recipe.yaml", set={"round": 2})
    with pytest.raises(
        qpipe.QpipeError, match=r"no plugin offers quantize 'symetric'; .*symmetric"
    ):
        qpipe.quantize(network(), scheme=["symetric"], samples={"image": images(2)})
    wide = np.random.default_rng(0).normal(size=(3, 3, 8, 9)).astype(np.float32)
    with pytest.raises(qpipe.QpipeError, match=r"^the samples give .*8, 9.*image"):
        qpipe.quantize(network(), scheme=["symmetric"], samples={"image": wide})
    with pytest.raises(qpipe.StageError, match=r"^samples: .*image \[1, 3, 8, 8\]; give an array"):
        qpipe.quantize(network(), scheme=["symmetric"], samples={"image": images(1)})
    with pytest.raises(qpipe.QpipeError, match=r"nowhere\.db"):
        qpipe.runs(home / "nowhere.db")
