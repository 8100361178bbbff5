"""qpipe diagnose on a network with known faults: it tells where accuracy goes, and what to try."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import yaml

from models import conv_net, images, run
from processors import Arithmetic, both_kinds, machine_kind
from qpipe.diagnose.range_fit import range_fits
from qpipe.report.diagnosis_page import page
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from shell import Shell

RECIPE = """
name: small
samples: {npz: {calibration: few.npz, evaluation: many.npz}}
models: {net: {onnx: {path: net.onnx}}}
schemes:
  float32: []
  tensor: [{symmetric: {granularity: tensor}}]
  channel: [{symmetric: {granularity: channel}}]
  few: [{symmetric: {bits: 3}}]
  clipped: [{symmetric: {activation_range: percentile, percentile: 90}}]
  equalized: [equalize, symmetric]
  everything: [equalize, {symmetric: {granularity: tensor, activation_range: mse}}, compensate]
measure: [{accuracy: {metric: []}}, size]
devices: [local]
pareto: {sqnr_db: max, size_mb: min}
"""
EVALUATION = images(20, seed=2)


def faulty() -> ir.Model:
    """One channel of the pointwise layer is a hundred times the others: per-tensor, these get one level or none."""
    model = conv_net()
    value = model.graph.initializers["flat_w"]
    array = value.const_value.numpy().copy()
    array[0] *= 100
    value.const_value = ir.tensor(array, name="flat_w")
    return model


def fill(folder: Path, kind: Arithmetic | None = None) -> Path:
    """A folder with the recipe; the device is of that kind of processor, or of this machine's.

    The inventory says so: else its target would be unknown until a run checks the device.
    """
    target = (kind or machine_kind()).target
    device = {"local": {"folder": str(folder / "here")}, "target": {"saturates": target.saturates}}
    ir.save(faulty(), folder / "net.onnx")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "devices.yaml").write_text(yaml.safe_dump({"local": device}), encoding="utf-8")
    for name, arrays in (("few", images(8, seed=1)), ("many", EVALUATION)):
        np.savez(folder / f"{name}.npz", image=np.concatenate(arrays))
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe; what is computed there for one test is cached for the next."""
    return fill(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def qpipe(lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command in the lab."""
    monkeypatch.chdir(lab)
    return Shell(monkeypatch, capsys)


def diagnosed(qpipe: Shell, scheme: str, more: str = "") -> dict[str, Any]:
    report = json.loads(qpipe(f"diagnose recipe.yaml --scheme {scheme} --json {more}")[0])
    written = Path(f".qpipe/diagnose/small/net-{scheme}-ort-local.json")
    assert json.loads(written.read_text(encoding="utf-8")) == report
    return report


def sqnr_db(model: ir.Model, inputs: list[np.ndarray], *, optimize: bool = False) -> float:
    """By numpy: of the logits against those of the float network."""
    exact, found = (
        np.stack([each["logits"] for each in run(net, inputs, optimize=own)])
        for net, own in ((faulty(), True), (model, optimize))
    )
    return float(
        10 * np.log10(np.sum(exact.astype(np.float64) ** 2) / np.sum((exact - found) ** 2.0))
    )


def cached(kind: str, has: Callable[[ir.Model], bool]) -> ir.Model:
    """The network of the cache that is so."""
    files = Path(".qpipe/cache", kind).glob("*/value/model.onnx")
    return next(model for model in map(ir.load, files) if has(model))


def test_the_ladder_says_at_which_rung_the_numbers_change(
    qpipe: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path))
    report = diagnosed(qpipe, "channel", "--count 20")
    rungs = {rung["name"]: rung for rung in report["ladder"]}
    assert list(rungs) == ["original", "simulated", "host", "device"]
    assert rungs["original"]["metrics"] == {"agreement": 1.0, "sqnr_db": 200.0}
    quantized = cached("quantize", lambda model: True)
    assert rungs["simulated"]["metrics"]["sqnr_db"] == pytest.approx(
        sqnr_db(quantized, EVALUATION), abs=0.01
    )
    built = cached(
        "compile", lambda model: any(node.op_type == "QuantizeLinear" for node in model.graph)
    )
    expected = sqnr_db(built, EVALUATION, optimize=True)
    for name in ("host", "device"):
        assert rungs[name]["metrics"]["sqnr_db"] == pytest.approx(expected, abs=0.01)
    assert rungs["device"]["note"] == "inferred on local now"
    assert {rung["samples"] for rung in report["ladder"]} == {20}


def test_on_the_device_it_is_what_the_newest_run_measured_of_this_build(qpipe: Shell) -> None:
    qpipe("run recipe.yaml --only channel")
    measured = json.loads(qpipe("pareto --json")[0])["rows"]
    (row,) = (row for row in measured if row["scheme"] == "channel")
    rung = diagnosed(qpipe, "channel", "--count 4")["ladder"][-1]
    assert rung["note"] == f"measured by run {row['run']}, on its own samples: not those above"
    assert rung["samples"] == 20
    assert rung["metrics"] == {
        name: row["metrics"][name]["value"] for name in ("agreement", "sqnr_db")
    }


def test_a_scheme_with_transforms_has_a_rung_for_these(qpipe: Shell) -> None:
    rungs = {rung["name"]: rung for rung in diagnosed(qpipe, "equalized", "--count 4")["ladder"]}
    assert (
        rungs["transformed"]["metrics"]["sqnr_db"] > 50 > rungs["simulated"]["metrics"]["sqnr_db"]
    )


@both_kinds
def test_the_layer_with_a_dominating_channel_is_worst_per_tensor_and_told_to_go_per_channel(
    kind: Arithmetic, qpipe: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path, kind))
    worst, *others = diagnosed(qpipe, "tensor")["layers"]
    assert (worst["layer"], worst["weight"], worst["bits"]) == ("point", "flat_w", 8)
    magnitudes = np.abs(faulty().graph.initializers["flat_w"].const_value.numpy()).max(
        axis=(1, 2, 3)
    )
    assert worst["channels"] == pytest.approx(magnitudes.max() / np.median(magnitudes), rel=0.02)
    assert worst["remedy"].startswith("channels differ ")
    assert worst["remedy"].endswith("x: use granularity channel, or equalize before it")
    assert worst["weights"] < worst["activations"]
    assert worst["only"] < min(other["only"] for other in others)
    assert worst["without"] > max(other["without"] for other in others)


def test_few_bits_are_to_be_more_or_compensated(qpipe: Shell) -> None:
    report = diagnosed(qpipe, "few")
    remedies = {layer["layer"]: layer["remedy"] for layer in report["layers"]}
    assert remedies["middle"].startswith("3-bit depthwise: give it 8 bits")
    assert remedies["first"] == "3 bits are few for it: give it more (mixed), or compensate"
    assert report["sqnr_db"]["weights"] < report["sqnr_db"]["activations"]


def test_what_the_scheme_has_already_is_not_advised(qpipe: Shell) -> None:
    report = diagnosed(qpipe, "everything")
    remedies = " ".join(layer["remedy"] for layer in report["layers"])
    assert not re.search("equalize|activation_range: mse|compensate", remedies)
    assert "compensate" in " ".join(x["remedy"] for x in diagnosed(qpipe, "channel")["layers"])


CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 4, 8, 8] image) => (float[1, 4, 8, 8] logits) {
  [one] a = Conv (image, w1) b = Relu (a) [two] c = Conv (b, w2) d = Relu (c)
  [three] e = Conv (d, w3) f = Relu (e) [four] g = Conv (f, w4) h = Relu (g)
  [five] i = Conv (h, w5) j = Relu (i) [six] k = Conv (j, w6) l = Relu (k)
  [seven] logits = Conv (l, w7) }
"""


def ruined_by_one_layer() -> ir.Model:
    """The layer `three` reads a channel of 300 times the others, which it gives no weight."""
    random = np.random.default_rng(6)
    arrays = {f"w{number}": random.uniform(-0.2, 0.6, (4, 4, 1, 1)) for number in range(1, 8)}
    arrays["w2"][0] = 100
    arrays["w3"][:, 0] *= 1e-4
    tensors = [ir.tensor(array.astype(np.float32), name=name) for name, array in arrays.items()]
    return ir.from_onnx_text(CHAIN, initializers=tensors)


def test_a_floor_is_advised_before_mse_where_few_layers_carry_the_loss(
    qpipe: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path))
    ir.save(ruined_by_one_layer(), "net.onnx")
    random = np.random.default_rng(7)
    for name in ("few", "many"):
        pictures = random.uniform(0, 1, (12, 4, 8, 8))
        np.savez(f"{name}.npz", image=pictures.astype(np.float32))
    worst, *others = diagnosed(qpipe, "channel")["layers"]
    assert worst["layer"] == "three"
    assert "mixed: {bits: [8, 32], sqnr: 30}" in worst["remedy"]
    assert "mse" not in worst["remedy"]
    assert not any("mixed" in other["remedy"] for other in others)
    for _ in range(2):  # the second time as the cache keeps it
        out, _ = qpipe("plan recipe.yaml")
        (line,) = [line for line in out.splitlines() if line.startswith("net at 8 bits: ")]
        assert "lost by Conv 'three' (" in line


def test_plan_tells_what_8_bits_cost_once_the_network_is_calibrated(
    qpipe: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path))
    out, _ = qpipe("plan recipe.yaml")
    assert "at 8 bits" not in out
    diagnosed(qpipe, "channel")
    out, _ = qpipe("plan recipe.yaml")
    found = re.search(r"net at 8 bits: outputs at (.*) dB of float's on 4 samples$", out, re.M)
    assert found
    assert float(found[1]) > 25


