"""The bundle: a folder with a model, how to feed and load it, what was measured, and a proof."""

from __future__ import annotations

import json
import os
import runpy
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from qpipe.compare.json_rows import MetricValue, ParetoRow
from qpipe.digests import digest_file
from qpipe.errors import QpipeError
from qpipe.export.bundle_folder import (
    MANIFEST,
    check_folder,
    entries,
    manifest_digest,
    move_into_place,
)
from qpipe.export.sample_handling import (
    PostprocessingFacts,
    PreprocessingFacts,
    SampleHandling,
    postprocessing_facts,
    preprocessing_facts,
)
from qpipe.quant.network_inputs import NUMPY_TYPES
from qpipe.samples.preprocess import Shape
from qpipe.samples.sample_feeds import NetworkInputs
from qpipe.samples.store import Samples
from qpipe.storage.results import Store
from qpipe.types import Array, Build, Emulation

if TYPE_CHECKING:
    import onnx

GOLDEN = "golden.npz"
EXAMPLE = "example.py"
LOAD = "load.py"
# the files that travel in every bundle: how to load the model, and an example
SHIPPED = Path(__file__).parent / "shipped"
FORMAT = 3
# the part of an output's span that outputs may differ by: integer kernels of other processors round
# and saturate differently; a wrong file or wrong inputs are off by far more
TOLERANCE = 0.05

Feeds = Mapping[str, Array]


class RecipeFacts(TypedDict):
    """The recipe of a bundle."""

    name: str
    digest: str
    text: str


class RunFacts(TypedDict):
    """The run that measured the build."""

    id: str
    started: str
    host: str
    versions: dict[str, str]


class MeasuredFacts(TypedDict):
    """The row of the build, with what was measured of it."""

    model: str
    scheme: str
    build: str
    runtime: str
    device: str
    emulated: Emulation | None
    metrics: dict[str, MetricValue]


class Facts(TypedDict):
    """Where a build comes from, and what was measured of it."""

    recipe: RecipeFacts
    run: RunFacts
    measured: MeasuredFacts
    device: dict[str, Any] | None  # its capabilities when it was measured


class TensorDeclaration(TypedDict):
    """How a network declares an input or output."""

    name: str
    type: str  # as ONNX Runtime writes it, such as tensor(float)
    shape: list[int | str]  # a dimension that is not fixed is a name


class GoldenSamples(TypedDict):
    """The samples whose inputs and outputs are in the bundle."""

    samples: list[str]  # their ids
    tolerance: float


class Manifest(Facts):
    """What manifest.json of a bundle holds."""

    qpipe_export: int  # the version of this format
    runtime: str
    model: str  # file name
    options: dict[str, Any]  # of the runtime
    inputs: list[TensorDeclaration]
    outputs: list[TensorDeclaration]
    # input -> the output that feeds it at the next chunk of a sequence
    states: dict[str, str]
    preprocessing: PreprocessingFacts
    postprocessing: PostprocessingFacts
    classes: list[str]
    golden: GoldenSamples
    files: dict[str, str]  # path -> sha256
    digest: str  # of all else in this file


def gather_facts(store: Store, row: ParetoRow) -> Facts:
    """Return what the manifest says of where a row comes from."""
    run = store.run(row["run"])
    capabilities = store.capabilities(run["id"]).get(row["device"])
    return {
        "recipe": {
            "name": run["recipe"],
            "digest": run["recipe_digest"],
            "text": run["recipe_text"],
        },
        "run": {
            "id": run["id"],
            "started": run["started"],
            "host": run["host"],
            "versions": run["versions"],
        },
        "measured": {
            "model": row["model"],
            "scheme": row["scheme"],
            "build": row["build"],
            "runtime": row["runtime"],
            "device": row["device"],
            "emulated": row["emulated"],
            "metrics": row["metrics"],
        },
        "device": asdict(capabilities) if capabilities else None,
    }


def write_bundle(
    out: Path,
    build: Build,
    samples: Samples,
    facts: Facts,
    handling: SampleHandling,
    *,
    count: int = 3,
    force: bool = False,
) -> Manifest:
    """Write the folder, whole or not at all, and return its manifest.

    The first `count` samples become the golden ones. An earlier export is replaced. Raise
    QpipeError where the folder holds anything that an export did not write (with `force`, files of
    the same name are overwritten and others stay); where the build is for a runtime that cannot be
    exported or is not installed here; or where its outputs are not numbers.
    """
    _check_runtime(build)
    check_folder(out, force=force)
    out = out.resolve()
    scratch = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    scratch.mkdir(parents=True)
    try:
        manifest = _fill(scratch, build, samples, facts, handling, min(count, len(samples)))
        move_into_place(scratch, out, force=force)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return manifest


def _check_runtime(build: Build) -> None:
    runtime = str(build.manifest["runtime"])
    runtimes = sorted(path.stem.removeprefix("load_") for path in SHIPPED.glob("load_*.py"))
    if runtime not in runtimes:
        raise QpipeError(
            f"export: the build is for {runtime}; "
            f"only those for {' and '.join(runtimes)} can be exported"
        )


