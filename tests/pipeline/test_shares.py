"""What is a share says so by its unit: only that is shown in percent, and bounded by 1."""

from __future__ import annotations

from typing import Any

import pytest
from front_bench import Bench, map50

from qpipe.compare.formatting import cell, heading, is_share, phrase
from qpipe.report.run_results import metric_columns
from qpipe.stages import registry
from qpipe.storage.results import Store
from qpipe.types import Measurement


def shown(bench: Bench, measured: Measurement) -> tuple[str, str, str]:
    bench.add("int8", measured)
    rows, name = bench.rows(), measured.metric
    share, number = is_share(name, rows), rows[0]["metrics"][name]
    return heading(name, rows), cell(number, share), phrase(name, number, share)


def test_a_share_is_shown_in_percent(bench: Bench) -> None:
    assert shown(bench, map50(0.4)) == ("map50 %", "40.0 ±0.1", "map50 40.0 % (39.9 to 40.1)")


def test_a_number_between_0_and_1_is_no_share_for_that(bench: Bench) -> None:
    miscount = Measurement("miscount", 0.4, "", 0.3, 0.5, 50, raw="samples")
    assert shown(bench, miscount) == ("miscount", "0.40 ±0.10", "miscount 0.40 (0.30 to 0.50)")


def test_every_score_has_its_column_share_or_not(bench: Bench) -> None:
    other = Measurement("peak_db", 0.4, "dB", 0.3, 0.5, 50, raw="samples")
    bench.add(
        "int8",
        other,
        Measurement("miscount", 2.0, "boxes", 1.0, 3.0, 50, raw="samples"),
        map50(0.5),
    )
    assert metric_columns(bench.rows(), ["map50"]) == ["map50", "peak_db", "miscount"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("topk", {"k": 5}), ("coco_map", {}), ("voc_map", {}), ("f1", {}), ("agreement", {})],
)
def test_the_shares_among_the_metrics_say_so(name: str, options: dict[str, Any]) -> None:
    stage = registry.load().stages["metric", name]
    assert stage.function(**options).unit == "share"


def test_a_number_in_a_file_stays_a_share_or_none_as_it_said(bench: Bench) -> None:
    rates = {
        "top1": ("share", "max", 0.7),
        "wer": ("", "min", 0.1),
        "sqnr_db": ("dB", "max", 0.5),
        "score": ("", "max", 0.7),
    }
    for name, (unit, better, value) in rates.items():
        bench.add("int8", Measurement(name, value, unit, better=better, raw="resamples"))  # type: ignore[arg-type]
    with Store(bench.store.path) as store:
        units = {row["metric"]: row["unit"] for row in store.measurements(bench.run)}
    assert units == {"top1": "share", "wer": "", "sqnr_db": "dB", "score": ""}
