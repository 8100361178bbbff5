"""A step of the host, in the process that carries it out: read, call the stage, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.engine import stage_results
from qpipe.errors import PluginError
from qpipe.quant.exact_sums import make_sums_exact
from qpipe.quant.given_network import interface_change, interface_of
from qpipe.quant.network_inputs import set_states, states_of
from qpipe.quant.target_check import check_target
from qpipe.stages.options import needs
from qpipe.types import Build, Platform, Progress, Target

if TYPE_CHECKING:
    from qpipe.quant.given_network import Interface
    from qpipe.stages.registry import Stage

# kinds whose stage writes its result into its workdir by itself
WRITES_WORKDIR = ("compile", "reference", "chunks", "exactness")

CHANGES_NETWORK = ("transform", "quantize")  # kinds


@dataclass(frozen=True)
class ResultFolder:
    """The result of another step, as it lies in the cache."""

    kind: str
    folder: Path


@dataclass(frozen=True)
class StepInputs:
    """What a stage on the host can ask for by its parameters, besides progress and workdir."""

    results: Mapping[str, ResultFolder]  # by parameter
    target: Target | None = None
    platform: Platform | None = None


def run_stage(
    stage: Stage,
    options: Mapping[str, Any],
    inputs: StepInputs,
    *,
    workdir: Path,
    out: Path,
    progress: Progress,
) -> None:
    """Read what the stage needs, call it, and write its result to the empty folder `out`."""
    if stage.kind in WRITES_WORKDIR:
        workdir = out
    engine_values = {
        "progress": progress,
        "workdir": workdir,
        "target": inputs.target,
        "platform": inputs.platform,
    }
    arguments = []
    for parameter in needs(stage.function):
        if parameter in engine_values:
            arguments.append(engine_values[parameter])
        else:
            result = inputs.results[parameter]
            arguments.append(stage_results.read_part(result.kind, parameter, result.folder))
    if stage.kind == "compile" and inputs.target is not None:
        _fit_to_target(arguments, inputs.target)
    before = _interface_before(arguments)
    result = stage.function(*arguments, **options)
    if before is not None:
        _keep_interface(stage, before, result)
    stage_results.write(stage.kind, result, out)


def _fit_to_target(arguments: Sequence[object], target: Target) -> None:
    """Let the network that is compiled respect the target; raise StageError where it cannot."""
    import onnx_ir as ir

    for argument in arguments:
        if isinstance(argument, ir.Model):
            check_target(argument, target)
            make_sums_exact(argument, target)


@dataclass(frozen=True)
class _Before:
    """What a stage has to keep of a network that it is given."""

    interface: Interface
    states: Mapping[str, str]


def _interface_before(arguments: Sequence[object]) -> _Before | None:
    """Return inputs, outputs and states of the first network that a stage is given."""
    import onnx_ir as ir

    for argument in arguments:
        if isinstance(argument, ir.Model):
            return _Before(interface_of(argument), states_of(argument))
    return None


def _keep_interface(stage: Stage, before: _Before, result: object) -> None:
    """Let a network, or the manifest of a build, have the states of the network it was made of.

    Raise PluginError where a stage gave a network with other inputs or outputs.
    """
    import onnx_ir as ir

    if isinstance(result, Build) and before.states:
        Build.write(result.folder, {**result.manifest, "states": before.states})
    if not isinstance(result, ir.Model) or stage.kind not in CHANGES_NETWORK:
        return  # another result is told when it is written
    set_states(result, before.states)
    change = interface_change(before.interface, interface_of(result))
    if change is not None:
        raise PluginError(
            f"{stage.kind} {stage.name} changed the network: its {change}; "
            "a stage must keep inputs and outputs",
            failure="bug",
        )
