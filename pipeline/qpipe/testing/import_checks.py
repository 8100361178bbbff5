"""Checks of import stages, and of calibrate stages: networks read, statistics gathered."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from qpipe.engine import cache_keys, stage_results
from qpipe.engine.host_step import ResultFolder
from qpipe.errors import StageError
from qpipe.quant.inference import open_session
from qpipe.testing.checks import NotApplicableError, Subject, require
from qpipe.testing.network_checks import INSTALL
from qpipe.testing.trial_chain import TrialChain


def import_is_deterministic(subject: Subject, folder: Path) -> str:
    """Require the same network, byte by byte, when the stage is called again."""
    first = _run(subject, folder / "first")
    second = _run(subject, folder / "second")
    same = cache_keys.digest(first.folder) == cache_keys.digest(second.folder)
    require(same, "two calls with the same options give different networks")
    return "two calls make the same bytes"


def imported_network_loads(subject: Subject, folder: Path) -> str:
    """Require a network with static shapes but for the batch, which ONNX Runtime loads."""
    result = _run(subject, folder)
    model: ir.Model = stage_results.read(result.kind, result.folder)
    open_session(model)
    for value in model.graph.inputs:
        require(value.shape is not None, f"input '{value.name}' has no shape")
    return f"{len(list(model.graph))} nodes"


def statistics_are_deterministic(subject: Subject, folder: Path) -> str:
    """Require the same statistics when the stage is called again, and some of each layer."""
    first = _run(subject, folder / "first")
    second = _run(subject, folder / "second")
    same = cache_keys.digest(first.folder) == cache_keys.digest(second.folder)
    require(same, "two calls with the same samples give different statistics")
    statistics = stage_results.read("calibrate", first.folder)
    chain = TrialChain(subject.plugins, folder / "network")
    names = [value.name for value in (*chain.model.graph.inputs, *chain.model.graph.outputs)]
    for name in names:
        require(name in statistics, f"it has no statistics of '{name}'")
    return f"{len(list(statistics))} tensors"


def _run(subject: Subject, folder: Path) -> ResultFolder:
    """Return what the stage gives, in a folder; raise NotApplicableError without its library."""
    resolved = subject.call().resolved()
    try:
        return TrialChain(subject.plugins, folder).run(subject.stage, resolved)
    except StageError as error:
        if INSTALL in str(error):
            raise NotApplicableError(str(error)) from error
        raise
