"""How often a build that has exactly 3 % more to compute is called slower, within a budget of 60 s a run.

python tests/bench/bench_power.py [RUNS] [--resume FILE]

Takes 15 to 30 s a run on a machine that is idle, and 60 s at most.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from stand import Stand, arguments, chain, each, stand

import qpipe
from qpipe.compare.evidence import is_better

LAYERS, MORE = 100, 103
BUDGET_S = 60


def told(bench: Stand, fast: qpipe.Deployed, slow: qpipe.Deployed) -> dict[str, Any]:
    """Whether a front would call one slower, in how many rounds that was decided, and by which ratio."""
    found = bench.measure(fast, slow, rounds=1000, budget_s=BUDGET_S)
    ratio = found[slow.name].value / found[fast.name].value
    slower = is_better(found[fast.name], found[slow.name], "min")
    return {"slower": slower, "rounds": len(found[fast.name].rounds), "ratio": ratio}


def main() -> None:
    """Print a row of the table in README.md."""
    given = arguments(__doc__, 20)
    with tempfile.TemporaryDirectory() as name:
        usual, longer = (
            chain(Path(name) / f"chain{layers}.onnx", layers) for layers in (LAYERS, MORE)
        )
        with stand(usual) as bench:
            fast, slow = bench.put("net/fast/ort", usual), bench.put("net/slow/ort", longer)
            found = each(given, lambda _: told(bench, fast, slow))
    rounds, seconds, ratio = (
        statistics.median(row[key] for row in found) for key in ("rounds", "seconds", "ratio")
    )
    slower, more = sum(row["slower"] for row in found), MORE / LAYERS - 1
    print(
        "| more to compute | runs | called slower | median of ratios | rounds a run | seconds a run |"
    )
    print("|---|---|---|---|---|---|")
    print(
        f"| {100 * more:.0f} % | {len(found)} | {slower} | {ratio:.3f} | {rounds:.0f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
