"""What plugins may give as a measurement: numpy's numbers too, and nothing that cannot be kept."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpipe.engine import stage_results
from qpipe.engine.measurement_check import plain_measurement
from qpipe.errors import PluginError
from qpipe.types import Measurement

GOOD = Measurement("top1", 0.5, "", deployed="net/int8/ort")


def test_numbers_of_numpy_become_those_of_python() -> None:
    given = Measurement(
        "top1", np.float32(0.5), "", np.float64(0.25), np.array(1), np.int64(3), rounds=np.array([[1, 2], [3, 4]]),  # type: ignore[arg-type]
        detail={"x": np.float32(0.5), "ok": np.bool_(True), "by": {1: np.arange(2)}, "of": (1, None, "a")},
        conditions=[{"invalid": None, "environment": defaultdict(int, before=np.int8(1))}],
    )  # fmt: skip
    found = plain_measurement(given)
    assert found == Measurement(
        "top1", 0.5, "", 0.25, 1.0, 3, rounds=[[1.0, 2.0], [3.0, 4.0]],
        detail={"x": 0.5, "ok": True, "by": {"1": [0, 1]}, "of": [1, None, "a"]},
        conditions=[{"invalid": None, "environment": {"before": 1}}],
    )  # fmt: skip
    assert type(found.value) is type(found.high) is float
    assert type(found.n) is int
    assert plain_measurement(found) == found


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    stage_results.write(
        "measure", [replace(GOOD, value=np.float32(0.5), detail={"x": np.arange(2)})], tmp_path
    )
    assert stage_results.read("measure", tmp_path) == [
        replace(GOOD, rounds=[], conditions=[], detail={"x": [0, 1]})
    ]


def circle() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["again"] = found
    return found


class Rude:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise OSError("no")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("value", None, "value is None; give a finite number"),
        ("value", float("nan"), "value is nan; give a finite number"),
        ("value", "1.0", "value is '1.0'; give a finite number"),
        ("value", np.array([1.0]), "value is array([1.]); give a finite number"),
        ("value", 1j, "value is 1j; give a finite number"),
        ("low", np.inf, "low is inf; give a finite number"),
        ("high", Fraction(1, 2), "high is Fraction(1, 2); give a finite number"),
        ("n", 1.5, "n is 1.5; give the number of values behind it"),
        ("n", 2**70, "n is 1180591620717411303424; give the number of values behind it"),
        ("unit", None, "unit is None; give a word"),
        ("better", "more", "better is 'more'; give 'max' or 'min'"),
        ("raw", "each", "raw is 'each'; give 'rounds' or 'samples' or 'resamples'"),
        ("rounds", None, "rounds is None; give a list"),
        ("rounds", [1.0, 2.0], "rounds[0] is 1.0; give a list of finite numbers"),
        ("rounds", [[1.0], [2.0, None]], "rounds[1] is [2.0, None]; give a list of finite numbers"),
        ("detail", [1], "detail is [1]; give a mapping"),
        ("detail", {"a": {"b": [1, {2}]}}, "detail['a']['b'][1] is {2}; give plain JSON"),
        ("detail", {"a": float("inf")}, "detail['a'] is inf; give a finite number"),
        ("detail", {(1, 2): 1}, "detail: a key is (1, 2); give text"),
        ("conditions", [{"environment": {"at": Path("a")}}],
         "conditions[0]['environment']['at'] is PosixPath('a'); give plain JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_told_in_one_line(field: str, value: Any, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        stage_results.checked_result("measure", [replace(GOOD, **{field: value})])
    assert str(caught.value) == f"top1 of net/int8/ort: {said}"
    assert caught.value.failure == "bug"


@pytest.mark.parametrize("value", [circle(), {"a": Rude()}, {"a": "\ud800", "b": object()}])
def test_whatever_stands_in_it_is_an_error_of_the_plugin(value: Any) -> None:
    with pytest.raises(PluginError) as caught:
        plain_measurement(replace(GOOD, detail=value))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("metric", [None, "", "a\nb", 3])
def test_a_metric_has_a_name(metric: Any) -> None:
    with pytest.raises(
        PluginError, match=r"^a measurement: metric is .*; give the name of a metric$"
    ):
        plain_measurement(replace(GOOD, metric=metric))


def test_json_is_what_the_store_takes() -> None:
    json.dumps(
        plain_measurement(replace(GOOD, detail={"a": np.float16(1), "b": [np.uint8(2)]})).to_json(),
        allow_nan=False,
    )
