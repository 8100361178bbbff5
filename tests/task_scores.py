"""How many of float's answers each scheme keeps on a public network's task, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from public_networks import PublicNetwork
from public_tasks import Answer, Drawn, Task, agreement
from qpipe.engine.sequences import write_chunks
from qpipe.quant.inference import InferenceError, open_session, sample_outputs
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from scheme_sqnr import quiet, scheme_networks


@dataclass
class TaskScores:
    """What float has right of what was drawn, where that is known, and what schemes keep of float, in %."""

    right: float | None = None
    kept: dict[str, float] = field(default_factory=dict)


def task_scores(network: PublicNetwork, path: Path, task: Task, workdir: Path) -> TaskScores:
    """Calibrate on some samples, and compare answers on others; all is simulated operator by operator."""
    random = np.random.default_rng(1)
    calibration = _written(
        workdir / "calibration", [task.draw(random) for _ in range(task.calibrated)]
    )
    drawn = [task.draw(random) for _ in range(task.evaluated)]
    evaluation = _written(workdir / "evaluation", drawn)
    if network.states:
        chunks = workdir / "chunks"
        calibration = write_chunks(network.load(path), calibration, chunks, quiet)
    reference = _answers(network.load(path), evaluation, task)
    scores = TaskScores()
    truths = [sample.truth for sample in drawn if sample.truth is not None]
    if truths:
        scores.right = agreement(task, truths, reference)
    for name, model in scheme_networks(partial(network.load, path), calibration, workdir):
        with suppress(InferenceError):
            answers = _answers(model, evaluation, task)
            scores.kept[name] = agreement(task, reference, answers)
    return scores


def _written(folder: Path, drawn: Sequence[Drawn]) -> Samples:
    feeds = drawn[0].feeds
    how = {name: Preprocessing(dtype=array.dtype.name) for name, array in feeds.items()}
    stream = (Sample(str(number), sample.feeds) for number, sample in enumerate(drawn))
    return Samples.write(folder, stream, how)


def _answers(model: ir.Model, samples: Samples, task: Task) -> list[Answer]:
    session = open_session(model, optimize=False)
    return task.answers(list(sample_outputs(session, samples, range(len(samples)))))
