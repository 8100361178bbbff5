"""A build for OpenVINO: the same ONNX file that ONNX Runtime gets, and the runner that drives it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from qpipe.stages.bounds import Threads
from qpipe.types import Build, Platform
from qpipe_plugins.compile import run_openvino
from qpipe_plugins.compile.model_file import write_network


def openvino(
    model: ir.Model,
    platform: Platform,
    workdir: Path,
    *,
    threads: Threads = 1,
    precision: Literal["f32", "f16", "bf16"] = "f32",
    processor: Literal["CPU", "GPU", "NPU"] = "CPU",
    properties: Mapping[str, str | int | float | bool] | None = None,
) -> Build:
    """One ONNX file that OpenVINO reads on the device and runs on integer kernels; it need not be installed here.

    The file is ONNX and not OpenVINO's own form, which an older OpenVINO may not read; it is converted when it is
    loaded. Weights of 4 bits or less are packed. `threads` is for one inference (0: as many as the device has cores).
    `precision` is of what stayed in float: left to itself OpenVINO may take less than 32 bits where the CPU has them.
    `properties` are OpenVINO's own, over these.
    """
    network = write_network(model, platform, workdir, "compile openvino")
    runner = Path(run_openvino.__file__)
    shutil.copyfile(runner, workdir / runner.name)
    own = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if processor != "CPU":
        del own["INFERENCE_NUM_THREADS"]
    options = {"device": processor, "properties": {**own, **(properties or {})}}
    return Build.write(
        workdir, {"runtime": "openvino", "runner": runner.name, "options": options, **network}
    )
