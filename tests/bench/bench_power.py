"""How often a build that has exactly 3 % more to compute is called slower, within a budget of 60 s a run.

python tests/bench/bench_power.py [RUNS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from stand import stand

from qpipe.compare.evidence import is_better

LAYERS = 100
CHANNELS, SIDE = 16, 16
BUDGET_S = 60


def network(layers: int) -> onnx.ModelProto:
    """A chain of so many equal 3x3 convolutions with ReLU one after the other, of one weight."""
    weight = np.random.default_rng(0).normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    shape = [1, CHANNELS, SIDE, SIDE]
    nodes = []
    for number in range(layers):
        nodes.append(helper.make_node("Conv", [f"x{number}", "weight"], [f"y{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"x{number + 1}"]))
    ends = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, shape) for n in (0, layers)]
    graph = helper.make_graph(nodes, "chain", [ends[0]], [ends[1]], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def operations(model: onnx.ModelProto) -> int:
    """Multiplications of all convolutions."""
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    return convolutions * CHANNELS * CHANNELS * 9 * SIDE * SIDE


def written(folder: Path, layers: int) -> Path:
    path = folder / f"chain{layers}.onnx"
    onnx.save(network(layers), path)
    return path


def main() -> None:
    """Print a row of the table in README.md."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    more = LAYERS + LAYERS * 3 // 100
    assert operations(network(more)) / operations(network(LAYERS)) == 1.03
    told, rounds, started = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        usual, longer = (written(Path(name), layers) for layers in (LAYERS, more))
        with stand(usual) as bench:
            fast, slow = bench.put("net/fast/ort", usual), bench.put("net/slow/ort", longer)
            for _ in range(runs):
                found = bench.measure(fast, slow, rounds=1000, budget_s=BUDGET_S)
                rounds += len(found[fast.name].rounds)
                told += is_better(found[fast.name], found[slow.name], "min")
    seconds = (time.monotonic() - started) / runs
    print("| more to compute | runs | called slower | rounds a run | seconds a run |\n|---|---|---|---|---|")
    print(f"| 3 % | {runs} | {told} | {rounds / runs:.0f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
