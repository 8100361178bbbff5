"""Whether an imported float network computes what the file it was read from computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.errors import StageError
from qpipe.quant.given_network import given_rounding
from qpipe.quant.inference import InferenceError, infer, open_file, open_session
from qpipe.quant.network_inputs import fixed_values_of, network_inputs
from qpipe.quant.output_differences import TOLERANCE, find_difference
from qpipe.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime

    from qpipe.samples.sample_feeds import SampleFeeds
    from qpipe.samples.store import Samples


def check_exact(model: ir.Model, given: Path, parts: Iterable[Samples]) -> None:
    """Raise StageError where an output of the imported network is not that of the given file.

    Both are run by ONNX Runtime on the first sample of each part, without graph optimizations.
    Outputs are held against each other by name, number, order, type, shape and value; values may
    differ by rounding, also by that of a file that computes in float16.
    """
    try:
        given_session = open_file(given, optimize=False)
    except InferenceError as error:
        raise StageError(
            f"the file as it was given does not run, so that nothing can be held against it: "
            f"{error}; export it so that stock ONNX Runtime runs it, with opset 17 or later"
        ) from error
    imported_session = open_session(model, optimize=False)
    given_names = [output.name for output in given_session.get_outputs()]
    imported_names = [output.name for output in imported_session.get_outputs()]
    if given_names != imported_names:
        raise StageError(
            f"the file has the outputs {', '.join(given_names)}, "
            f"the imported network has {', '.join(imported_names)}; please report this",
            failure="wrong answer",
        )
    network = network_inputs(model)
    tolerance = max(TOLERANCE, given_rounding(model))
    for samples in parts:
        _check_fixed_values(model, samples)
        feeds = samples.sequence(0, network)
        expected = _all_outputs(given_session, feeds)
        outputs = _all_outputs(imported_session, feeds)
        difference = find_difference(
            outputs, expected, partial(_optimized, given, feeds), tolerance=tolerance
        )
        if difference is not None:
            raise StageError(
                f"the imported network is not that of the file on sample "
                f"'{samples.entries[0]['id']}': {difference}; please report this",
                failure="wrong answer",
            )


def _check_fixed_values(model: ir.Model, samples: Samples) -> None:
    """Raise StageError where a sample feeds another number than import was told."""
    values = fixed_values_of(model)
    network = network_inputs(model)
    for index in range(len(samples) if values else 0):
        feeds = samples.sequence(index, network).sample_inputs()
        for name, number in values.items():
            if not (feeds[name] == number).all():
                raise StageError(
                    f"sample '{samples.entries[index]['id']}' feeds input '{name}' "
                    f"{feeds[name].flat[0]}, values says {number:g}; leave it out of values, or "
                    "out of the samples"
                )


def _all_outputs(session: onnxruntime.InferenceSession, feeds: SampleFeeds) -> Mapping[str, Array]:
    return feeds.outputs(partial(infer, session), with_states=True)


def _optimized(given: Path, feeds: SampleFeeds) -> Mapping[str, Array]:
    return _all_outputs(open_file(given), feeds)