def test_a_range_that_clips_is_named_with_the_share_of_values(
    qpipe: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path))
    report = diagnosed(qpipe, "clipped", "--count 20")
    layer = next(layer for layer in report["layers"] if layer["layer"] == "first")
    assert layer["reads"] == "image"
    model = cached("quantize", lambda model: True)
    quantizer = next(
        n for n in model.graph if n.op_type == "QuantizeLinear" and n.inputs[0].name == "image"
    )
    scale, zero_point = (value.const_value.numpy() for value in quantizer.inputs[1:])
    codes = np.rint(np.concatenate(EVALUATION) / scale) + zero_point
    share = float(np.mean((codes < 0) | (codes > 255)))
    assert 0.05 < share < 0.15
    assert layer["clipped"] == pytest.approx(share)
    assert (
        layer["remedy"]
        == f"the range of 'image' clips {100 * share:.2g} %: use activation_range: minmax"
    )
    assert report["sqnr_db"]["activations"] < report["sqnr_db"]["weights"]


def test_codes_that_are_no_integers_have_no_range_to_clip(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]>
    net (float[1, 2] x) => (float[1, 2] y) <float s = {0.5}, float8e4m3fn z>
    { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"""
    zero = ir.tensor(np.zeros((), ir.DataType.FLOAT8E4M3FN.numpy()), name="z")
    model = ir.from_onnx_text(text, initializers=[zero])
    rows = [Sample("0", {"x": np.float32([1, 2])})]
    samples = Samples.write(tmp_path, rows, {"x": Preprocessing()})
    assert range_fits(model, model, samples, [0]) == {}


def test_the_table_has_the_ladder_and_the_worst_layers(qpipe: Shell) -> None:
    out, _ = qpipe("diagnose recipe.yaml --scheme tensor")
    lines = out.splitlines()
    assert lines[0] == "tensor of net on local, 16 evaluation samples"
    assert [line.split()[0] for line in lines[3:7]] == ["original", "simulated", "host", "device"]
    table = lines[next(at for at, line in enumerate(lines) if line.startswith("layer ")) + 1 :]
    assert table[0].startswith("point")
    place = ".qpipe/diagnose/small/net-tensor-ort-local"
    assert lines[-1] == f"all 6 layers: {place}.json, {place}.html"


def test_the_page_holds_every_rung_and_layer_and_loads_nothing(qpipe: Shell) -> None:
    report = diagnosed(qpipe, "tensor")
    written = Path(".qpipe/diagnose/small/net-tensor-ort-local.html").read_text(encoding="utf-8")
    for told in (
        *(rung["note"] for rung in report["ladder"]),
        *(layer["remedy"] for layer in report["layers"]),
    ):
        assert f">{escape(told)}<" in written
    assert re.search(r"src=|href=|url\(|@import|<script", written) is None


def test_what_others_named_is_escaped_on_the_page() -> None:
    layer = {"layer": "<b>", "operator": "Conv", "bits": 8, "remedy": "'<i>' is rounded coarsely"}
    layer |= dict.fromkeys(("only", "without", "weights", "activations"), 12.0)
    rung = {"name": "device", "metrics": {"<u>_db": 3.0}, "samples": 4, "note": "<script>"}
    report = {
        "recipe": "<p>",
        "scheme": "<s>",
        "model": "a&b",
        "build": "ort",
        "device": "<em>",
        "samples": 4,
    }
    report |= {"ladder": [rung], "layers": [layer]}
    report["sqnr_db"] = dict.fromkeys(("weights", "activations", "both"), 12.0)
    written = page(report)
    for name in ("b", "i", "u", "script", "s", "em"):
        assert f"<{name}>" not in written
        assert f"&lt;{name}&gt;" in written
    assert "a&amp;b" in written
    assert "<p>," not in written


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("tenser", "no scheme 'tenser' in recipe.yaml; did you mean 'tensor'?"),
        (
            "float32",
            "diagnose: scheme 'float32' quantizes nothing; give one that has a quantize stage",
        ),
    ],
)
def test_what_cannot_be_diagnosed_is_told_in_a_line(scheme: str, reason: str, qpipe: Shell) -> None:
    _, err = qpipe(f"diagnose recipe.yaml --scheme {scheme}", status=2)
    assert err.splitlines()[-1].endswith(reason)
