"""A build small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser

import qpipe

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] image) => (float[1, 192] flat, float[1, 3, 1, 1] mean)
{
    mean = GlobalAveragePool (image)
    soft = Softmax <axis = 1> (image)
    flat = Flatten (soft)
}
"""


def nothing(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that nobody looks at."""


def write_build(
    folder: Path, runner: str = "run_onnxruntime.py", files: dict[str, str] | None = None
) -> qpipe.Build:
    """The small model as a build; `files` lie beside it."""
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(MODEL), folder / "model.onnx")
    for name, text in (files or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    manifest = {
        "runtime": "onnxruntime", "runner": runner, "model": "model.onnx",
        "options": {"session": {"intra_op_num_threads": 1, "graph_optimization_level": "ORT_ENABLE_ALL"}},
        "note": "x" * 300,  # so that it is the larger of the two files
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 8, 8]}],
        "outputs": [
            {"name": "flat", "dtype": "float32", "shape": [1, 192]},
            {"name": "mean", "dtype": "float32", "shape": [1, 3, 1, 1]},
        ],
    }  # fmt: skip
    return qpipe.Build.write(folder, manifest)
