"""Builds for ONNX Runtime: one ONNX file, and the options of the session that runs it."""

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
from qpipe_plugins.compile.packing import Packing

WHERE = "compile onnxruntime"
OPTIMIZATION_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
DISABLED = "optimization.disable_specified_optimizers"
# otherwise it quantizes the weights of a layer between quantized activations itself, also of one
# that was to stay float
FAITHFUL = ("WeightBiasQuantization",)
# its CPU kernel takes 5 to 14 times as long as Add and LayerNormalization (ONNX Runtime 1.32, x86)
SLOW_ON_CPU = ("SkipLayerNormFusion",)
# ONNX Runtime's own names, in lower case and without ExecutionProvider
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
    packing: Packing = "auto",
    dynamic_batch: bool = False,
) -> Build:
    """Write one ONNX file that stock ONNX Runtime runs on integer kernels, with session options.

    `packing` puts weights of few bits together in the file, to be unpacked when it is loaded:
    smaller, not slower. `auto` does so with up to 6 bits, where that saves 5 % of the file; loading
    a MobileNetV2 then takes 83 MB (2 bits) to 98 MB (6 bits) of memory instead of 78. `always`
    packs whatever makes the file smaller, so 7 bits too (107 MB). `never` stores whole bytes.
    Before ONNX Runtime 1.23, 3 bits take 4 in the file, and 5 to 7 take 8.
    `threads` is for one inference (0: as many as the device has cores), `optimization` the
    runtime's own level, applied on the device. `providers` are tried in their order for each node;
    a provider that the device lacks or that takes no node, and nodes left to a CPU that is not
    listed, are errors unless `fallback` is allow. `session` are configuration entries.
    With `dynamic_batch` the file takes any number of samples at once, for the `batch` of a
    measurement; a session is optimized for that number, without a batch for one. It is proved here
    with two samples of noise: an error where they do not give together what each gives alone.
    """
    missing = sorted(set(provider_options or {}) - set(providers))
    if missing:
        raise StageError(
            f"{WHERE}: provider_options has {missing[0]}, which providers has not; "
            "add it to providers, or remove its options"
        )
    is_for_cpu = "cpu" in providers[:1]
    disabled = FAITHFUL + SLOW_ON_CPU if is_for_cpu else FAITHFUL
    options: dict[str, object] = {
        "session": {
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            "graph_optimization_level": OPTIMIZATION_LEVELS[optimization],
        },
        "config": {DISABLED: ";".join(disabled), **_to_texts(session or {})},
        "providers": [
            [provider, _to_texts((provider_options or {}).get(provider, {}))]
            for provider in providers
        ],
        "fallback": fallback,
    }
    if dynamic_batch:
        options["free_dimensions"] = {BATCH: 1}
    network = write_network(
        model,
        platform,
        workdir,
        WHERE,
        packing=packing,
        cpu_kernels=is_for_cpu,
        dynamic_batch=dynamic_batch,
    )
    return Build.write(
        workdir,
        {"runtime": "onnxruntime", "runner": "run_onnxruntime.py", "options": options, **network},
    )


def _to_texts(values: Mapping[str, Value]) -> dict[str, str]:
    """Return values as ONNX Runtime takes them: as text, true and false as 1 and 0."""
    texts = {}
    for name, value in values.items():
        texts[name] = str(int(value)) if isinstance(value, bool) else str(value)
    return texts
