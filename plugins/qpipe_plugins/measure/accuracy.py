"""Accuracy on the device: samples are inferred there, and scored here as outputs arrive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import qpipe
from qpipe.compare.scoring import Scores
from qpipe.types import Array

Outputs = Mapping[str, Array]


def accuracy(
    deployed: qpipe.Deployed,
    device: qpipe.Device,
    device_samples: qpipe.Stored,
    evaluation_samples: qpipe.Samples,
    float_outputs: Sequence[Outputs],
    progress: qpipe.Progress,
    *,
    postprocess: Annotated[
        Callable[[Outputs], Any] | None, qpipe.StageOption("postprocess")
    ] = None,
    metric: Annotated[Sequence[qpipe.Metric], qpipe.StageOption("metric")] = (),
    always: Annotated[Sequence[qpipe.Metric], qpipe.StageOption("metric")] = ("agreement", "sqnr"),  # type: ignore[assignment]
) -> list[qpipe.Measurement]:
    """Infer all evaluation samples on the device and score them by `metric` and `always`.

    `postprocess` turns outputs into predictions. A metric against the target counts the samples
    that have one, and needs some; one of `always` is left out where it does not apply to the
    outputs. Intervals are over samples: Wilson's for shares, bootstrap for others. Cost: one
    inference a sample, on the device.
    """
    has_states = bool(deployed.build.manifest.get("states"))
    scores = Scores(metric, postprocess, usual=always, are_sequences=has_states)
    count = len(evaluation_samples)
    done = 0
    for outputs in device.infer(deployed.stored, device_samples, count):
        if not has_states:
            _check_outputs(device.name, outputs, deployed.build.manifest)
        scores.add(evaluation_samples[done], outputs, float_outputs[done])
        done += 1
        progress(done, count, "samples")
    if done < count:
        raise qpipe.StageError(
            f"accuracy: {device.name} returned outputs of {done} of {count} samples; "
            "see the log of the step"
        )
    return scores.measurements()


def _check_outputs(device: str, outputs: Outputs, manifest: Mapping[str, Any]) -> None:
    """Raise DeviceError where outputs are not those of the build: a board may answer anything."""
    for announced in manifest.get("outputs", ()):
        name = announced["name"]
        if name not in outputs:
            reason = f"it has no output {name}"
        elif not _fits(outputs[name].shape, announced["shape"]):
            reason = f"output {name} has the shape {outputs[name].shape}, not {announced['shape']}"
        else:
            continue
        raise qpipe.DeviceError(
            f"{device}: a wrong answer: {reason}; check what runs there", failure="wrong answer"
        )


def _fits(shape: Sequence[int], announced: Sequence[Any] | None) -> bool:
    """Return whether a shape has the rank and the fixed dimensions of what was announced."""
    if announced is None:  # nobody knows its shape
        return True
    if len(shape) != len(announced):
        return False
    for length, dimension in zip(shape, announced, strict=True):
        if isinstance(dimension, int) and dimension > 0 and length != dimension:
            return False
    return True
