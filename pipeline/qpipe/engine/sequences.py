"""Sequences as single chunks, each with the states that the float network has by then.

What reads samples one inference at a time (calibration, quantizers, diagnosis) gets these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.quant.inference import infer, open_session
from qpipe.quant.network_inputs import network_inputs
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Progress, Sample

if TYPE_CHECKING:
    import onnx_ir as ir


def write_chunks(
    model: ir.Model,
    samples: Samples,
    folder: Path,
    progress: Progress,
    indices: Iterable[int] | None = None,
) -> Samples:
    """Write each chunk of these sequences (default all) as a sample with all the network's inputs.

    They are shuffled, so that the first of them are of all sequences.
    """
    selected = list(range(len(samples)) if indices is None else indices)
    network = network_inputs(model)
    preprocessing = {name: Preprocessing(dtype=dtype) for name, dtype in network.types.items()}
    chunks = _chunks(model, samples, selected, progress)
    return Samples.write(folder, chunks, preprocessing, shuffle=True)


def _chunks(
    model: ir.Model, samples: Samples, indices: list[int], progress: Progress
) -> Iterator[Sample]:
    session = open_session(model, threads=0)
    network = network_inputs(model)
    for done, index in enumerate(indices):
        sequence = samples.sequence(index, network)
        for number, (feeds, _) in enumerate(sequence.run(partial(infer, session))):
            yield Sample(f"{samples.entries[index]['id']}/{number}", feeds)
        progress(done + 1, len(indices), "sequences")
