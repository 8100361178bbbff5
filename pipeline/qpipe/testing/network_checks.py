"""Checks of stages that change a network: transform and quantize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.inference import infer, open_file, open_session
from qpipe.quant.network_inputs import input_shapes
from qpipe.testing.checks import NonconformityError, NotApplicableError, Subject, require
from qpipe.testing.trial_chain import TrialChain
from qpipe.types import Array

# what a quantize stage may expect to be done before it; the first that it takes is used
STAGES_BEFORE: tuple[tuple[tuple[str, Mapping[str, Any]], ...], ...] = (
    (),
    (("symmetric", {"activation_range": "none"}),),
    (("symmetric", {}),),
)
RUINED_DB = 3.0  # the error has half the power of float's outputs, or more
INSTALL = "pip install"


@dataclass(frozen=True)
class Changed:
    """A network that the stage under test has made, on a chain that goes on from there."""

    chain: TrialChain
    model: ir.Model
    quantizes_weights: bool  # the stage does, and not one before it


def change_network(
    subject: Subject,
    folder: Path,
    *,
    transforms: Sequence[str] = (),
    elsewhere: bool = False,
    **more_options: Any,
) -> Changed:
    """Return the network that the stage makes of the trial network, after transforms, if any.

    A quantize stage that takes no float network gets one whose weights are quantized. `elsewhere`
    has the stage called in another process. Raise NotApplicableError where an option or a library
    is missing that the stage requires.
    """
    resolved = subject.call(**more_options).resolved()
    problem: StageError | None = None
    for number, stages_before in enumerate(STAGES_BEFORE):
        chain = TrialChain(subject.plugins, folder / str(number))
        for name in transforms:
            chain.apply_built_in("transform", name)
        for name, options_before in stages_before:
            chain.apply_built_in("quantize", name, **options_before)
        try:
            model = chain.apply(subject.stage, resolved, elsewhere=elsewhere)
            return Changed(chain, model, quantizes_weights=not stages_before)
        except StageError as error:
            if INSTALL in str(error):
                raise NotApplicableError(str(error)) from error
            problem = problem or error
    assert problem is not None
    raise problem


def result_is_deterministic(subject: Subject, folder: Path) -> str:
    """Require the same network, byte by byte, when the stage is called again.

    The last call is in another process, where sets of texts have another order.
    """
    first = _bytes(change_network(subject, folder / "first").model)
    second = _bytes(change_network(subject, folder / "second").model)
    require(first == second, "two calls with the same inputs and options make different networks")
    elsewhere = _bytes(change_network(subject, folder / "elsewhere", elsewhere=True).model)
    require(first == elsewhere, "another process makes a different network; sort what is in sets")
    return "two calls and another process make the same bytes"


def inputs_are_unchanged(subject: Subject, folder: Path) -> str:
    """Require that the files of its inputs stay as they are, and inputs and outputs keep names.

    Both are looked at where the stage is run: see TrialChain.run, and what every run checks.
    """
    change_network(subject, folder)
    return "the files of its inputs are the same afterwards"


def network_is_valid(subject: Subject, folder: Path) -> str:
    """Require a network that ONNX's checker takes, whose shapes can be inferred."""
    model = ir.to_proto(change_network(subject, folder).model)
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NonconformityError(f"the network is not valid ONNX: {error}") from error
    for output in inferred.graph.output:
        require(output.type.tensor_type.HasField("shape"), f"output '{output.name}' has no shape")
    return f"{len(model.graph.node)} nodes, opset {model.opset_import[0].version}"


def network_runs(subject: Subject, folder: Path) -> str:
    """Require that stock ONNX Runtime runs the network, and that its outputs are not ruined."""
    changed = change_network(subject, folder)
    float_outputs = _outputs(changed.chain, changed.chain.float_model)
    outputs = _outputs(changed.chain, changed.model)
    return f"SQNR {_sqnr(float_outputs, outputs):.1f} dB against float"


def chains_with_others(subject: Subject, folder: Path) -> str:
    """Require that a chain of transform, quantize and compile stages with this one runs."""
    is_quantizer = subject.stage.kind == "quantize"
    transforms = ("equalize",) if is_quantizer else ()
    chain = change_network(subject, folder, transforms=transforms).chain
    if not is_quantizer:
        chain.apply_built_in("quantize", "symmetric", activation_range="none")
    chain.apply_built_in("quantize", "activations")
    float_outputs = _outputs(chain, chain.float_model)
    build = chain.compile()
    session = open_file(build.folder / build.manifest["model"])
    outputs = []
    for index in range(len(chain.samples)):
        outputs.append(infer(session, chain.samples.feeds(index, input_shapes(session))))
    return f"compiled, SQNR {_sqnr(float_outputs, _joined(outputs)):.1f} dB against float"


def _outputs(chain: TrialChain, model: ir.Model) -> Mapping[str, Array]:
    """Return what the operators of a network make of all samples, one by one."""
    session = open_session(model, optimize=False)
    shapes = input_shapes(session)
    count = len(chain.samples)
    return _joined([infer(session, chain.samples.feeds(index, shapes)) for index in range(count)])


def _joined(outputs: list[dict[str, Array]]) -> Mapping[str, Array]:
    return {name: np.stack([one[name] for one in outputs]) for name in outputs[0]}


def _sqnr(float_outputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
    """Return power of float over power of the difference in dB, of the worst output."""
    worst = np.inf
    for name, reference in float_outputs.items():
        require(bool(np.isfinite(outputs[name]).all()), f"output '{name}' is not finite")
        noise = float(np.square(outputs[name] - reference, dtype=np.float64).sum())
        signal = float(np.square(reference, dtype=np.float64).sum())
        if noise:
            worst = min(worst, 10 * np.log10(signal / noise))
    limit = f"less than {RUINED_DB:g} dB, which leaves nothing of float"
    require(worst >= RUINED_DB, f"SQNR of the outputs is {worst:.1f} dB, {limit}")
    return float(worst)


def _bytes(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return content
