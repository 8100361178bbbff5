"""Runs in a real store with rounds, samples and failures, for tests of the report: no network is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qpipe.compare.pareto import judge_run
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Measurement

OBJECTIVES = {"latency_ms": "min", "top1": "max", "size_mb": "min", "memory_mb": "min"}
# scheme -> median latency in ms, top1, size in MB, memory in MB
SCHEMES = {
    "float32": (9.84, 0.894, 13.9, 124.6),
    "int8-tensor": (4.12, 0.851, 3.60, 82.1),
    "int8-channel": (4.18, 0.885, 3.72, 82.4),
    "int8-asymmetric": (6.95, 0.880, 3.60, 83.0),
    "int8-equalized": (4.10, 0.889, 3.60, 82.0),
    "int4": (4.31, 0.866, 2.02, 87.3),
    "log4": (4.52, 0.858, 2.02, 87.9),
}
RECIPE_TEXT = "name: classifier\nschemes:\n  int8-tensor: [{symmetric: {granularity: tensor}}]\n"
SAMPLES = 400
ROUNDS = 8
DEPLOYED_KEY = "5b" * 32  # of the deploy step of int4 on pi5


@dataclass(frozen=True)
class Row:
    """What is recorded of a row."""

    scheme: str
    latency_ms: float
    top1: float
    size_mb: float
    memory_mb: float


def rows_of(schemes: Mapping[str, Sequence[float]] = SCHEMES) -> list[Row]:
    return [Row(scheme, *numbers) for scheme, numbers in schemes.items()]


def board(cpu: str, **reported: object) -> Capabilities:
    """What a device says of itself."""
    fields: dict[str, object] = {
        "arch": "aarch64",
        "system": "Linux 6.6.51",
        "cpu": cpu,
        "cores": 4,
        "features": ("neon", "asimddp"),
        "memory_mb": 3792.0,
        "python": "3.11.2",
        "numpy": "2.3.1",
        "runtimes": {"onnxruntime": "1.23.0"},
        "fingerprint": f"{abs(hash(cpu)):x}",
    }
    return Capabilities(**{**fields, **reported})  # type: ignore[arg-type]


def new_run(store: Store, recipe: str = "classifier", **columns: object) -> str:
    """A run without measurements."""
    fields: dict[str, object] = {
        "recipe_path": "recipes/classifier.yaml",
        "recipe_digest": "7c" * 32,
        "recipe_text": RECIPE_TEXT,
        "versions": {"qpipe": "0.1.0", "onnxruntime": "1.23.0"},
        "objectives": OBJECTIVES,
    }
    return store.new_run(recipe, **{**fields, **columns})  # type: ignore[arg-type]


def add_device(
    store: Store,
    run: str,
    device: str,
    *,
    slower: float = 1.0,
    rows: Sequence[Row] | None = None,
    noise: float = 0.01,
    has_raw_values: bool = True,
    model: str = "mobilenet_v2",
    seed: int = 1,
) -> None:
    """Record all rows of a device, whose times are `slower` times those of the table."""
    random = np.random.default_rng(seed)
    chance = random.random(SAMPLES)  # the same samples are hard for every scheme
    float_times: np.ndarray | None = None
    for row in rows or rows_of():
        times = random.normal(
            row.latency_ms * slower, row.latency_ms * slower * noise, (ROUNDS, 20)
        )
        times += random.gamma(0.6, row.latency_ms * slower * noise * 2, (ROUNDS, 20))
        medians = np.median(times, axis=1)
        if float_times is None:
            float_times = medians
        facts = {
            "runtime": "onnxruntime",
            "is_float": row.scheme == "float32",
            "model_digest": "1f" * 32,
            "build_digest": "2e" * 32,
            "evaluation_digest": "3d" * 32,
            "fingerprint": "4c" * 32,
            "step": f"{model}/{row.scheme}/ort@{device}/latency",
        }
        place = {"model": model, "scheme": row.scheme, "build": "ort", "device": device}
        measured = _measured(row, times, medians / float_times, chance)
        if not has_raw_values:
            measured = [replace(number, rounds=(), conditions=()) for number in measured]
        store.record_measurements(run, place, measured, **facts)  # type: ignore[arg-type]


def _measured(
    row: Row, times: np.ndarray, ratios: np.ndarray, chance: np.ndarray
) -> list[Measurement]:
    medians = np.median(times, axis=1)
    half = 2.2 * float(medians.std(ddof=1)) / len(medians) ** 0.5
    value = float(np.median(times))
    right = (chance < row.top1).astype(float)
    share = float(right.mean())
    share_half = 1.96 * (share * (1 - share) / SAMPLES) ** 0.5
    ratio = float(ratios.mean())
    ratio_half = 2.2 * float(ratios.std(ddof=1)) / len(ratios) ** 0.5
    environment = {
        "before": {"temperature_c": {"cpu": 48.1}, "governor": {"policy0": "performance"}},
        "after": {"temperature_c": {"cpu": 51.7}, "governor": {"policy0": "performance"}},
    }
    conditions: list[dict[str, object]] = [
        {"invalid": None, "environment": environment} for _ in times
    ]
    conditions[3]["invalid"] = "load: other processes took more than 25 % of the 4 cores it may use"
    measured = [
        Measurement(
            "latency_ms",
            value,
            "ms",
            value - half,
            value + half,
            len(times),
            rounds=times.tolist(),
            conditions=conditions,
        ),
        Measurement(
            "top1",
            share,
            "share",
            share - share_half,
            share + share_half,
            SAMPLES,
            "max",
            rounds=[right.tolist()],
            raw="samples",
        ),
        Measurement("size_mb", row.size_mb, "MB"),
        Measurement("memory_mb", row.memory_mb, "MB", row.memory_mb - 0.3, row.memory_mb + 0.3, 12),
        Measurement("int8_nodes", 0.0 if row.scheme == "float32" else 61.0, "nodes", better="max"),
    ]
    if row.scheme != "float32":
        measured.append(
            Measurement(
                "latency_ratio", ratio, "", ratio - ratio_half, ratio + ratio_half, len(times)
            )
        )
    return measured


def full_run(store: Store, **columns: object) -> str:
    """A run on two devices, with a step that failed."""
    run = new_run(store, **columns)
    store.record_devices(
        run, {"pi5": board("Cortex-A76"), "pi3": board("Cortex-A53", memory_mb=921.0)}
    )
    store.record_unreachable(
        run, {"shelf-7": "shelf-7: 10.0.0.7:22 cannot be reached: no route to host; is it on?"}
    )
    add_device(store, run, "pi5")
    add_device(store, run, "pi3", slower=7.4, seed=2)
    store.record_step(
        run, "mobilenet_v2/int4/ort@pi5/deploy", kind="deploy", state="done", key=DEPLOYED_KEY
    )
    store.record_step(
        run,
        "mobilenet_v2/log4/ov@pi3/deploy",
        kind="deploy",
        stage="copy",
        state="failed",
        device="pi3",
        failure="no room",
        error="pi3: no room for model.onnx (14 MB, 3 MB free in /home/pi); free space or run: "
        "qpipe devices clean pi3",
    )
    store.finish_run(run, "partial")
    judge_run(store, run)
    return run
