"""ONNX Runtime's own quantizer as a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from models import conv_net, images, run
from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    stream = (Sample(str(index), {"image": array[0]}) for index, array in enumerate(images(12)))
    return Samples.write(tmp_path, stream, {"image": Preprocessing()})


def network() -> ir.Model:
    model = conv_net()
    ShapeInferencePass()(model)
    return model


Method = Literal["minmax", "moving_average", "percentile", "entropy"]


@pytest.mark.parametrize("method", get_args(Method))
def test_what_it_says_is_for_the_log_alone(
    samples: Samples, method: Method, capfd: pytest.CaptureFixture[str]
) -> None:
    quantized = onnxruntime_static(network(), samples, method=method)
    assert capfd.readouterr().out == ""
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in quantized.graph}
    truth = np.stack([arrays["logits"] for arrays in run(network(), images(8, seed=9))])
    made = np.stack([arrays["logits"] for arrays in run(quantized, images(8, seed=9))])
    assert np.sum(truth**2) > 30 * np.sum((truth - made) ** 2)


def test_its_weights_have_one_scale_per_channel_or_per_tensor(samples: Samples) -> None:
    for per_channel, shape in ((True, (8,)), (False, ())):
        quantized = onnxruntime_static(network(), samples, per_channel=per_channel, samples=2)
        scale = quantized.graph.initializers["stem_w_scale"].const_value
        assert scale is not None
        assert tuple(scale.shape) == shape


def test_what_its_quantizer_refuses_is_one_line(samples: Samples) -> None:
    model = network()
    model.graph.initializers["stem_w"].const_value = ir.tensor(
        np.zeros((8, 2, 3, 3), np.float32), name="stem_w"
    )
    with pytest.raises(
        StageError, match="onnxruntime_static: the library's quantizer failed: "
    ) as raised:
        onnxruntime_static(model, samples)
    assert "\n" not in str(raised.value)


def test_the_copy_of_a_shared_bias_takes_no_other_tensors_name(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
      b0 = Conv (x, w, b) y = Conv (b0, v, b) }"""
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(5)
    for name, shape in {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1), "b": (4,)}.items():
        array = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    arrays = [random.normal(size=(4, 6, 6)).astype(np.float32) for _ in range(4)]
    stream = (Sample(str(index), {"x": array}) for index, array in enumerate(arrays))
    samples = Samples.write(tmp_path, stream, {"x": Preprocessing()})
    quantized = onnxruntime_static(ir.from_proto(proto), samples)
    feeds = {"x": arrays[0][np.newaxis]}
    options = {"providers": ["CPUExecutionProvider"]}
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString(), **options).run(
        None, feeds
    )
    content = ir.to_proto(quantized).SerializeToString()
    (answer,) = onnxruntime.InferenceSession(content, **options).run(None, feeds)
    assert np.sum(expected**2) > 300 * np.sum((expected - answer) ** 2)
