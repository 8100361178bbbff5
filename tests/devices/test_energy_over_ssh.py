"""Energy by the whole command line, on a board behind a real sshd whose meter is a command there."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fault_lab
import pytest
from fault_lab import Site

WATTS = 2.5
MEASURE = """
measure:
  - energy:
      command: while :; do echo "meter %g W"; sleep 0.02; done
      rounds: 2
      round_s: 0.5
      warmup_s: 0.02
      idle_s: 0.2
      updates: 10
      max_load: 1
  - size
pareto: {energy_mj: min, size_mb: min}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = fault_lab.make(tmp_path / "site")
    kept = [
        line
        for line in fault_lab.RECIPE.splitlines()
        if not line.startswith(("measure:", "pareto:"))
    ]
    (made.host / "recipe.yaml").write_text("\n".join(kept) + MEASURE % WATTS, encoding="utf-8")
    yield made
    made.end()


@pytest.mark.lab
def test_a_recipe_weighs_schemes_by_what_an_inference_costs_in_energy(site: Site) -> None:
    ended = site.finish(site.run())
    assert ended.status == 0, ended.said
    assert "energy mJ" in ended.said or "energy_mj" in ended.said, ended.said
    told = subprocess.run(
        [Path(sys.executable).with_name("qpipe"), "pareto", "--json"],
        cwd=site.host, check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    rows = {row["scheme"]: row["metrics"] for row in json.loads(told.stdout)["rows"]}
    assert set(rows) == {"float32", "int8"}
    for metrics in rows.values():
        detail = metrics["energy_mj"]["detail"]
        each = [
            1000 * WATTS * s / n
            for s, n in zip(detail["seconds"], detail["inferences"], strict=True)
        ]
        assert metrics["energy_mj"]["value"] == pytest.approx(statistics.median(each), rel=1e-6)
        assert metrics["energy_net_mj"]["value"] == pytest.approx(0, abs=1e-6)
        assert metrics["power_w"]["value"] == pytest.approx(WATTS)
        assert (detail["source"], detail["idle_w"]) == ("command", pytest.approx([WATTS] * 2))
        assert (
            metrics["energy_mj"]["low"]
            <= metrics["energy_mj"]["value"]
            <= metrics["energy_mj"]["high"]
        )
    site.check_nothing_left()
