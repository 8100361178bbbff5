"""The accuracy stage, on a device that runs ONNX Runtime in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import qpipe
from qpipe.compare import intervals
from qpipe.stages import registry
from qpipe.types import Array, Round
from qpipe_plugins.measure.accuracy import accuracy
from qpipe_plugins.metric.agreement import agreement
from qpipe_plugins.metric.coco_map import coco_map
from qpipe_plugins.metric.sqnr import sqnr
from qpipe_plugins.metric.topk import topk

NETWORK = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1, 4] x) => (float[1, 4] y) <float[4, 4] w = {WEIGHTS}> { y = MatMul(x, w) }
"""


def network(noise: float) -> bytes:
    weights = np.eye(4) + noise * np.random.default_rng(7).normal(size=(4, 4))
    text = "{" + ", ".join(f"{value:.6f}" for value in weights.ravel()) + "}"
    return onnx.parser.parse_model(NETWORK.replace("{WEIGHTS}", text)).SerializeToString()


class HostDevice:
    """Runs a build here; stops after `most` samples where given."""

    name = "here"

    def __init__(self, samples: qpipe.Samples, most: int | None = None) -> None:
        self.samples, self.most = samples, most

    def infer(
        self, build: qpipe.Stored, samples: qpipe.Stored, count: int
    ) -> Iterator[dict[str, Array]]:
        session = onnxruntime.InferenceSession(
            f"{build.path}/model.onnx", providers=["CPUExecutionProvider"]
        )
        for index in range(count if self.most is None else self.most):
            yield {"y": session.run(None, self.samples.feeds(index, ["x"]))[0]}

    def capabilities(self) -> qpipe.Capabilities:
        raise NotImplementedError

    def store(self, folder: Path, progress: qpipe.Progress) -> qpipe.Stored:
        raise NotImplementedError

    def round(self, build: qpipe.Stored, samples: qpipe.Stored, **_: Any) -> Round:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Bench:
    """A float network and one with noise, deployed; samples of normal numbers, whose target is the float answer."""

    def __init__(self, folder: Path, count: int = 40, targets: bool = True) -> None:
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(count, 4)).astype(np.float32)
        self.labels = np.argmax(inputs, axis=1)
        rows = [
            qpipe.Sample(f"s{i}", {"x": row}, int(label) if targets else None)
            for i, (row, label) in enumerate(zip(inputs, self.labels, strict=True))
        ]
        self.samples = qpipe.Samples.write(folder / "samples", rows, {"x": qpipe.Preprocessing()})
        self.float_outputs = [{"y": row[np.newaxis]} for row in inputs]
        self.folder = folder

    def deployed(self, noise: float) -> qpipe.Deployed:
        folder = self.folder / f"build-{noise}"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(network(noise))
        stored = qpipe.Stored(str(folder), "d", 1, 1)
        return qpipe.Deployed("net/int8/ort", qpipe.Build(folder, {}), stored)

    def measure(
        self, noise: float, most: int | None = None, **options: Any
    ) -> dict[str, qpipe.Measurement]:
        nowhere = qpipe.Stored("", "", 0, 0)
        device = HostDevice(self.samples, most)
        options.setdefault("always", [agreement(), sqnr()])
        found = accuracy(
            self.deployed(noise),
            device,
            nowhere,
            self.samples,
            self.float_outputs,
            self.progress,
            **options,
        )
        return {measurement.metric: measurement for measurement in found}

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        self.seen = (done, total, unit)

    def outputs(self, noise: float) -> Array:
        """What numpy says of the noisy network."""
        weights = np.eye(4) + noise * np.random.default_rng(7).normal(size=(4, 4))
        inputs = np.concatenate([each["y"] for each in self.float_outputs])
        return inputs @ np.round(weights, 6).astype(np.float32)


def test_it_is_registered() -> None:
    assert registry.load().stages["measure", "accuracy"].function is accuracy


