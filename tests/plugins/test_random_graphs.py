"""Random small networks of every operator that is quantized: ONNX's own evaluator, the runtime's float kernels and its
integer kernels give one answer, up to roundings that fall on the other side."""

from __future__ import annotations

import itertools
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

from models import statistics_of
from processors import KINDS, Arithmetic, Job, emulated, emulated_outputs, other_kind, session
from qpipe.types import Array, Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric

STAGES = {
    "symmetric": (symmetric, {}), "per tensor": (symmetric, {"granularity": "tensor"}),
    "4 bits": (symmetric, {"bits": 4}), "asymmetric": (asymmetric, {}), "logarithmic": (logarithmic, {}),
}  # fmt: skip
# what stands between two layers, and how many channels [C, H, W] it makes of four, height and width of six
BETWEEN = {
    "Conv": ("c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a, w)", (4, 6, 6)),
    "strided": ("c = Conv <kernel_shape = [3, 3], strides = [2, 2]> (a, w)", (4, 2, 2)),
    "dilated": ("c = Conv <kernel_shape = [3, 3], dilations = [2, 2]> (a, w)", (4, 2, 2)),
    "Relu": ("c = Relu (a)", (4, 6, 6)),
    "Clip": ("c = Clip (a, zero, six)", (4, 6, 6)),
    "LeakyRelu": ("c = LeakyRelu <alpha = 0.1> (a)", (4, 6, 6)),
    "Sigmoid": ("c = Sigmoid (a)", (4, 6, 6)),
    "swish": ("s = Sigmoid (a) c = Mul (a, s)", (4, 6, 6)),
    "Add": ("s = Conv (a, v) c = Add (a, s)", (4, 6, 6)),
    "Mul": ("s = Conv (a, v) c = Mul (a, s)", (4, 6, 6)),
    "Concat": ("s = Conv (a, v) c = Concat <axis = 1> (a, s)", (8, 6, 6)),
    "AveragePool": ("c = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (a)", (4, 3, 3)),
    "GlobalAveragePool": ("c = GlobalAveragePool (a)", (4, 1, 1)),
    "MaxPool": ("c = MaxPool <kernel_shape = [3, 3], strides = [1, 1]> (a)", (4, 4, 4)),
    "Transpose": ("c = Transpose <perm = [0, 2, 3, 1]> (a)", (6, 6, 4)),
    "Reshape": ("c = Reshape (a, shape)", (8, 3, 6)),
    "DepthToSpace": ("c = DepthToSpace <blocksize = 2> (a)", (1, 12, 12)),
    "Slice": ("c = Slice (a, one, three, one)", (2, 6, 6)),
    "Split": ("c, rest = Split <axis = 1> (a, halves)", (2, 6, 6)),
    "Resize": ('c = Resize <mode = "nearest"> (a, , scales)', (4, 12, 12)),
}
TEXT = """<ir_version: 10, opset_import: ["" : 21]>
net (float[1, 3, 6, 6] x) => (float[1, 5] y) {{
  a = Conv <kernel_shape = [1, 1]> (x, first, b)
  {between}
  d = Conv <kernel_shape = [1, 1]> (c, second)
  e = Relu (d)
  f = Flatten (e)
  y = {last}
}}"""
CONSTANTS = {
    "zero": np.float32(0), "six": np.float32(6), "shape": np.array([1, 8, 3, 6]), "one": np.array([1]),
    "three": np.array([3]), "halves": np.array([2, 2]), "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip
LAST = {"Gemm": "Gemm (f, third, bias)", "MatMul": "MatMul (f, third)"}


def network(between: str, last: str, seed: int) -> ir.Model:
    text, (channels, height, width) = BETWEEN[between]
    random = np.random.default_rng(seed)
    shapes = {
        "first": (4, 3, 1, 1), "b": (4,), "w": (4, 4, 3, 3), "v": (4, 4, 1, 1), "second": (4, channels, 1, 1),
        "third": (4 * height * width, 5), "bias": (5,),
    }  # fmt: skip
    fan_in = {name: max(int(np.prod(shape[1:])), 1) for name, shape in shapes.items()} | {
        "third": shapes["third"][0]
    }
    weights = {
        name: random.normal(0, fan_in[name] ** -0.5, shape) for name, shape in shapes.items()
    }
    arrays = {**CONSTANTS, **{name: array.astype(np.float32) for name, array in weights.items()}}
    body = TEXT.format(between=text, last=LAST[last])
    used = set(re.findall(r"\w+", body)) & set(arrays)
    tensors = [ir.tensor(arrays[name], name=name) for name in sorted(used)]
    model = ir.from_onnx_text(body, initializers=tensors)
    ShapeInferencePass()(model)
    return model


def answers(
    model: onnx.ModelProto,
    inputs: list[Array],
    kind: Arithmetic,
    *,
    optimize: bool,
) -> Array:
    running = session(model, kind, optimize=optimize)
    return np.concatenate([running.run(None, {"x": x})[0] for x in inputs])


@dataclass(frozen=True, eq=False)
class Case:
    """A network quantized for a kind of processor, and what operators are defined to give."""

    pairs: onnx.ModelProto  # as it was quantized
    built: onnx.ModelProto  # as it was compiled
    inputs: list[Array]
    exact: Array  # of the float network
    defined: Array  # of the quantized one

    def check(self, answer: Array) -> None:
        """Fail where an answer is not the defined one.

        Where a rounding falls on the other side a code changes by one, as it does all the time for
        float: those here are few, so they leave far less than quantization itself.
        """
        noise = np.sqrt(np.mean((self.exact - self.defined) ** 2)) + np.abs(self.exact).max() / 255
        assert np.abs(answer - self.defined).max() <= 2 * noise
        assert np.abs(answer - self.defined).mean() <= noise / 2


def case_of(between: str, last: str, stage: str, seed: int, kind: Arithmetic) -> Case | None:
    """One with random weights and inputs; None where a layer always gives 0.

    That has no scale of its own, nor has the bias behind it then.
    """
    model = network(between, last, seed)
    random = np.random.default_rng(seed)
    inputs = [random.normal(0, 1, (1, 3, 6, 6)).astype(np.float32) for _ in range(2)]
    statistics = statistics_of(model, inputs)
    if statistics["e"].maximum <= 0:
        return None
    exact = answers(ir.to_proto(model), inputs, kind, optimize=False)
    quantizer, options = STAGES[stage]
    quantized = quantizer(model, statistics, kind.target, **options)
    pairs = ir.to_proto(quantized)
    evaluator = ReferenceEvaluator(pairs)
    defined = np.concatenate([evaluator.run(None, {"x": x})[0] for x in inputs])
    with tempfile.TemporaryDirectory() as folder:
        build = compiled(quantized, Platform(), Path(folder))
        built = onnx.load(build.folder / "model.onnx")
    return Case(pairs, built, inputs, exact, defined)


@pytest.mark.parametrize("between", BETWEEN)
@settings(max_examples=4, deadline=None)
@given(
    last=st.sampled_from(sorted(LAST)),
    stage=st.sampled_from(sorted(STAGES)),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**16),
)
def test_integer_kernels_give_what_the_operators_are_defined_to(
    between: str, last: str, stage: str, kind: Arithmetic, seed: int
) -> None:
    case = case_of(between, last, stage, seed, kind)
    assume(case is not None)
    assert case is not None
    case.check(answers(case.pairs, case.inputs, kind, optimize=False))
    case.check(answers(case.built, case.inputs, kind, optimize=True))


@emulated
@pytest.mark.slow
@other_kind
@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.lab)])
def test_emulated_kernels_of_the_other_kind_give_the_same(
    share: int, kind: Arithmetic, tmp_path: Path
) -> None:
    lasts = itertools.cycle(LAST)
    names = [(between, next(lasts), stage) for between in BETWEEN for stage in STAGES][::share]
    drawn = [case_of(*name, seed, kind) for seed, name in enumerate(names)]
    cases = [case for case in drawn if case is not None]
    assert len(cases) > 0.9 * len(names)
    jobs = [Job(case.built, [{"x": x} for x in case.inputs]) for case in cases]
    outputs = emulated_outputs(kind.emulated_cpu, jobs, tmp_path)
    for case, of_feeds in zip(cases, outputs, strict=True):
        case.check(np.concatenate([one["y"] for one in of_feeds]))
