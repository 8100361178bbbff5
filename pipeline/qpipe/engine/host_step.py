"""A step of the host, in the process that carries it out: read, call the stage, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.engine import stage_results
from qpipe.errors import PluginError
from qpipe.quant.given_network import interface_change, interface_of
from qpipe.quant.target_check import check_target
from qpipe.stages.options import needs
from qpipe.types import Platform, Progress, Target

if TYPE_CHECKING:
    from qpipe.quant.given_network import Interface
    from qpipe.stages.registry import Stage

# kinds whose stage writes its result into its workdir by itself
WRITES_WORKDIR = ("compile", "reference")

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
        network = inputs.results["model"]
        check_target(stage_results.read(network.kind, network.folder), inputs.target)
    interface = _network_interface(stage, arguments)
    result = stage.function(*arguments, **options)
    if interface is not None:
        _check_interface(stage, interface, result)
    stage_results.write(stage.kind, result, out)


def _network_interface(stage: Stage, arguments: Sequence[object]) -> Interface | None:
    """Return the inputs and outputs that a stage which changes a network has to keep."""
    import onnx_ir as ir

    if stage.kind not in CHANGES_NETWORK:
        return None
    networks = (argument for argument in arguments if isinstance(argument, ir.Model))
    return next(map(interface_of, networks), None)


def _check_interface(stage: Stage, before: Interface, result: object) -> None:
    """Raise PluginError where a stage gave a network with other inputs or outputs."""
    import onnx_ir as ir

    if not isinstance(result, ir.Model):
        return  # which is told when it is written
    change = interface_change(before, interface_of(result))
    if change is not None:
        raise PluginError(
            f"{stage.kind} {stage.name} changed the network: its {change}; "
            "a stage must keep inputs and outputs",
            failure="bug",
        )
