"""What an operator between two quantized products costs: in float, on its integer kernel, by a table of 256.

python tests/bench/bench_islands.py

Milliseconds of one inference on one thread, the least of many, taken in turns; less the network without the operator.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort

ROWS = 256
COLUMNS = 256
ROUNDS = 200
# what stands between the tensors m_in and m_out
FLOAT = {
    "Sigmoid": "m_out = Sigmoid (m_in)",
    "Tanh": "m_out = Tanh (m_in)",
    "HardSwish": "m_out = HardSwish (m_in)",
    "Gelu": "m_out = Gelu (m_in)",
    "Elu": "m_out = Elu (m_in)",
    "Softmax": "m_out = Softmax (m_in)",
    "LayerNormalization": "m_out = LayerNormalization (m_in, one)",
}
TABLE = "places = Cast <to = 6> (q1) codes = Gather (table, places) m_out = DequantizeLinear (codes, s, z)"
NETWORK = """
<ir_version: 9, opset_import: ["" : 20]>
net (float[256, 256] x) => (float[256, 256] y) {
  q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
  wide = DequantizeLinear (w, sw, zw) c = MatMul (d, wide)
  q1 = QuantizeLinear (c, s, z) m_in = DequantizeLinear (q1, s, z)
  MIDDLE
  q2 = QuantizeLinear (m_out, s, z) d2 = DequantizeLinear (q2, s, z)
  narrow = DequantizeLinear (w, sw, zw) c2 = MatMul (d2, narrow)
  q3 = QuantizeLinear (c2, s, z) y = DequantizeLinear (q3, s, z)
}
"""
RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "s": np.float32(0.05),
    "z": np.uint8(128),
    "w": RANDOM.integers(-100, 100, (COLUMNS, COLUMNS)).astype(np.int8),
    "sw": np.float32(0.001),
    "zw": np.int8(0),
    "one": np.ones(COLUMNS, np.float32),
    "table": RANDOM.integers(0, 256, 256).astype(np.uint8),
}


def session(middle: str, *, fuses: bool) -> ort.InferenceSession:
    """The network; without `fuses` the operator stays float."""
    model = onnx.parser.parse_model(NETWORK.replace("MIDDLE", middle))
    for name, array in CONSTANTS.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not fuses:  # no integer kernel gives an output of the network
        output = onnx.helper.make_tensor_value_info("m_out", onnx.TensorProto.FLOAT, None)
        model.graph.output.append(output)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def least_ms(sessions: Mapping[str, ort.InferenceSession]) -> dict[str, float]:
    """The least time of each session, taken in turns."""
    x = RANDOM.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(ROUNDS):
        for name, running in sessions.items():
            start = time.perf_counter()
            running.run(["y"], {"x": x})
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def main() -> None:
    sessions = {"nothing": session("m_out = Identity (m_in)", fuses=True)}
    for name, middle in FLOAT.items():
        sessions[f"{name} in float"] = session(middle, fuses=False)
        sessions[f"{name} as the runtime has it"] = session(middle, fuses=True)
    sessions["table"] = session(TABLE, fuses=True)
    times = least_ms(sessions)
    print("| operator | float, ms | as ONNX Runtime optimizes it, ms |")
    print("|---|---|---|")
    for name in FLOAT:
        costs = [
            times[f"{name} {way}"] - times["nothing"]
            for way in ("in float", "as the runtime has it")
        ]
        print(f"| {name} | {costs[0]:.3f} | {costs[1]:.3f} |")
    print(f"any by a table of 256, Cast and Gather: {times['table'] - times['nothing']:.3f} ms")
    print(f"the two products: {times['nothing']:.3f} ms")


if __name__ == "__main__":
    main()