# ---- its content


def _fill(
    folder: Path,
    build: Build,
    samples: Samples,
    facts: Facts,
    handling: SampleHandling,
    count: int,
) -> Manifest:
    runtime = str(build.manifest["runtime"])
    model = str(build.manifest["model"])
    _copy_build(build, folder)
    shutil.copyfile(SHIPPED / EXAMPLE, folder / EXAMPLE)
    shutil.copyfile(SHIPPED / f"load_{runtime}.py", folder / LOAD)
    inputs, outputs = _declared_tensors(folder / model)
    ids = [samples[number].id for number in range(count)]
    fed = {name: asdict(how) for name, how in samples.preprocessing.items()}
    manifest: Manifest = {
        "qpipe_export": FORMAT,
        **facts,
        "runtime": runtime,
        "model": model,
        "options": build.manifest.get("options") or {},
        "inputs": inputs,
        "outputs": outputs,
        "states": build.manifest.get("states") or {},
        "preprocessing": preprocessing_facts(handling, folder, fed),
        "postprocessing": postprocessing_facts(handling, folder),
        "classes": list(samples.classes),
        "golden": {"samples": ids, "tolerance": TOLERANCE},
        "files": {},
        "digest": "",
    }
    golden = _golden_arrays(folder, manifest, samples)
    np.savez(folder / GOLDEN, allow_pickle=False, **golden)
    for name in entries(folder):
        manifest["files"][name] = digest_file(folder / name)
    manifest["digest"] = manifest_digest(manifest)
    _write_manifest(folder / MANIFEST, manifest)
    return manifest


def _copy_build(build: Build, folder: Path) -> None:
    """Copy the files of a build, without its manifest and its runner."""
    left_out = ("build.json", build.manifest.get("runner"))
    for path in build.files:
        if path.name in left_out:
            continue
        target = folder / path.relative_to(build.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _golden_arrays(folder: Path, manifest: Manifest, samples: Samples) -> dict[str, Array]:
    """Return inputs and outputs of the golden samples, from the model as the bundle loads it.

    They are named NUMBER/in/NAME and NUMBER/out/NAME.
    """
    infer = _load_model(folder, manifest)
    network = _network_inputs(manifest)
    arrays: dict[str, Array] = {}
    for number, id_ in enumerate(manifest["golden"]["samples"]):
        feeds = samples.sequence(number, network)
        for name, array in {**feeds.constant, **feeds.sample_inputs()}.items():
            arrays[f"{number}/in/{name}"] = array
        for name, output in feeds.outputs(infer).items():
            if np.isnan(output).any():
                raise QpipeError(
                    f"export: {name} of sample '{id_}' is not a number; the build is broken"
                )
            arrays[f"{number}/out/{name}"] = output
    return arrays


def _network_inputs(manifest: Manifest) -> NetworkInputs:
    shapes: dict[str, Shape] = {}
    types: dict[str, str] = {}
    for declaration in manifest["inputs"]:
        shapes[declaration["name"]] = declaration["shape"]
        onnx_type = declaration["type"].removeprefix("tensor(").removesuffix(")")
        types[declaration["name"]] = NUMPY_TYPES.get(onnx_type, onnx_type)
    return NetworkInputs(shapes, types, manifest["states"])


def _load_model(folder: Path, manifest: Manifest) -> Callable[[Feeds], dict[str, Array]]:
    """Return the model of a bundle as a function, from inputs by name to outputs by name."""
    runtime = manifest["runtime"]
    try:
        load = runpy.run_path(str(folder / LOAD))["load"]
        return cast("Callable[[Feeds], dict[str, Array]]", load(folder, manifest))
    except ImportError as error:
        message = f"export: {runtime} is not installed here; run: pip install {runtime}"
        raise QpipeError(message) from error
    except Exception as error:  # the runtime's own, of any class
        lines = str(error).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
        raise QpipeError(f"export: {runtime} does not load the build here: {reason}") from error


def _declared_tensors(model: Path) -> tuple[list[TensorDeclaration], list[TensorDeclaration]]:
    """Return the inputs and the outputs of a network as it declares them.

    Outputs that are no tensors of numbers, such as texts, are left out.
    """
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    inputs = [_declaration(value) for value in graph.input]
    outputs = [_declaration(value) for value in graph.output if _holds_numbers(value)]
    return inputs, outputs


def _holds_numbers(value: onnx.ValueInfoProto) -> bool:
    import onnx

    element_type = value.type.tensor_type.elem_type
    return element_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)


def _declaration(value: onnx.ValueInfoProto) -> TensorDeclaration:
    import onnx

    tensor = value.type.tensor_type
    element_type = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape: list[int | str] = []
    for dimension in tensor.shape.dim:
        is_fixed = dimension.HasField("dim_value")
        shape.append(dimension.dim_value if is_fixed else dimension.dim_param)
    return {"name": value.name, "type": f"tensor({element_type})", "shape": shape}
