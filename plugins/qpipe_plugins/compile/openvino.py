"""Builds for OpenVINO: the ONNX file that ONNX Runtime gets too, and the runner that drives it."""

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
    """Write one ONNX file that OpenVINO on the device runs on integer kernels.

    OpenVINO need not be installed on the host. The file is ONNX and not OpenVINO's own format,
    which an older OpenVINO may not read; it is converted when it is loaded. Weights of up to
    4 bits are packed (3 bits take 4). `threads` is for one inference (0: as many as the device has
    cores), on the CPU. `precision` is that of what stayed float: by default OpenVINO may take less
    than 32 bits where the CPU has them. `properties` are OpenVINO's own, and override these.
    """
    network = write_network(model, platform, workdir, "compile openvino")
    runner = Path(run_openvino.__file__)
    shutil.copyfile(runner, workdir / runner.name)
    all_properties: dict[str, str | int | float | bool] = {}
    if processor == "CPU":
        all_properties["INFERENCE_NUM_THREADS"] = threads
    all_properties["INFERENCE_PRECISION_HINT"] = precision
    all_properties["PERFORMANCE_HINT"] = "LATENCY"
    all_properties.update(properties or {})
    options = {"device": processor, "properties": all_properties}
    return Build.write(
        workdir, {"runtime": "openvino", "runner": runner.name, "options": options, **network}
    )
