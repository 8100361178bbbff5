"""The float reference: written sample by sample, and what it says of outputs that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.engine.float_reference import float_outputs, write_float_outputs
from qpipe.engine.stage_results import FloatOutputs
from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample

TWICE = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, n] x) => (float[1, n] y, float[1] s)'
TWICE += "{ y = Add(x, x) t = ReduceSum <keepdims = 0> (x) shape = Constant <value_ints = [1]> () "
TWICE += "s = Reshape(t, shape) }"
WORDS = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, n] x) => (string[1, n] y)'
WORDS += "{ y = Cast <to = 8> (x) }"


def samples(folder: Path, *sizes: int) -> Samples:
    """Samples with so many numbers each: 0, 1, 2 ..."""
    given = (Sample(f"e{i}", {"x": np.arange(n, dtype=np.float32)}) for i, n in enumerate(sizes))
    return Samples.write(folder, given, {"x": Preprocessing()})


def write(model: str, given: Samples, folder: Path) -> FloatOutputs:
    folder.mkdir()
    return write_float_outputs(ir.from_onnx_text(model), given, folder, lambda *_: None)


def test_what_is_written_is_read_back_output_by_output(tmp_path: Path) -> None:
    written = write(TWICE, samples(tmp_path / "s", 3, 3, 3), tmp_path / "out")
    assert len(written) == 3
    for outputs in FloatOutputs(tmp_path / "out"):
        assert np.array_equal(outputs["y"], [[0.0, 2.0, 4.0]])
        assert np.array_equal(outputs["s"], [3.0])


def test_samples_are_computed_as_they_are_asked_for(tmp_path: Path) -> None:
    outputs = float_outputs(ir.from_onnx_text(TWICE), samples(tmp_path / "s", 2, 2))
    assert isinstance(outputs, Iterator)
    assert np.array_equal(next(outputs)["y"], [[0.0, 2.0]])


def test_an_output_lies_in_its_file_before_the_next_sample_is_computed(tmp_path: Path) -> None:
    sizes: list[int] = []
    file = tmp_path / "out" / "inputs.bin"
    file.parent.mkdir()
    long = 100_000
    write_float_outputs(
        ir.from_onnx_text(TWICE),
        samples(tmp_path / "s", long, long, long),
        file.parent,
        lambda *_: sizes.append(file.stat().st_size),
    )
    assert [size // (4 * long) for size in sizes] == [1, 2, 3]


def test_an_output_may_have_another_shape_for_each_sample(tmp_path: Path) -> None:
    write(TWICE, samples(tmp_path / "s", 3, 1, 2), tmp_path / "out")
    written = [outputs["y"].tolist() for outputs in FloatOutputs(tmp_path / "out")]
    assert written == [[[0.0, 2.0, 4.0]], [[0.0]], [[0.0, 2.0]]]


def test_an_output_that_is_text_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageError) as error:
        write(WORDS, samples(tmp_path / "s", 3), tmp_path / "out")
    assert str(error.value) == (
        "sample 'e0': no output is a tensor of numbers: y; "
        "give a network that has one, or leave accuracy out"
    )


def test_the_first_sample_of_another_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError) as error:
        write(TWICE.replace("n]", "3]"), samples(tmp_path / "s", 3, 3, 4, 5), tmp_path / "out")
    assert str(error.value) == (
        "the samples differ in size: sample 'e2' gives float32 [1, 4], "
        "input 'x' of the network takes [1, 3]; give all samples this size, or a name in place of "
        "that number in shapes of the model"
    )


@pytest.mark.parametrize("sizes", [(4, 3, 5), (4, 5)])
def test_samples_that_differ_are_told_so_where_the_first_does_not_fit_either(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    with pytest.raises(
        StageError, match=r"the samples differ in size: sample 'e0' gives .* a name"
    ):
        write(TWICE.replace("n]", "3]"), samples(tmp_path / "s", *sizes), tmp_path / "out")


def test_samples_that_differ_and_are_of_another_type_too_are_told_the_type(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the samples give float32 .* int64 .* layout or type"):
        write(
            TWICE.replace("float[1, n] x", "int64[1, 3] x"),
            samples(tmp_path / "s", 4, 5),
            tmp_path / "out",
        )


def test_a_network_that_cannot_run_is_told_in_one_line(tmp_path: Path) -> None:
    model = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, n] x) => (float[1, 2] y)'
    model += "{ shape = Constant <value_ints = [1, 2]> () y = Reshape(x, shape) }"
    with pytest.raises(StageError) as error:
        write(model, samples(tmp_path / "s", 2, 3), tmp_path / "out")
    assert str(error.value).startswith("sample 'e1': ")
    assert len(str(error.value).splitlines()) == 1
