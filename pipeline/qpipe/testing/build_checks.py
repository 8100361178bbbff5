"""Checks of compile stages: the build, and the runner that runs it on a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from qpipe.engine import cache_keys
from qpipe.errors import DeviceError, StageError
from qpipe.testing.checks import NonconformityError, NotApplicableError, Subject, require
from qpipe.testing.network_checks import INSTALL
from qpipe.testing.trial_chain import TrialChain, no_progress
from qpipe.testing.trial_device import open_local_device, require_outputs, require_running
from qpipe.types import Build

REQUIRED = ("runtime", "runner", "model")
OF_THE_AGENT = "run_onnxruntime.py"


def build_is_complete(subject: Subject, folder: Path) -> str:
    """Require a build.json that names runtime, runner and model, and files that are there."""
    build = _compile(subject, TrialChain(subject.plugins, folder))
    manifest: dict[str, Any] = json.loads((build.folder / "build.json").read_text(encoding="utf-8"))
    for name in REQUIRED:
        require(bool(manifest.get(name)), f"build.json has no {name}")
    for name in ("runner", "model"):
        file = manifest[name]
        is_there = file == OF_THE_AGENT or (build.folder / file).is_file()
        require(is_there, f"build.json names the {name} '{file}', which is not in the build")
    if str(manifest["model"]).endswith(".onnx"):
        onnx.checker.check_model(str(build.folder / manifest["model"]), full_check=True)
    return f"{len(build.files)} files for {manifest['runtime']}"


def build_is_deterministic(subject: Subject, folder: Path) -> str:
    """Require the same files, byte by byte, when the stage is called again."""
    first = _compile(subject, TrialChain(subject.plugins, folder / "first"))
    second = _compile(subject, TrialChain(subject.plugins, folder / "second"))
    same = cache_keys.digest(first.folder) == cache_keys.digest(second.folder)
    require(same, "two calls with the same network and options make different files")
    return "two calls make the same bytes"


def quantized_networks_compile(subject: Subject, folder: Path) -> str:
    """Require a build of what transform and quantize stages make, too."""
    chain = TrialChain(subject.plugins, folder)
    chain.apply_built_in("transform", "equalize")
    chain.apply_built_in("quantize", "symmetric")
    return f"{len(_compile(subject, chain).files)} files"


def runner_speaks_the_protocol(subject: Subject, folder: Path) -> str:
    """Require that the agent runs the build: outputs of the network, times, a placement or None.

    PROTOCOL.md in qpipe_devices/agent says what a runner answers. It runs on this machine.
    """
    chain = TrialChain(subject.plugins, folder / "chain")
    build = _compile(subject, chain)
    with open_local_device(subject.plugins, folder) as device:
        require_running(device, subject.stage.runtime)
        stored = device.store(build.folder, no_progress)
        samples = device.store(chain.samples.folder, no_progress)
        sqnr = require_outputs(device, stored, samples, chain.model, chain.samples)
        taken = device.round(stored, samples, warmup_s=0, values=3, budget_s=30)
        device.placement(stored)
    require(len(taken.values_ms) == 3, f"a round of 3 values has {len(taken.values_ms)}")
    return f"SQNR {sqnr:.0f} dB against ONNX Runtime, {len(taken.values_ms)} times"


def a_broken_network_is_one_line(subject: Subject, folder: Path) -> str:
    """Require that a runner says in one line that the file of a network is damaged."""
    chain = TrialChain(subject.plugins, folder / "chain")
    build = _compile(subject, chain)
    model = build.folder / build.manifest["model"]
    content = model.read_bytes()
    model.write_bytes(content[: len(content) // 2])
    with open_local_device(subject.plugins, folder) as device:
        require_running(device, subject.stage.runtime)
        stored = device.store(build.folder, no_progress)
        samples = device.store(chain.samples.folder, no_progress)
        try:
            list(device.infer(stored, samples, 1))
        except DeviceError as error:
            require("\n" not in str(error), f"its failure has several lines: {str(error)!r}")
            return str(error)
    raise NonconformityError("half of the network's file runs without an error")


def _compile(subject: Subject, chain: TrialChain) -> Build:
    try:
        return chain.compile(subject.stage, dict(subject.call().options))
    except StageError as error:
        if INSTALL in str(error):
            raise NotApplicableError(str(error)) from error
        raise
