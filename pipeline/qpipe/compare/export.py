"""The winner as a folder to hand over: the model, how to feed and load it, what was measured, proof that it runs."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.errors import QpipeError
from qpipe.samples import Samples
from qpipe.store import Store
from qpipe.types import Array, Build

MANIFEST, GOLDEN, EXAMPLE = "manifest.json", "golden.npz", "example.py"
FORMAT = 1
LEVELS = {"disable": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
# integer kernels of other processors round and saturate otherwise; a wrong file or wrong inputs are off by far more
TOLERANCE = 0.05

EXAMPLE_TEXT = '''\
"""Loads the model as it was measured and compares its outputs with the golden ones; needs numpy and onnxruntime."""
import json
from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).parent
manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
wanted, options = manifest["session"], onnxruntime.SessionOptions()
options.intra_op_num_threads = wanted["intra_op_num_threads"]
options.inter_op_num_threads = wanted["inter_op_num_threads"]
options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, wanted["graph_optimization_level"])
for key, value in wanted["config"].items():
    options.add_session_config_entry(key, value)
session = onnxruntime.InferenceSession(str(here / manifest["model"]), options, providers=wanted["providers"])
golden = np.load(here / "golden.npz")
for number, sample in enumerate(manifest["golden"]["samples"]):
    outputs = session.run(None, {each["name"]: golden[f"{number}/in/{each['name']}"] for each in manifest["inputs"]})
    for each, output in zip(manifest["outputs"], outputs):
        expected = golden[f"{number}/out/{each['name']}"]
        off = np.abs(output.astype(np.float64) - expected).max() / max(np.ptp(expected.astype(np.float64)), 1e-6)
        print(f"{sample} {each['name']} {list(output.shape)}: off by {100 * off:.3g} % of its span")
        if not off <= manifest["golden"]["tolerance"]:
            raise SystemExit(f"{each['name']} of {sample} is not what was exported")
'''


def gather_facts(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of where a row of `pareto_rows` comes from."""
    run = store.run(row["run"])
    names = ("model", "scheme", "build", "runtime", "device", "metrics")
    return {
        "recipe": {"name": run["recipe"], "digest": run["recipe_digest"], "text": run["recipe_text"]},
        "run": {name: run[name] for name in ("id", "started", "host", "versions")},
        "measured": {name: row[name] for name in names},
    }


def write_bundle(
    out: Path, build: Build, samples: Samples, facts: Mapping[str, Any], *, count: int = 3
) -> dict[str, Any]:
    """Write the folder, whole or not at all, and give its manifest; `count` samples become the golden ones.

    QpipeError where the folder holds anything that an export did not put there, the build is not for ONNX Runtime, or
    its outputs are no numbers.
    """
    if build.manifest["runtime"] != "onnxruntime":
        raise QpipeError(f"export: the build is for {build.manifest['runtime']}; only onnxruntime's are exported")
    _check_free(out)
    aside = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    aside.mkdir(parents=True)
    try:
        manifest = _fill(aside, build, samples, facts, count)
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return manifest


def _check_free(out: Path) -> None:
    """An export may be written again; a folder with anything else in it is left alone."""
    if not out.exists():
        return
    if not out.is_dir():
        raise QpipeError(f"export: {out} is a file; give a folder that does not exist yet")
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    other = sorted(there - _exported(out / MANIFEST))
    if other:
        raise QpipeError(f"export: {out} holds {other[0]}, which no export put there; give an empty folder")


def _exported(manifest: Path) -> set[str]:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        return {MANIFEST, *content["files"]} if content["qpipe_export"] else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _fill(folder: Path, build: Build, samples: Samples, facts: Mapping[str, Any], count: int) -> dict[str, Any]:
    for path in build.files:
        target = folder / path.relative_to(build.folder)
        if path.name != "build.json":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    session = _session_options(build.manifest.get("options") or {})
    model = str(build.manifest["model"])
    golden, inputs, outputs = _golden(folder / model, session, samples, min(count, len(samples)))
    np.savez(folder / GOLDEN, allow_pickle=False, **golden)
    (folder / EXAMPLE).write_text(EXAMPLE_TEXT, encoding="utf-8")
    manifest = {
        "qpipe_export": FORMAT,
        **facts,
        "model": model,
        "session": session,
        "inputs": inputs,
        "outputs": outputs,
        "preprocessing": {name: asdict(how) for name, how in samples.preprocessing.items()},
        "classes": samples.classes,
        "golden": {"samples": [samples[i].id for i in range(min(count, len(samples)))], "tolerance": TOLERANCE},
        "files": {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(_files(folder))},
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _session_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The build's, with defaults filled in and ONNX Runtime's own word for the level."""
    return {
        "intra_op_num_threads": int(given.get("intra_op_num_threads", 1)),
        "inter_op_num_threads": int(given.get("inter_op_num_threads", 1)),
        "graph_optimization_level": f"ORT_{LEVELS[given.get('graph_optimization_level', 'all')]}",
        "config": {key: str(value) for key, value in (given.get("config") or {}).items()},
        "providers": list(given.get("providers") or ["CPUExecutionProvider"]),
    }


def _golden(
    model: Path, wanted: Mapping[str, Any], samples: Samples, count: int
) -> tuple[dict[str, Array], list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs by `number/in/name` and `number/out/name`; then how the network declares its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = wanted["intra_op_num_threads"]
    options.inter_op_num_threads = wanted["inter_op_num_threads"]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, wanted["graph_optimization_level"])
    for key, value in wanted["config"].items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    golden: dict[str, Array] = {}
    names = [each.name for each in session.get_inputs()]
    for number in range(count):
        feeds = samples.feeds(number, names)
        golden.update({f"{number}/in/{name}": array for name, array in feeds.items()})
        for each, output in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            if not np.isfinite(output).all():
                sample = samples[number].id
                raise QpipeError(f"export: {each.name} of sample '{sample}' is no number; the build is broken")
            golden[f"{number}/out/{each.name}"] = output
    return golden, _declared(session.get_inputs()), _declared(session.get_outputs())


def _declared(values: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"name": value.name, "type": value.type, "shape": list(value.shape)} for value in values]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
