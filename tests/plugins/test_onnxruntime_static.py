"""ONNX Runtime's own quantizer as a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir
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
