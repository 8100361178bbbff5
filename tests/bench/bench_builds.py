"""Speed and size of the files that schemes make, against the runtime's own quantizer, in one interleaved run.

python tests/bench/bench_builds.py [RECIPE [NAME=VALUE ...]]

RECIPE has the schemes int8-channel (symmetric, per-channel), log4 and onnxruntime; the shipped detector's by default.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qpipe.compare.intervals import paired_ratio
from qpipe.storage.results import Store

ROOT = Path(__file__).parents[2]
SCHEMES = ("int8-channel", "log4", "onnxruntime")
MEASURE = [{"latency": {"rounds": 40, "values": 40, "precision": 0, "budget_s": 900}}, "size"]
Chain = list[Any]


def measured(
    recipe: Path,
    settings: list[str],
    schemes: Sequence[str] = SCHEMES,
    more: Mapping[str, Chain] = {},
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """One run of some of the recipe's schemes, and of more, in an empty cache: the median of each round in ms, and MB,
    by scheme."""
    asked = {
        **yaml.safe_load(recipe.read_text(encoding="utf-8")),
        "measure": MEASURE,
        "pareto": {"latency_ms": "min"},
    }
    asked["schemes"] |= more
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.NamedTemporaryFile(
            "w", suffix=".yaml", dir=recipe.parent
        ) as file,  # for the paths in it
    ):
        yaml.safe_dump(asked, file, sort_keys=False)
        file.flush()
        command = [str(Path(sys.executable).parent / "qpipe"), "run", file.name]
        command += ["--db", f"{folder}/results.db", "--cache", f"{folder}/cache"]
        command += [word for scheme in (*schemes, *more) for word in ("--only", scheme)]
        command += [word for setting in settings for word in ("--set", setting)]
        subprocess.run(
            command, check=not more, stdout=subprocess.PIPE
        )  # a rival may fail, the others go on
        with Store(Path(folder) / "results.db") as store:
            rows = store.measurements(store.runs()[0]["id"])
            raw = {
                row["scheme"]: store.values(row["id"])
                for row in rows
                if row["metric"] == "latency_ms"
            }
        sizes = {row["scheme"]: row["value"] for row in rows if row["metric"] == "size_mb"}
    return {scheme: list(map(statistics.median, rounds)) for scheme, rounds in raw.items()}, sizes


def main() -> None:
    """Print the three ratios, those of time paired round by round."""
    recipe = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "recipes/mobilenet_ssd.yaml"
    rounds, sizes = measured(recipe, sys.argv[2:])
    for one, other, most in (("int8-channel", "onnxruntime", 1.02), ("log4", "int8-channel", 1.05)):
        ratios = [a / b for a, b in zip(rounds[one], rounds[other], strict=True)]
        ratio, interval = paired_ratio(rounds[one], rounds[other])
        low, high = interval or (ratio, ratio)
        middle = statistics.median(ratios)
        print(
            f"latency {one} / {other}: {ratio:.3f} ({low:.3f} to {high:.3f}), median {middle:.3f} (at most {most})"
        )
    print(f"size log4 / int8-channel: {sizes['log4'] / sizes['int8-channel']:.3f} (at most 0.6)")
    for scheme, medians in rounds.items():
        print(f"  {scheme}: {statistics.median(medians):.3f} ms, {sizes[scheme]:.3f} MB")


if __name__ == "__main__":
    main()
