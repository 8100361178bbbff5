"""Quantize one network by a chain of stages, for this machine."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qpipe.engine.events import Event
from qpipe.engine.input_checks import check_inputs
from qpipe.engine.plan import Plan
from qpipe.engine.request import Request, ResolvedRequest, resolve_request
from qpipe.engine.scheduler import compute
from qpipe.errors import RecipeError, StageError
from qpipe.recipe import inventory
from qpipe.types import Array, Build, Capabilities, Leased

DEVICE = "local"
MODEL = "network"
SCHEME = "scheme"

StageName = str | Mapping[str, Mapping[str, Any]]  # symmetric, or {"symmetric": {"bits": 4}}


def quantize(
    model: onnx.ModelProto | Path | str,
    *,
    scheme: Sequence[StageName],
    samples: Mapping[str, Array],
    import_options: Mapping[str, Any] | None = None,
    build: StageName = "onnxruntime",
) -> onnx.ModelProto:
    """Return a network quantized by a chain of stages, as stock ONNX Runtime runs it here.

    `samples` are an array for each input, [N, ...] for N samples, as the network is fed; all but
    the last calibrate, which is held out. `import_options` are those of the stage `onnx`, such as
    shapes. The result is what `qpipe run` would deploy to this machine: where its processor
    saturates sums of 8-bit products, scales with which none can. Raise RecipeError for an unknown
    stage or option, StageError where a stage fails.
    """
    with tempfile.TemporaryDirectory(prefix="qpipe-") as name:
        folder = Path(name)
        recipe = _write_recipe(folder, model, scheme, samples, import_options or {}, build)
        request = Request(
            recipe=recipe,
            devices=(DEVICE,),
            db=folder / "results.db",
            cache=folder / "cache",
        )
        try:
            return _compile_network(resolve_request(request), folder)
        except RecipeError as error:  # of a file that the caller never saw
            lines = [
                re.sub(rf"^{re.escape(str(recipe))}:\d+: ", "", line)
                for line in str(error).splitlines()
            ]
            raise RecipeError(*lines) from error


def _compile_network(resolved: ResolvedRequest, workdir: Path) -> onnx.ModelProto:
    """Carry out the steps up to the build of the only scheme, and read that."""
    cache = resolved.cache
    plan = resolved.plan({DEVICE: _capabilities(resolved)})
    read = compute(plan.only(plan.reading_steps), cache, workdir, _ignore)
    check_inputs(plan, read, cache, workdir)
    compiled = _compiled_step(plan)
    outcome = compute(plan.only({compiled}), cache, workdir, _ignore)
    for step, reason in outcome.errors.items():
        raise StageError(f"{step}: {reason}", failure=outcome.failures[step])
    written = Build.read(plan.steps[compiled].result_folder(cache))
    return onnx.load(written.folder / written.manifest["model"])


def _write_recipe(
    folder: Path,
    model: onnx.ModelProto | Path | str,
    scheme: Sequence[StageName],
    samples: Mapping[str, Array],
    import_options: Mapping[str, Any],
    build: StageName,
) -> Path:
    if isinstance(model, onnx.ModelProto):
        path = folder / "network.onnx"
        onnx.save(model, path)
    else:
        path = Path(model).resolve()
    recipe = {
        "samples": {"npz": _write_samples(folder, samples)},
        "models": {MODEL: {"onnx": {"path": str(path), **import_options}}},
        "schemes": {SCHEME: list(scheme)},
        "builds": {"build": build},
        "measure": ["size"],
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe, indent=1), encoding="utf-8")  # JSON is YAML
    return file


def _write_samples(folder: Path, samples: Mapping[str, Array]) -> dict[str, str]:
    """Write the samples as the stage npz reads them, and return its options."""
    arrays = {name: np.asarray(array) for name, array in samples.items()}
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    fix = "give an array [N, ...] for each input, of at least 2 different samples"
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1:
        raise StageError(f"samples: not as many for each input: {shapes or 'none'}; {fix}")
    (count,) = counts
    differing = [
        index
        for index in range(count)
        if any(not np.array_equal(array[index], array[-1]) for array in arrays.values())
    ]
    if not differing:
        raise StageError(f"samples: fewer than 2 that differ: {shapes}; {fix}")
    parts = {}
    for part, chosen in (("calibration", differing), ("evaluation", [count - 1])):
        file = folder / f"{part}.npz"
        np.savez(
            file, allow_pickle=False, **{name: array[chosen] for name, array in arrays.items()}
        )
        parts[part] = str(file)
    return parts


def _capabilities(resolved: ResolvedRequest) -> Capabilities:
    """Look what this machine is, which waits for no run that measures on it."""
    call = resolved.devices[DEVICE]
    device = inventory.open_device(DEVICE, call)
    try:
        look = device.look() if isinstance(device, Leased) else None
        capabilities = look.capabilities if look else device.capabilities()
        return inventory.labelled(call, capabilities)
    finally:
        device.close()


def _compiled_step(plan: Plan) -> str:
    for step in plan.steps.values():
        if step.kind == "deploy" and not step.is_float:
            return step.needs["build"]
    raise AssertionError("a plan deploys its only scheme")


def _ignore(_: Event) -> None:
    pass
