"""Write the canary that qpipe ships: run once, by hand; other bytes would be another canary.

python tests/make_canary.py pipeline/qpipe/nightly/canary_files
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx.reference import ReferenceEvaluator

import qpipe
from qpipe.samples.store import Samples

MODEL = """
<ir_version: 8, opset_import: ["" : 13]>
canary (float[1, 3, 64, 64] image) => (float[1, 32] y)
<float[16, 3, 3, 3] w1, float[32, 16, 3, 3] w2, float[32, 32, 3, 3] w3>
{
    c1 = Conv <pads = [1, 1, 1, 1]> (image, w1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r1, w2)
    r2 = Relu (c2)
    c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3)
    p = GlobalAveragePool (c3)
    y = Flatten (p)
}
"""


def main() -> None:
    """Write build, samples and the outputs that the ONNX reference gives."""
    folder = Path(sys.argv[1])
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(MODEL)
    shapes = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 32, 3, 3)}
    del model.graph.initializer[:]
    for name, shape in shapes.items():
        weights = random.normal(size=shape).astype(np.float32) / 8
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    build = folder / "network"
    build.mkdir(parents=True)
    onnx.save(model, build / "model.onnx")
    manifest = {
        "runtime": "onnxruntime", "runner": "run_onnxruntime.py", "model": "model.onnx",
        "options": {"session": {
            "intra_op_num_threads": 1, "inter_op_num_threads": 1, "graph_optimization_level": "ORT_ENABLE_ALL",
        }},
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 64, 64]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 32]}],
    }  # fmt: skip
    qpipe.Build.write(build, manifest)
    image = random.random((3, 64, 64), np.float32)
    sample = qpipe.Sample("canary", {"image": image})
    Samples.write(folder / "samples", [sample], {"image": qpipe.Preprocessing()})
    (outputs,) = ReferenceEvaluator(model).run(None, {"image": image[None]})
    text = json.dumps([float(f"{value:.6g}") for value in outputs.ravel()])
    (folder / "outputs.json").write_text(text + "\n", encoding="utf-8")


main()
