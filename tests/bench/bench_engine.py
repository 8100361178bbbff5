"""What the engine itself takes: CPU of planning, of running and of a cached run, a step, on null devices.

python tests/bench/bench_engine.py [OTHER_CHECKOUT]

With another checkout of the project, that one is measured in the same run, and ratios are printed.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SCHEMES = 40
DEVICES = (5, 50)  # of about 200 steps each
ROUNDS = 3
PLUGIN = '''
"""A network, and stages that cost next to nothing."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

import qpipe

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[1,4] x) => (float[1,4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}>
{ y = Mul(x, w) }
"""


def noise() -> qpipe.Dataset:
    """Random numbers."""
    random = np.random.default_rng(0)
    part = lambda name: [qpipe.Sample(f"{name}{i}", {"x": random.random(4, np.float32)}) for i in range(3)]
    return qpipe.Dataset(part("c"), part("e"), {"x": qpipe.Preprocessing()})


def tiny() -> ir.Model:
    """Four products."""
    return ir.from_onnx_text(NETWORK)


def snap(model: ir.Model, *, bits: int = 8) -> ir.Model:
    """Quantize in name."""
    model.metadata_props["bits"] = str(bits)
    return model


def pack(model: ir.Model, workdir: Path) -> qpipe.Build:
    """Write the network as a build."""
    ir.save(model, workdir / "model.onnx")
    outputs = [{"name": "y", "dtype": "float32", "shape": [1, 4]}]
    return qpipe.Build.write(workdir, {
        "runtime": "onnxruntime", "runner": "none.py", "model": "model.onnx", "options": {}, "outputs": outputs,
    })


def weigh(deployed: qpipe.Deployed, device: qpipe.Device, *, metric: str = "weight") -> list[qpipe.Measurement]:
    """Give one number."""
    return [qpipe.Measurement(metric, 1.0, "g", n=1)]


def moment(deployed: qpipe.Deployed, device: qpipe.Device) -> list[qpipe.Measurement]:
    """Give the numbers of a round, which hold for this run alone."""
    return [qpipe.Measurement("latency_ms", 1.0, "ms", 0.9, 1.1, 5, rounds=[[1.0] * 5] * 4)]


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", noise)
    register("import", tiny)
    register("quantize", snap)
    register("compile", pack)
    register("measure", weigh, gives=["weight"])
    register("measure", moment, cached=False, gives=["latency_ms"])
'''


def write_recipe(folder: Path, devices: int) -> Path:
    """Write a recipe of that many null devices."""
    (folder / "stages.py").write_text(PLUGIN, encoding="utf-8")
    names = [f"board{number}" for number in range(devices)]
    (folder / "devices.yaml").write_text("".join(f"{name}: 'null'\n" for name in names))
    schemes = {f"s{number}": [{"snap": {"bits": number}}] for number in range(1, SCHEMES)}
    measures: list[object] = [{"weigh": {"metric": f"weight{number}"}} for number in range(3)]
    recipe = {
        "name": "many", "plugins": ["stages.py"], "samples": "noise", "models": {"tiny": "tiny"},
        "schemes": {"float32": [], **schemes}, "builds": {"packed": "pack"},
        "measure": ["moment", *measures], "devices": names, "pareto": {"latency_ms": "min"},
    }  # fmt: skip
    path = folder / "many.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def cpu(action: Callable[[], object]) -> float:
    """CPU seconds of this process, without those of the processes of its steps."""
    start = time.process_time()
    action()
    return time.process_time() - start


def measure(devices: int) -> None:
    """Print what one checkout takes, as JSON."""
    import qpipe

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        recipe = qpipe.load(write_recipe(folder, devices))
        recipe.run(devices=["board0"])  # reads what is read once: sources, samples, the network
        steps = 0

        def plan() -> None:
            nonlocal steps
            steps = len(recipe.plan())

        planned = cpu(plan)
        ran = cpu(recipe.run)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        again = cpu(recipe.run)
    figures = {"steps": steps, "plan_s": planned, "run_ms": 1000 * ran / steps}
    print(json.dumps({**figures, "again_ms": 1000 * again / steps, "memory_mb": memory}))


def figures_of(checkout: Path, devices: int) -> dict[str, float]:
    """What a checkout of the project takes, in a process of its own."""
    roots = [str(checkout / root) for root in ("pipeline", "plugins", "devices")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    command = [sys.executable, __file__, "--measure", str(devices)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def medians(rounds: list[dict[str, float]]) -> Mapping[str, float]:
    """The median of each figure."""
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def main() -> None:
    """Print a line for each size, and the ratio to the other checkout."""
    if sys.argv[1:2] == ["--measure"]:
        measure(int(sys.argv[2]))
        return
    checkouts = [Path(__file__).resolve().parents[2], *map(Path, sys.argv[1:])]
    for devices in DEVICES:
        rounds: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
        for _ in range(ROUNDS):
            for checkout in checkouts:
                rounds[checkout].append(figures_of(checkout, devices))
        for checkout in checkouts:
            line = medians(rounds[checkout])
            print(
                checkout.name,
                ", ".join(f"{name} {value:.4g}" for name, value in line.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
