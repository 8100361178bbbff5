"""What share of a network's work would run on integers, and a warning where much would not."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from models import conv_net, images, statistics_of
from qpipe.quant.coverage import Work, coverage
from qpipe_plugins.quantize.symmetric import symmetric

# by hand: stem 8 x 8 x 8 of 3 x 3 x 3, depthwise of 3 x 3, 1 x 1 of 8, and 5 of 8 inputs
PRODUCTS = 512 * 27 + 512 * 9 + 512 * 8 + 5 * 8
# each convolution, two Clips and the sum have 512 values; pooling 8, the last layer 5
VALUES = 6 * 512 + 8 + 5
ISLANDS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 2, 1, 1] w = {1.0, 2.0, 3.0, 4.0}>
{ a = Conv (x, w) b = Erf (a) c = Conv (b, w) d = Erf (c) y = Conv (d, w) }
"""


def inferred(model: ir.Model) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


@pytest.mark.parametrize("is_quantized", [False, True])
def test_products_and_values_are_those_counted_by_hand(is_quantized: bool) -> None:
    model = inferred(conv_net())
    if is_quantized:
        symmetric(model, statistics_of(conv_net(), images(4)))
    covered = coverage(model)
    assert covered.integer_work == Work(PRODUCTS, VALUES)
    assert covered.float_work == Work(0, 0)
    assert covered.work_summary() == "100 % of the multiplications, 100 % of the computed values"


def test_much_in_float_between_integers_is_warned_of() -> None:
    covered = coverage(inferred(ir.from_onnx_text(ISLANDS)))
    assert covered.integer_work == Work(3 * 32 * 2, 3 * 32)
    assert covered.float_work == Work(0, 2 * 32)
    assert covered.work_summary() == (
        "100 % of the multiplications, 60 % of the computed values; "
        "int8 may be slower than float, for what stays float is converted"
    )


def test_nothing_is_said_where_nothing_is_integer() -> None:
    text = ISLANDS.replace("Conv (x, w)", "Erf (x)").replace("Conv (b, w)", "Erf (b)")
    model = ir.from_onnx_text(text.replace("Conv (d, w)", "Erf (d)"))
    assert coverage(inferred(model)).work_summary() == ""
