"""What latency asks of a device beside its values: batch, threads, cores, sustained load; what it keeps of rounds."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import qpipe
from qpipe.storage.results import Store
from qpipe_devices import local
from qpipe_plugins.measure.latency import latency
from qpipe_plugins.measure.memory import memory
from small_build import nothing, write_build

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] image) => (float[n, 192] flat) { flat = Flatten (image) }
"""


@pytest.fixture
def bench(tmp_path):
    """A device, what is deployed on it, and its samples."""
    device = local("board", folder=tmp_path / "board")
    pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
    how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
    samples = qpipe.Samples.write(tmp_path / "samples", [qpipe.Sample("0", pixels)], how)
    build = write_build(tmp_path / "build")
    onnx.save(onnx.parser.parse_model(MODEL), build.folder / "model.onnx")
    own = {
        **build.manifest,
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["n", 3, 8, 8]}],
    }
    build = qpipe.Build.write(build.folder, own)
    deployed = qpipe.Deployed("net/int8/ort", build, device.store(build.folder, nothing))
    (tmp_path / "work").mkdir()
    yield device, deployed, device.store(samples.folder, nothing)
    device.close()


def measure(bench, work: Path, **options: object) -> dict[str, qpipe.Measurement]:
    device, deployed, samples = bench
    given = {"rounds": 2, "values": 20, "warmup_s": 0.02, **options}
    found = latency(
        qpipe.Deployments([deployed]), device, {deployed.name: samples}, work, nothing, **given
    )
    return {each.metric: each for each in found}


def test_throughput_counts_the_samples_of_a_batch(bench, tmp_path):
    found = measure(bench, tmp_path / "work", batch=8, threads=1)
    assert found["throughput"].value == pytest.approx(8 * 1000 / found["latency_ms"].value)
    assert (found["throughput"].unit, found["throughput"].better) == ("/s", "max")


def test_a_sustained_load_is_told_apart_from_a_burst(bench, tmp_path):
    found = measure(bench, tmp_path / "work", sustained_s=3)
    one = found["sustained_ms"]
    (curve,) = one.rounds
    assert len(curve) == 3
    assert one.value == curve[-1]  # of three seconds the last third
    assert one.detail["slower"] == one.value / found["latency_ms"].value
    assert one.detail["ends_s"] == pytest.approx([1, 2, 3], abs=0.5)
    assert one.deployed == "net/int8/ort"


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores"
)
def test_the_store_keeps_the_conditions_of_each_round(bench, tmp_path):
    core = min(os.sched_getaffinity(0))
    one = measure(bench, tmp_path / "work", affinity=[core], max_load=1)["latency_ms"]
    with Store(tmp_path / "qpipe.db") as store:
        run = store.new_run(
            "r", recipe_path="r.yaml", recipe_digest="d", recipe_text="", versions={}
        )
        place = {"model": "net", "scheme": "int8", "build": "ort", "device": "board"}
        for _ in range(2):  # recorded anew they are replaced
            store.record_measurements(run, place, [one])
        (row,) = store.measurements(run)
        kept = store.rounds(row["id"])
        store.resume_run(run)  # it may be that nobody measures them again
        assert store.rounds(row["id"]) == kept
        store.forget_other_measurements(run, steps=(), unreachable_devices=())
        assert store.rounds(row["id"]) == []
    assert [each["round"] for each in kept] == [0, 1]
    assert [each["environment"]["affinity"] for each in kept] == [[core], [core]]
    assert all(each["environment"]["before"]["kernel"] == os.uname().release for each in kept)
    assert [each["invalid"] for each in kept] == [None, None]


def test_memory_of_loading_and_of_running_are_two_numbers(bench):
    device, deployed, samples = bench
    found = {each.metric: each for each in memory(deployed, device, samples, nothing, rounds=2)}
    whole, load = found["memory_mb"], found["memory_load_mb"]
    assert 0 < load.value <= whole.value
    pairs = zip(found["memory_run_mb"].rounds, load.rounds, strict=True)
    assert whole.value == statistics.median(max(own[0], other[0]) for own, other in pairs)