def test_shares_have_wilsons_interval_and_one_value_a_sample(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    found = bench.measure(0.3, metric=[topk()])
    right = np.argmax(bench.outputs(0.3), axis=1) == bench.labels
    top1 = found["top1"]
    assert 0 < right.sum() < 40
    assert (top1.value, top1.n, top1.better, top1.raw) == (right.mean(), 40, "max", "samples")
    assert (top1.low, top1.high) == intervals.wilson(int(right.sum()), 40)
    assert [list(each) for each in top1.rounds] == [right.astype(float).tolist()]
    assert found["agreement"].value == top1.value  # the targets are what float answers
    assert bench.seen == (40, 40, "samples")


def test_sqnr_has_a_bootstrap_interval_whose_resamples_are_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    noisy = bench.measure(0.3)["sqnr_db"]
    signal = np.concatenate([each["y"] for each in bench.float_outputs]).astype(np.float64)
    noise = bench.outputs(0.3) - signal
    # float32 products of four numbers near 1, summed: relative errors below 1e-6
    assert noisy.value == pytest.approx(
        10 * np.log10(np.sum(signal**2) / np.sum(noise**2)), abs=1e-4
    )
    assert noisy.low is not None
    assert noisy.high is not None
    assert noisy.low < noisy.value < noisy.high
    assert noisy.raw == "resamples"
    assert [len(each) for each in noisy.rounds] == [1000]


@pytest.mark.parametrize("unit", ["share", ""])
def test_the_interval_of_a_share_that_is_no_mean_ends_at_one(tmp_path: Path, unit: str) -> None:
    def largest(outputs: Any, reference: Any) -> float:
        return float(np.max(outputs["y"]))

    def different(values: Any) -> float:
        return len(set(values)) / len(
            values
        )  # of resamples about 0.63, so that moving them leads beyond 1

    metric = qpipe.Metric("different", largest, different, unit=unit, against="float_outputs")
    found = Bench(tmp_path).measure(0.1, always=[metric])["different"]
    assert found.value == 1.0
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.0
    assert (found.high == 1.0) if unit == "share" else (found.high > 1.0), (
        "who does not say so has no share"
    )


def test_scores_against_float_say_so(tmp_path: Path) -> None:
    found = Bench(tmp_path).measure(0.1, metric=[topk()])
    against = {name: each.detail.get("against") for name, each in found.items()}
    assert against == {"agreement": "float", "sqnr_db": "float_outputs", "top1": None}


def test_the_float_network_agrees_with_itself(tmp_path: Path) -> None:
    found = Bench(tmp_path).measure(0.0)
    assert (found["agreement"].value, found["sqnr_db"].value) == (1.0, 200.0)
    assert found["agreement"].high == 1.0


def test_without_targets_agreement_and_sqnr_are_left(tmp_path: Path) -> None:
    found = Bench(tmp_path, targets=False).measure(0.1, metric=[topk()])
    assert list(found) == ["agreement", "sqnr_db"]


def test_postprocess_makes_what_metrics_against_target_and_float_see(tmp_path: Path) -> None:
    def reversed_scores(outputs: Any) -> Array:
        return np.asarray(-outputs["y"])

    bench = Bench(tmp_path)
    found = bench.measure(0.0, metric=[topk()], postprocess=reversed_scores)
    assert (found["top1"].value, found["agreement"].value, found["sqnr_db"].value) == (
        0.0,
        1.0,
        200.0,
    )


def test_a_metric_of_detections_keeps_its_resamples(tmp_path: Path) -> None:
    def one_box(outputs: Any) -> dict[str, Array]:
        best = int(np.argmax(outputs["y"]))
        return {
            "boxes": np.array([[0, 0, 9, 9]]),
            "scores": np.array([0.9]),
            "labels": np.array([best]),
        }

    bench = Bench(tmp_path)
    rows = [
        qpipe.Sample(f"s{i}", {"x": row["y"][0]}, {"boxes": [[0, 0, 9, 9]], "labels": [int(label)]})
        for i, (row, label) in enumerate(zip(bench.float_outputs, bench.labels, strict=True))
    ]
    bench.samples = qpipe.Samples.write(tmp_path / "boxes", rows, {"x": qpipe.Preprocessing()})
    found = bench.measure(0.3, metric=[coco_map()], postprocess=one_box)["map50"]
    assert (found.raw, [len(each) for each in found.rounds]) == ("resamples", [200])
    assert found.low is not None
    assert found.low < found.value < 1.0


def test_a_metric_named_twice_is_measured_once(tmp_path: Path) -> None:
    found = Bench(tmp_path).measure(0.1, metric=[agreement(), topk()])
    assert list(found) == ["agreement", "sqnr_db", "top1"]


def test_one_sample_has_a_wilson_interval_or_none(tmp_path: Path) -> None:
    found = Bench(tmp_path, count=1).measure(0.1)
    assert found["agreement"].low is not None
    assert (found["sqnr_db"].low, list(found["sqnr_db"].rounds)) == (None, [])


def test_a_device_that_stops_early_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        qpipe.StageError, match=r"^accuracy: here returned outputs of 7 of 40 samples"
    ):
        Bench(tmp_path).measure(0.1, most=7)


def test_a_usual_metric_that_these_outputs_are_nothing_for_is_left_out_and_one_asked_for_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(outputs: Any, reference: Any) -> float:
        raise qpipe.StageError("rank: no scores in 'y'; give another metric")

    rank = qpipe.Metric("rank", refusing, sum, against="float_outputs")
    assert list(Bench(tmp_path / "a").measure(0.1, always=[rank, sqnr()])) == ["sqnr_db"]
    assert "rank is left out: rank: no scores in 'y'" in caplog.text
    with pytest.raises(
        qpipe.StageError, match=r"^rank: no scores in 'y'; give another metric \(sample 's0'\)$"
    ):
        Bench(tmp_path / "b").measure(0.1, metric=[rank])


def test_a_metric_that_breaks_is_told_with_the_sample_and_what_it_got(tmp_path: Path) -> None:
    broken = qpipe.Metric("odd", lambda outputs, _: outputs["z"], sum, against="float_outputs")
    message = r"^metric odd broke at sample 's0': KeyError: 'z'; it got y float32 \[1, 4\]$"
    with pytest.raises(qpipe.StageError, match=message):
        Bench(tmp_path).measure(0.1, metric=[broken])


def test_an_amount_has_no_interval_below_zero(tmp_path: Path) -> None:
    def rare(outputs: Any, reference: Any) -> float:
        return 30.0 if np.argmax(outputs["y"]) != np.argmax(reference["y"]) else 0.0

    metric = qpipe.Metric("edits", rare, lambda all_: float(np.mean(all_)), against="float_outputs")
    found = Bench(tmp_path).measure(0.05, metric=[metric])["edits"]
    assert found.value < 5
    assert found.low is not None
    assert found.low >= 0
