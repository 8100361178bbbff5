"""Quantization-aware training of the QDQ network that comes in, with the float one as teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import onnx_ir as ir
from pydantic import Field

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Share, Threads
from qpipe.types import ANY_TARGET, Progress, Target
from qpipe_plugins.quantize.training_extra import Change, check_samples, require_torch

WHERE = "quantize qat"
DEFAULT_MINUTES = 10.0


def qat(
    model: ir.Model,
    float_model: ir.Model,
    calibration_samples: Samples,
    workdir: Path,
    progress: Progress,
    target: Target = ANY_TARGET,
    *,
    minutes: Annotated[float, Field(gt=0, le=10_000)] | None = None,
    epochs: Count | None = None,
    guided: bool = True,
    rate: Annotated[float, Field(gt=0, le=1)] = 2e-3,
    scale_rate: Annotated[float, Field(ge=0, le=1)] = 1e-3,
    features: Annotated[float, Field(ge=0, le=100)] = 1.0,
    classes: tuple[str, ...] = (),
    gradual: Share = 0.0,
    freezing: bool = True,
    warm_restarts: Annotated[int, Field(ge=0, le=100)] = 0,
    augment: tuple[Change, ...] = (),
    batch: Count = 8,
    memory_mb: Annotated[int, Field(ge=1)] = 2048,
    samples: Count | None = None,
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    threads: Threads = 1,
) -> ir.Model:
    """Train codes, scales and biases of a quantized network to give what the float one gives.

    Put it behind the stages that quantize weights and activations, best behind compensate. What
    comes in is the specification and the start: levels, granularity and zero points stay, and so
    does what the target asks for. The float network is the teacher, calibration samples are the
    data, and labels are not used. One sample in ten, 64 at most, is held out: the state with the
    least noise on them is what comes out, and never one worse than what came in. Takes `minutes`,
    10 by default, or `epochs` over the samples, whichever ends first. Where the activations of a
    `batch` would take more than `memory_mb`, it is computed in parts. A run that was ended
    continues where it was. With `epochs`, `seed` decides the result on one machine and number of
    threads. torch is the extra `train`; CUDA is used where it is there. Operators that torch cannot
    train through are named, and what is before them learns from `features` alone. Batch norm is
    part of the layers before it by then; their biases learn what new statistics would tell.

    `rate` is how far a weight moves in a step toward the next level, with biases in proportion, and
    falls by a cosine, anew after each of `warm_restarts` (Loshchilov, Hutter 2017,
    arXiv 1608.03983).
    Scales are learned at `scale_rate`, 0 keeps them (Esser et al. 2020, LSQ, arXiv 1902.08153;
    Jain et al. 2020, TQT, arXiv 1903.08066). `features` weighs the tensors between layers beside
    the outputs (Hinton et al. 2015, arXiv 1503.02531; Romero et al. 2015, arXiv 1412.6550).
    `classes` names outputs that hold scores of classes, logits along the last axis: they are
    compared by their probabilities, and other outputs, such as the boxes of a detector, count
    where these say that something is.
    `freezing` holds weights that go to and fro between two levels (Nagel et al. 2022,
    arXiv 2203.11086). `gradual` is the part of the budget over which rounding of weights sets in
    (Zhou et al. 2017, arXiv 1702.03044); for a start far from float. `augment` changes each sample
    at random: pictures by flip (left and right), crop (a tenth) and color (contrast, brightness),
    other inputs by shift (along the last axis, such as time) and noise; mix blends each with
    another (Beyer et al. 2022, arXiv 2106.05237). Leave out what could not be a sample, such as
    mirrored writing. Without `guided`, training is naive: in float and quantized
    in turns, at a constant rate, to compare with.
    """
    require_torch(WHERE)
    check_samples(calibration_samples, samples, WHERE)
    from qpipe_plugins.quantize.training.distilled import TrainingOptions, train_network
    from qpipe_plugins.quantize.training.training_loop import Schedule

    if minutes is None and epochs is None:
        minutes = DEFAULT_MINUTES
    schedule = Schedule(
        minutes=minutes,
        epochs=epochs,
        rate=rate,
        scale_rate=scale_rate if guided else 0.0,
        warm_restarts=warm_restarts,
        gradual=gradual if guided else 0.0,
        freezes=freezing and guided,
        is_naive=not guided,
        seed=seed,
    )
    options = TrainingOptions(
        schedule=schedule,
        features=features if guided else 0.0,
        classes=classes,
        augment=augment,
        batch=batch,
        memory_mb=memory_mb,
        samples=samples,
        threads=threads,
    )
    return train_network(
        model, float_model, calibration_samples, options, target, workdir, progress, where=WHERE
    )
