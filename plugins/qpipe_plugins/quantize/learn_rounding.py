"""Rounding learned block by block, so that each block gives what it gives in float."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import onnx_ir as ir
from pydantic import Field

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Threads
from qpipe.types import ANY_TARGET, Progress, Target
from qpipe_plugins.quantize.training_extra import check_samples, require_torch

WHERE = "quantize learn_rounding"


def learn_rounding(
    model: ir.Model,
    float_model: ir.Model,
    calibration_samples: Samples,
    workdir: Path,
    progress: Progress,
    target: Target = ANY_TARGET,
    *,
    steps: Count = 300,
    layers: Annotated[int, Field(ge=1, le=1000)] = 3,
    rate: Annotated[float, Field(gt=0, le=1)] = 2e-3,
    scale_rate: Annotated[float, Field(ge=0, le=1)] = 1e-3,
    batch: Count = 8,
    samples: Count | None = None,
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    memory_mb: Annotated[int, Field(ge=0)] = 512,
    threads: Threads = 1,
) -> ir.Model:
    """Learn for each weight which of the two levels around it to take, block by block.

    Put it behind the stages that quantize weights and activations, best behind compensate: levels,
    granularity and zero points stay as they come in. The network is taken in blocks of at least so
    many `layers`; each is fed what the blocks before it really give, and trained for `steps`
    batches to give what it gives in float. `rate` is how far a weight moves in a step toward the
    next level; biases are learned along with it, and scales, at `scale_rate`. One sample in ten,
    64 at most, is held out: a block that is not better on them stays as it was, and so does the
    network. Costs `steps` times a training step of the whole network: minutes for a MobileNet.
    What passes between blocks takes `memory_mb` of memory, and beyond that lies on the disk. torch
    is the extra `train`.
    Method: Li et al. 2021 (BRECQ, arXiv 2102.05426), Hubara et al. 2020 (AdaQuant,
    arXiv 2006.10518), Nagel et al. 2020 (AdaRound, arXiv 2004.10568).
    """
    require_torch(WHERE)
    check_samples(calibration_samples, samples, WHERE)
    from qpipe_plugins.quantize.training.reconstruction import (
        ReconstructionOptions,
        reconstruct_network,
    )

    options = ReconstructionOptions(
        steps=steps,
        layers=layers,
        rate=rate,
        scale_rate=scale_rate,
        batch=batch,
        samples=samples,
        seed=seed,
        memory_mb=memory_mb,
        threads=threads,
    )
    return reconstruct_network(
        model, float_model, calibration_samples, options, target, workdir, progress, where=WHERE
    )
