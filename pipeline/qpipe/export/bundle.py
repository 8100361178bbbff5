"""The winner as a folder to hand over: the model, how to feed and load it, what was measured, proof that it runs."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.errors import QpipeError
from qpipe.samples.store import Samples
from qpipe.storage.results import Store
from qpipe.types import Array, Build

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
EXAMPLE = "example.py"
LOAD = "load.py"
SHIPPED = (
    Path(__file__).parent / "shipped"
)  # what travels in every export: how to load the model, and an example
FORMAT = 2
# integer kernels of other processors round and saturate otherwise; a wrong file or wrong inputs are off by far more
TOLERANCE = 0.05


def gather_facts(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of where a row of `pareto_rows` comes from."""
    run = store.run(row["run"])
    board = store.capabilities(run["id"]).get(row["device"])
    names = ("model", "scheme", "build", "runtime", "device", "emulated", "metrics")
    return {
        "recipe": {
            "name": run["recipe"],
            "digest": run["recipe_digest"],
            "text": run["recipe_text"],
        },
        "run": {name: run[name] for name in ("id", "started", "host", "versions")},
        "measured": {name: row[name] for name in names},
        "device": asdict(board)
        if board
        else None,  # as it was then: its CPU, the versions of what ran there
    }


def write_bundle(
    out: Path,
    build: Build,
    samples: Samples,
    facts: Mapping[str, Any],
    *,
    count: int = 3,
    force: bool = False,
) -> dict[str, Any]:
    """Write the folder, whole or not at all, and give its manifest; `count` samples become the golden ones.

    An earlier export is replaced. QpipeError where the folder holds anything that an export did not leave there so
    (by `force` that is written over where names agree, and stays else), the build is for a runtime that no export knows
    or that is not installed here, or its outputs are no numbers.
    """
    runtime = str(build.manifest["runtime"])
    known = sorted(path.stem.removeprefix("load_") for path in SHIPPED.glob("load_*.py"))
    if runtime not in known:
        raise QpipeError(
            f"export: the build is for {runtime}; only those for {' and '.join(known)} are exported"
        )
    _check_free(out, force)
    out = out.resolve()
    aside = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    aside.mkdir(parents=True)
    try:
        manifest = _fill(aside, build, samples, facts, count)
        _put(aside, out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return manifest


def _check_free(out: Path, force: bool) -> None:
    """An export may be written again; what lies there otherwise is left alone."""
    if out.exists() and not out.is_dir():
        raise QpipeError(f"export: {out} is a file; give a folder that does not exist yet")
    ours = _exported(out)
    for name in () if force else _names(out):
        if name not in ours:
            what = "no export put there"
        elif name != MANIFEST and ours[name] != _sha256(out / name):
            what = "was changed since its export"
        else:
            continue
        raise QpipeError(
            f"export: {out} holds {name}, which {what}; give an empty folder, or --force to write into it"
        )


def _put(aside: Path, out: Path) -> None:
    """Bring what was made to its place: in one move, or into the folder where that has to stay."""
    there = set(_names(out))
    ours = {*_exported(out), MANIFEST}
    if there <= ours and out != Path.cwd():
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
        return
    for name in there & ours:
        (out / name).unlink()
    shutil.copytree(aside, out, dirs_exist_ok=True)
    shutil.rmtree(aside)


def _names(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())


def _exported(out: Path) -> dict[str, str]:
    """The files of an earlier export as its manifest has them, with their sha256; none where there is no such."""
    try:
        content = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        return {MANIFEST: "", **content["files"]} if content["qpipe_export"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _fill(
    folder: Path, build: Build, samples: Samples, facts: Mapping[str, Any], count: int
) -> dict[str, Any]:
    for path in build.files:
        target = folder / path.relative_to(build.folder)
        if path.name not in ("build.json", build.manifest.get("runner")):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(SHIPPED / EXAMPLE, folder / EXAMPLE)
    shutil.copyfile(SHIPPED / f"load_{build.manifest['runtime']}.py", folder / LOAD)
    count = min(count, len(samples))
    manifest = {
        "qpipe_export": FORMAT,
        **facts,
        **{name: build.manifest[name] for name in ("runtime", "model")},
        "options": build.manifest.get("options") or {},
        **_declared(folder / str(build.manifest["model"])),
        "preprocessing": {name: asdict(how) for name, how in samples.preprocessing.items()},
        "classes": samples.classes,
        "golden": {"samples": [samples[i].id for i in range(count)], "tolerance": TOLERANCE},
    }
    np.savez(folder / GOLDEN, allow_pickle=False, **_golden(folder, manifest, samples, count))
    manifest["files"] = {
        path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(_files(folder))
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _golden(
    folder: Path, manifest: Mapping[str, Any], samples: Samples, count: int
) -> dict[str, Array]:
    """Inputs and outputs by `number/in/name` and `number/out/name`, of the model opened as the export opens it."""
    runtime = manifest["runtime"]
    try:
        infer = runpy.run_path(str(folder / LOAD))["load"](folder, manifest)
    except ImportError as error:
        raise QpipeError(
            f"export: {runtime} is not installed here; run: pip install {runtime}"
        ) from error
    except Exception as error:  # the runtime's own, of any class
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise QpipeError(f"export: {runtime} does not load the build here: {reason}") from error
    golden: dict[str, Array] = {}
    for number in range(count):
        feeds = samples.feeds(number, [each["name"] for each in manifest["inputs"]])
        golden.update({f"{number}/in/{name}": array for name, array in feeds.items()})
        for name, output in infer(feeds).items():
            if not np.isfinite(output).all():
                raise QpipeError(
                    f"export: {name} of sample '{samples[number].id}' is no number; the build is broken"
                )
            golden[f"{number}/out/{name}"] = output
    return golden


def _declared(model: Path) -> dict[str, list[dict[str, Any]]]:
    """How the network declares its inputs and outputs."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return {
        "inputs": [_describe(value) for value in graph.input],
        "outputs": [_describe(value) for value in graph.output],
    }


def _describe(value: Any) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    shape = [
        size.dim_value if size.HasField("dim_value") else size.dim_param
        for size in tensor.shape.dim
    ]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return {"name": value.name, "type": f"tensor({kind})", "shape": shape}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
