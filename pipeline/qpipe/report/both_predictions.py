"""What float and a scheme give and predict for the samples by which they differ most."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.engine.portable_call import read_call
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.inference import open_file, sample_outputs
from qpipe.quant.network_inputs import network_inputs
from qpipe.report.samples_report import FedSample
from qpipe.samples.sample_feeds import NetworkInputs
from qpipe.samples.store import Samples
from qpipe.stages import registry
from qpipe.types import Array

SHOWN_SAMPLES = 4
MOST_COMPARED = 48  # samples whose outputs are compared, and the seconds after which no more are
COMPARING_S = 3.0

Outputs = Mapping[str, Array]
Postprocess = Callable[[Outputs], Any]


@dataclass(frozen=True)
class ComparedNetworks:
    """Two networks, and the samples of which those that differ most are to be shown."""

    float_file: Path
    scheme_file: Path
    samples: Path  # the folder of Samples
    indices: Sequence[int]  # the likely ones first
    answers: Sequence[float]  # of each sample, how much it agreed with float on the device
    postprocess: Path | None  # the folder of its call


@dataclass(frozen=True)
class SampleOutputs:
    """What both networks give for a sample."""

    index: int  # of the sample
    by_float: Outputs
    by_scheme: Outputs


@dataclass(frozen=True)
class SeenSample:
    """A sample as it was fed, with the prediction of float, and that of the scheme."""

    by_float: FedSample
    by_scheme: FedSample


def infer_by_both(compared: ComparedNetworks, _: Callable[[str], None]) -> list[SampleOutputs]:
    """Return the outputs of the samples that differ most, those whose answers differ first."""
    sessions = [open_file(file) for file in (compared.float_file, compared.scheme_file)]
    outputs = _infer_in_turn(sessions, Samples(compared.samples), compared.indices)
    outputs.sort(key=lambda sample: (compared.answers[sample.index], _likeness(sample)))
    return outputs[:SHOWN_SAMPLES]


def predict_by_both(
    compared: ComparedNetworks, outputs: Sequence[SampleOutputs]
) -> list[SeenSample]:
    """Return what the outputs of samples say, as the postprocess reads them."""
    samples = Samples(compared.samples)
    network = network_inputs(ir.load(compared.float_file))
    decode = _find_postprocess(compared.postprocess) or _as_it_is
    return [
        SeenSample(
            *(
                _fed_sample(samples, sample.index, network, decode(side))
                for side in (sample.by_float, sample.by_scheme)
            )
        )
        for sample in outputs
    ]


def _find_postprocess(folder: Path | None) -> Postprocess | None:
    """Return the installed postprocess of a call; None where it is not, or of a recipe's file."""
    if folder is None:
        return None
    call = read_call(folder)
    files = {option: folder / name for option, name in call.get("files", {}).items()}
    for stage in registry.load().stages.values():
        function = stage.function
        name = (getattr(function, "__module__", ""), getattr(function, "__qualname__", ""))
        if stage.kind == "postprocess" and name == (call.get("module"), call.get("function")):
            return functools.partial(function, **call["options"], **files)
    return None


def _as_it_is(outputs: Outputs) -> Any:
    return outputs


def _infer_in_turn(
    sessions: Sequence[Any], samples: Samples, indices: Sequence[int]
) -> list[SampleOutputs]:
    """Return the outputs of both networks, of as many samples as there is time for."""
    started = time.monotonic()
    inferred: list[SampleOutputs] = []
    for index in indices[:MOST_COMPARED]:
        if len(inferred) >= SHOWN_SAMPLES and time.monotonic() - started > COMPARING_S:
            break
        pair = [next(sample_outputs(session, samples, [index])) for session in sessions]
        inferred.append(SampleOutputs(index, *pair))
    return inferred


def _likeness(sample: SampleOutputs) -> float:
    """Return the SQNR in dB of the output that differs most."""
    expected = sample.by_float
    actual = sample.by_scheme
    ratios = [
        sqnr_db(expected[name], actual[name])
        for name in expected
        if name in actual and actual[name].shape == expected[name].shape
    ]
    return min(ratios, default=math.inf)


def _fed_sample(samples: Samples, index: int, network: NetworkInputs, prediction: Any) -> FedSample:
    feeds = samples.sequence(index, network).sample_inputs()
    inputs = {
        name: array if array.shape[:1] == (1,) else array[np.newaxis]
        for name, array in feeds.items()
    }
    sample = samples[index]
    return FedSample(sample.id, "evaluation", inputs, sample.target, prediction)
