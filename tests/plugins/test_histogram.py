"""The calibrate stage: what it sees of a network is what ONNX Runtime computes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from models import conv_net, images, run
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.activations import quantize_activations
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.calibrate.histogram import histogram

COUNT = 5


def network() -> ir.Model:
    model = conv_net()
    ShapeInferencePass()(model)
    return model


def stored(folder: Path, arrays: list[np.ndarray]) -> Samples:
    stream = (Sample(str(index), {"image": array[0]}) for index, array in enumerate(arrays))
    return Samples.write(folder, stream, {"image": Preprocessing()})


def silent(done: float, total: float | None = None, unit: str = "") -> None:
    pass


def test_it_gathers_the_values_of_every_tensor_that_gets_quantized(tmp_path: Path) -> None:
    statistics = histogram(network(), stored(tmp_path, images(COUNT)), silent)
    expected = ["image", "stem_out", "deep_out", "flat", "joined", "pooled", "features", "logits"]
    assert list(statistics) == expected
    truth = run(network(), images(COUNT), expected[1:])
    for name in expected[1:]:
        values = np.stack([arrays[name] for arrays in truth])
        found = statistics[name]
        assert found.count == values.size
        # the runtime's optimizations may round otherwise than the plain graph
        assert found.minimum == pytest.approx(values.min(), abs=1e-4)
        assert found.maximum == pytest.approx(values.max(), abs=1e-4)
        channels = np.moveaxis(values, 2, 0).reshape(values.shape[2], -1)
        np.testing.assert_allclose(found.channel_mean, channels.mean(axis=1), atol=1e-4)
        np.testing.assert_allclose(found.channel_variance, channels.var(axis=1), atol=1e-3)


def test_the_input_is_counted_as_the_network_gets_it(tmp_path: Path) -> None:
    arrays = images(COUNT)
    statistics = histogram(network(), stored(tmp_path, arrays), silent)
    counts = np.bincount(np.stack(arrays).reshape(-1).view(np.uint32) >> 16, minlength=1 << 16)
    assert np.array_equal(statistics["image"].histogram, counts)


def test_a_convolution_that_only_feeds_a_clip_is_left_out(tmp_path: Path) -> None:
    assert not {"stem", "deep"} & set(histogram(network(), stored(tmp_path, images(1)), silent))


def test_it_takes_as_many_samples_as_asked_for_and_says_where_it_is(tmp_path: Path) -> None:
    told: list[tuple[float, float | None, str]] = []
    statistics = histogram(
        network(),
        stored(tmp_path, images(COUNT)),
        lambda *said: told.append(said),
        samples=3,  # type: ignore[arg-type]
    )
    assert statistics["logits"].count == 3 * 5
    assert told == [(1, 3, "samples"), (2, 3, "samples"), (3, 3, "samples")]


def test_the_network_is_as_before_afterwards(tmp_path: Path) -> None:
    model = network()
    before = ir.to_proto(model).SerializeToString()
    histogram(model, stored(tmp_path, images(1)), silent)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_sample_that_makes_infinity_names_the_tensor(tmp_path: Path) -> None:
    huge = np.full((1, 3, 16, 16), 3e38, np.float32)  # finite, until the first layer multiplies it
    with pytest.raises(StageError, match=r"tensor '.+': NaN on the calibration samples"):
        histogram(network(), stored(tmp_path, [huge]), silent)


def test_a_sample_of_another_shape_is_named(tmp_path: Path) -> None:
    samples = stored(tmp_path, [np.zeros((1, 3, 8, 16), np.float32)])
    with pytest.raises(
        StageError,
        match=r"sample '0': network '.*': ONNX Runtime cannot run it on image float32\[1, 3, 8, 16\]: .*INVALID_ARGUMENT",
    ):
        histogram(network(), samples, silent)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    def resident() -> int:
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * 4096

    model, samples = network(), stored(tmp_path, images(2000))
    histogram(model, samples, silent, samples=200)
    before = resident()
    histogram(model, samples, silent)
    # the samples' file itself is mapped, and counted as resident
    assert resident() - before < (tmp_path / "inputs.bin").stat().st_size + 4e6


LIMITED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[1, 4, 16, 16] {outputs}) <float low = {{-1.0}}, float six = {{6.0}}>
{{ c = Conv (image, w) {body} }}"""


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("r, float[1, 4, 16, 16] l", "r = Relu (c) l = Clip (c, low, six)"),
        ("y", "l = Clip (c, low, six) y = Relu (l)"),
        ("y", "r = Relu (c) l = Clip (r, low, six) y = Neg (l)"),
    ],
    ids=["two readers", "clip and relu", "relu and clip"],
)
def test_what_it_leaves_out_the_quantizer_can_do_without(
    outputs: str, body: str, tmp_path: Path
) -> None:
    array = np.random.default_rng(4).normal(size=(4, 3, 1, 1)).astype(np.float32)
    text = LIMITED.format(outputs=outputs, body=body)
    model = ir.from_onnx_text(text, initializers=[ir.tensor(array, name="w")])
    ShapeInferencePass()(model)
    exact = run(model, images(COUNT))
    statistics = histogram(model, stored(tmp_path, images(COUNT)), silent)
    for weight in qdq.weights(model):
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, axis=0))
    quantize_activations(model, statistics)
    for one, other in zip(exact, run(model, images(COUNT)), strict=True):
        for name, values in one.items():
            assert np.mean((other[name] - values) ** 2) < 1e-3 * np.mean(values**2)
