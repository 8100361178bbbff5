"""A run in a real store to which schemes are added, judged when asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from qpipe.compare import measured_rows, pareto
from qpipe.storage.results import Store
from qpipe.types import Measurement

Goals = dict[str, Literal["min", "max"]]
OBJECTIVES: Goals = {"latency_ms": "min", "map50": "max", "size_mb": "min"}


def latency(value: float, half: float = 0.01) -> Measurement:
    return Measurement("latency_ms", value, "ms", value - half, value + half, 10)


def map50(value: float, half: float = 0.001) -> Measurement:
    return Measurement(
        "map50", value, "share", value - half, value + half, 500, "max", raw="resamples"
    )


def size(value: float) -> Measurement:
    return Measurement("size_mb", value, "MB")


def per_sample(values: Sequence[float]) -> Measurement:
    array = np.array(values, np.float64)
    half = 1.96 * float(array.std()) / len(array) ** 0.5
    mean = float(array.mean())
    low, high = mean - half, mean + half
    return Measurement(
        "top1", mean, "share", low, high, len(array), "max", rounds=[list(values)], raw="samples"
    )


class Bench:
    """A run in a store, to which schemes are added."""

    def __init__(self, store: Store) -> None:
        self.store = store
        recipe = {
            "recipe_path": "",
            "recipe_digest": "",
            "recipe_text": "",
            "objectives": OBJECTIVES,
        }
        self.run = store.new_run("ssd", **recipe, versions={})  # type: ignore[arg-type]

    def add(
        self,
        scheme: str,
        *measurements: Measurement,
        device: str = "rpi4",
        build: str = "ort",
        **extra: str,
    ) -> None:
        place = {"model": "net", "scheme": scheme, "build": build, "device": device, **extra}
        facts = {"runtime": "onnxruntime", "is_float": scheme == "float32"}
        self.store.record_measurements(self.run, place, measurements, **facts)

    def reasons(self, objectives: Goals = OBJECTIVES, **margins: float) -> dict[str, str]:
        rows = pareto.verdicts(measured_rows.candidates(self.store, self.run), objectives, margins)
        self.store.record_verdicts(self.run, rows)
        return {row["scheme"]: row["reason"] for row in self.store.verdicts(self.run)}

    def rows(self) -> list[dict[str, Any]]:
        self.reasons()
        return pareto.pareto_rows(self.store, self.run)

    def judged(self) -> list[pareto.JudgedRow]:
        self.reasons()
        return pareto.judged_rows(self.store, self.run)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Store(tmp_path / "qpipe.db") as store:
        yield Bench(store)


def add_four(bench: Bench) -> None:
    """The differences of these numbers, which are not paired, have the intervals of both: 0.02 ms and 0.2 points."""
    bench.add("float32", latency(10.0), map50(0.86), size(8.0))
    bench.add("int8-channel", latency(5.0), map50(0.85), size(2.2))
    bench.add("int8-tensor", latency(5.0), map50(0.60), size(2.2))
    bench.add("log4", latency(5.02), map50(0.82), size(1.2))
