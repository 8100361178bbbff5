"""A build for ONNX Runtime: one ONNX file, and how a session of it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.stages.bounds import Threads
from qpipe.types import Build, Platform
from qpipe_plugins.compile.dynamic_batch import BATCH
from qpipe_plugins.compile.model_file import write_network

LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
# else it quantizes the weights of a layer between quantized activations itself, also of one that was to stay float
FAITHFUL = {"optimization.disable_specified_optimizers": "WeightBiasQuantization"}
# ONNX Runtime's own names, in small letters and without ExecutionProvider
Provider = Literal[
    "cpu",
    "xnnpack",
    "cuda",
    "tensorrt",
    "nvtensorrtrtx",
    "migraphx",
    "rocm",
    "openvino",
    "coreml",
    "qnn",
    "nnapi",
    "acl",
    "armnn",
    "dnnl",
    "dml",
    "rknpu",
    "vsinpu",
    "vitisai",
    "cann",
    "webgpu",
    "azure",
]
Value = str | int | float | bool


def onnxruntime(
    model: ir.Model,
    platform: Platform,
    workdir: Path,
    *,
    threads: Threads = 1,
    optimization: Literal["disable", "basic", "extended", "all"] = "all",
    providers: Sequence[Provider] = ("cpu",),
    provider_options: Mapping[Provider, Mapping[str, Value]] | None = None,
    fallback: Literal["error", "allow"] = "error",
    session: Mapping[str, Value] | None = None,
    free_batch: bool = False,
) -> Build:
    """One ONNX file that stock ONNX Runtime loads and runs on integer kernels, with its session options.

    Weights of 4 bits or less are packed and unpacked again when the file is loaded: smaller, not slower. `threads` is
    for one inference (0: as many as the device has cores), `optimization` the runtime's own level, applied there.
    `providers` are tried in their order for each node; a provider that the device lacks or that takes no node, and
    nodes left to a CPU that is not listed, are errors unless `fallback` is allow. `session` are configuration entries.
    `free_batch`: the file takes any number of samples at once, for the `batch` of a measurement; one inference is
    optimized for that number, without a batch for one. Proved here with two samples of noise: an error where they do
    not give together what each gives alone.
    """
    where = "compile onnxruntime"
    extra = sorted(set(provider_options or {}) - set(providers))
    if extra:
        raise StageError(
            f"{where}: provider_options has {extra[0]}, providers has not; add it there, or take it out"
        )
    options: dict[str, object] = {
        "session": {
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            "graph_optimization_level": LEVELS[optimization],
        },
        "config": {**FAITHFUL, **_texts(session)},
        "providers": [
            [provider, _texts((provider_options or {}).get(provider))] for provider in providers
        ],
        "fallback": fallback,
    }
    if free_batch:
        options["free_dimensions"] = {BATCH: 1}
    network = write_network(model, platform, workdir, where, free_batch=free_batch)
    return Build.write(
        workdir,
        {"runtime": "onnxruntime", "runner": "run_onnxruntime.py", "options": options, **network},
    )


def _texts(values: Mapping[str, Value] | None) -> dict[str, str]:
    """As ONNX Runtime takes them: texts, truth as 1 and 0."""
    return {
        key: str(int(value)) if isinstance(value, bool) else str(value)
        for key, value in (values or {}).items()
    }
