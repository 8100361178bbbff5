"""Checks of device drivers: what a device tells, keeps, runs and forgets, and how it fails.

They clean the device: what qpipe stored there is sent again when it is needed.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from qpipe.errors import DeviceError
from qpipe.testing.checks import NonconformityError, NotApplicableError, Subject, require
from qpipe.testing.trial_chain import TrialChain, no_progress
from qpipe.testing.trial_device import (
    RUNS_NOTHING,
    deploy,
    float_build,
    open_trial_device,
    require_outputs,
    require_running,
)
from qpipe.types import Build, Capabilities, Device, Placement, Stored

BROKEN_RUNNER = "#!/bin/sh\necho it breaks >&2\nexit 3\n"


def device_describes_itself(subject: Subject, folder: Path) -> str:
    """Require all fields of Capabilities, the same again, also by another connection."""
    with open_trial_device(subject, folder) as device:
        require(isinstance(device, Device), f"it gives {type(device).__name__}, which is no Device")
        first = device.capabilities()
        device.close()
        second = device.capabilities()
    for field in fields(Capabilities):
        value = getattr(first, field.name)
        is_optional = field.name in ("emulated", "boot_id")
        require(is_optional or value is not None, f"its capabilities have no {field.name}")
    require(bool(first.fingerprint), "its capabilities have an empty fingerprint")
    require(first == second, "its capabilities differ from one connection to the next")
    return f"{first.system}, {first.arch}, {first.cores} cores"


def device_stores_files(subject: Subject, folder: Path) -> str:
    """Require that files are sent once, whatever their names, and have a place by their content."""
    files = folder / "files"
    _write_files(files, b"first")
    others = folder / "others"
    _write_files(others, b"second")
    with open_trial_device(subject, folder) as device:
        first = device.store(files, no_progress)
        again = device.store(files, no_progress)
        other = device.store(others, no_progress)
    size = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    require(first.size == size, f"it stored {first.size} bytes of {size}")
    require(again.sent == 0, f"files that the device has are sent again: {again.sent} bytes")
    require(again.digest == first.digest, "the same folder has another digest the second time")
    require(other.digest != first.digest, "two folders with other contents have one digest")
    require(other.path != first.path, "two folders with other contents have one path")
    return f"{first.sent} bytes sent, then none"


def device_runs_builds(subject: Subject, folder: Path) -> str:
    """Require the outputs of stock ONNX Runtime, also after who reads them has stopped halfway."""
    with open_trial_device(subject, folder) as device:
        capabilities = require_running(device)
        chain = TrialChain(subject.plugins, folder / "chain")
        stored_build = deploy(subject.plugins, float_build(chain, capabilities), device)
        stored_samples = device.store(chain.samples.folder, no_progress)
        outputs = device.infer(stored_build, stored_samples, len(chain.samples))
        next(outputs)
        getattr(outputs, "close", lambda: None)()
        sqnr = require_outputs(device, stored_build, stored_samples, chain.model, chain.samples)
    return f"SQNR {sqnr:.0f} dB against ONNX Runtime here"


def device_times_rounds(subject: Subject, folder: Path) -> str:
    """Require rounds of positive times, as many values as asked for; a placement or None."""
    with open_trial_device(subject, folder) as device:
        chain = TrialChain(subject.plugins, folder / "chain")
        build = float_build(chain, device.capabilities())
        if device.capabilities().system != RUNS_NOTHING:
            require_running(device)
        stored_build = deploy(subject.plugins, build, device)
        stored_samples = device.store(chain.samples.folder, no_progress)
        taken = device.round(stored_build, stored_samples, warmup_s=0, values=3, budget_s=30)
        placement = device.placement(stored_build)
    require(len(taken.values_ms) == 3, f"a round of 3 values has {len(taken.values_ms)}")
    require(min(taken.values_ms) > 0, "a round has a time that is not positive")
    is_placement = placement is None or isinstance(placement, Placement)
    require(is_placement, f"placement gives {type(placement).__name__}")
    return f"{len(taken.values_ms)} values in ms"


def device_is_cleaned(subject: Subject, folder: Path) -> str:
    """Require that `clean` removes what was stored, and nothing with `dry_run`."""
    files = folder / "files"
    _write_files(files, b"to be removed")
    with open_trial_device(subject, folder) as device:
        stored = device.store(files, no_progress)
        counted = device.clean(dry_run=True)
        require(device.store(files, no_progress).sent == 0, "clean removes files in a dry run")
        freed = device.clean()
        if device.capabilities().system != RUNS_NOTHING:
            enough = min(counted, freed) >= stored.size
            require(enough, f"clean frees {freed} bytes, {stored.size} were stored")
        sent_again = device.store(files, no_progress).sent
    require(sent_again == stored.size, "what was cleaned is not sent again when it is needed")
    return f"{freed} bytes freed"


def failures_are_one_line(subject: Subject, folder: Path) -> str:
    """Require a DeviceError of one line that begins with the device's name; the device goes on."""
    broken = folder / "broken"
    broken.mkdir()
    (broken / "runner").write_text(BROKEN_RUNNER, encoding="utf-8")
    (broken / "model.onnx").write_bytes(b"")
    Build.write(broken, {"runtime": "none", "runner": "runner", "model": "model.onnx"})
    with open_trial_device(subject, folder) as device:
        if device.capabilities().system == RUNS_NOTHING:
            raise NotApplicableError("it runs nothing")
        chain = TrialChain(subject.plugins, folder / "chain")
        stored_samples = device.store(chain.samples.folder, no_progress)
        reason = _failure_of(device, device.store(broken, no_progress), stored_samples)
        device.capabilities()
    return reason


def _failure_of(device: Device, build: Stored, samples: Stored) -> str:
    try:
        list(device.infer(build, samples, 1))
    except DeviceError as error:
        reason = str(error)
        require("\n" not in reason, f"its failure has several lines: {reason!r}")
        starts_with_name = reason.startswith(f"{device.name}: ")
        require(starts_with_name, f"its failure does not begin with the device's name: {reason}")
        return reason
    raise NonconformityError("a build whose runner ends with status 3 is no error")


def _write_files(folder: Path, content: bytes) -> None:
    (folder / "below").mkdir(parents=True)
    (folder / "a file").write_bytes(content)
    (folder / "below" / "zeros.bin").write_bytes(bytes(5000) + content)
