"""Commands that read results, on a database of a thousand nights and a million values: wall time of whole processes.

python tests/bench/bench_queries.py [OTHER_CHECKOUT]

With another checkout of the project, its commands read the same database in the same run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from qpipe.compare.pareto import judge_run
from qpipe.storage.nights import NightStore
from qpipe.types import Capabilities, Measurement

RUNS = 1000
SCHEMES = 10
ROUNDS = 10
VALUES = 10  # of a round
REPETITIONS = 5
LAB = "shelf"
MAIN = "from qpipe.cli import main; main()"
COMMANDS = (["runs"], ["show"], ["pareto"], ["trend", "latency_ms"], ["--help"])
BOARD = Capabilities(
    arch="aarch64", system="Linux", cpu="Cortex-A72", cores=4, features=("asimd",), memory_mb=4000.0,
    python="3.11", numpy="2.0.0", runtimes={"onnxruntime": "1.23.0"}, fingerprint="board",
)  # fmt: skip


def fill(store: NightStore) -> None:
    """Record a thousand nights of ten schemes on a board."""
    random = np.random.default_rng(0)
    now = datetime(2024, 1, 1, tzinfo=UTC)
    for number in range(RUNS):
        night = f"{now + timedelta(days=number):%Y-%m-%d}"
        run = store.new_run(
            "detector",
            recipe_path="detector.yaml",
            recipe_digest="a",
            recipe_text="",
            versions={},
            objectives={"latency_ms": "min"},
        )
        store.start_night(LAB, night, now + timedelta(days=number))
        store.record_night_run(LAB, night, "detector.yaml", run)
        store.record_devices(run, {"rpi": BOARD})
        for scheme in range(SCHEMES):
            row = {"model": "ssd", "scheme": f"s{scheme}", "build": "ort", "device": "rpi"}
            values = 5 + scheme + random.normal(0, 0.05, (ROUNDS, VALUES))
            middle = float(np.median(values))
            conditions = [{"environment": {"governor": "performance"}}] * ROUNDS
            latency = Measurement(
                "latency_ms",
                middle,
                "ms",
                middle - 0.02,
                middle + 0.02,
                ROUNDS,
                rounds=values.tolist(),
                conditions=conditions,
            )
            step = f"ssd/s{scheme}/ort@rpi"
            store.record_step(run, step, state="done", kind="deploy", stage="copy", **row)
            store.record_measurements(
                run, row, [latency], step="rpi/latency", fingerprint="board", is_float=not scheme
            )
        judge_run(store, run)
        store.finish_run(run, "done")
        store.finish_night(LAB, night, [], now + timedelta(days=number, hours=1))


def qpipe_of(checkout: Path, *arguments: str) -> float:
    """The wall time of a whole process with the code of a checkout of the project."""
    roots = [str(checkout / root) for root in ("pipeline", "plugins", "devices")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the median of each command."""
    if sys.argv[1:2] == ["--fill"]:
        with NightStore(Path(sys.argv[2])) as store:
            fill(store)
        return
    checkouts = [Path(__file__).resolve().parents[2], *map(Path, sys.argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        databases = [Path(folder) / f"{number}.db" for number in range(len(checkouts))]
        for checkout, db in zip(checkouts, databases, strict=True):
            qpipe_of(checkout, __file__, "--fill", str(db))
        size = databases[0].stat().st_size / 1e6
        print(f"{RUNS} runs, {RUNS * SCHEMES * ROUNDS * VALUES} values, {size:.0f} MB", flush=True)
        for command in COMMANDS:
            times: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
            for _ in range(REPETITIONS):
                for checkout, db in zip(checkouts, databases, strict=True):
                    where = [] if command == ["--help"] else ["--db", str(db)]
                    times[checkout].append(qpipe_of(checkout, "-c", MAIN, *command, *where))
            for checkout in checkouts:
                median = statistics.median(times[checkout])
                print(checkout.name, " ".join(command), f"{median:.2f} s", flush=True)


if __name__ == "__main__":
    main()
