from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import networks
from models import conv_net, images, run, statistics_of
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.codebook import apot, full_range, pot, uniform
from qpipe.quant.moments import input_rows
from qpipe.quant.piecewise_inference import MemoryBudget, PiecewiseInference
from qpipe.quant.rounding import Grid, Hessian, round_to_grid
from qpipe.quant.target_check import check_target
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample, Target
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.compensate import compensate
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric

CALIBRATION, EVALUATION = images(40, seed=1), images(16, seed=2)


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), CALIBRATION)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return written(tmp_path_factory.mktemp("samples"), "image", [array[0] for array in CALIBRATION])


def written(folder, name, arrays):
    return Samples.write(
        folder, (Sample(str(i), {name: a}) for i, a in enumerate(arrays)), {name: Preprocessing()}
    )


def quiet(done, total=None, unit=""):
    pass


def weights(model):
    return {weight.name: weight for weight in qdq.weights(model)}


def fitted(arrays):
    """Those that are not left out to check the result: one in ten, eight at most."""
    step = max(10, -(-len(arrays) // 8))
    return [array for index, array in enumerate(arrays) if index % step != 5]


def noise_db(model, inputs=EVALUATION):
    exact, got = (
        np.concatenate([one["logits"] for one in run(net, inputs)]) for net in (conv_net(), model)
    )
    return sqnr_db(exact, got)


# ---- the stage


@pytest.mark.parametrize("quantizer", [symmetric, asymmetric, logarithmic])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_compensated_weights_leave_less_noise_than_corrected_biases(
    quantizer, granularity, statistics, samples, tmp_path
):
    def quantized():
        return quantizer(conv_net(), statistics, bits=3, granularity=granularity)

    corrected = correct_bias(quantized(), conv_net(), statistics)
    compensated = compensate(quantized(), conv_net(), samples, tmp_path, quiet)
    assert noise_db(compensated) > noise_db(corrected)


@pytest.mark.parametrize("quantizer", [symmetric, asymmetric, logarithmic])
def test_codes_stay_in_their_codebook_and_scales_keep_their_granularity(
    quantizer, statistics, samples, tmp_path
):
    before = weights(quantizer(conv_net(), statistics, bits=3, granularity="tensor"))
    model = quantizer(conv_net(), statistics, bits=3, granularity="tensor")
    for name, weight in weights(compensate(model, conv_net(), samples, tmp_path, quiet)).items():
        old, new = before[name].quantized, weight.quantized
        assert new.codebook == (
            full_range(3) if quantizer is symmetric else old.codebook
        )  # 8 levels, no longer 7
        assert set(np.unique(new.codes)) <= set(new.codebook.levels)
        assert (new.axis, new.scale.shape, new.codes.shape) == (
            old.axis,
            old.scale.shape,
            old.codes.shape,
        )


def test_scales_are_kept_where_they_are_not_to_change(statistics, samples, tmp_path):
    before = weights(symmetric(conv_net(), statistics, bits=3))
    model = compensate(
        symmetric(conv_net(), statistics, bits=3),
        conv_net(),
        samples,
        tmp_path,
        quiet,
        rescale=False,
    )
    for name, weight in weights(model).items():
        np.testing.assert_array_equal(weight.quantized.scale, before[name].quantized.scale)


@pytest.mark.parametrize("quantizer", [symmetric, logarithmic])
def test_what_the_target_takes_it_still_takes_afterwards(quantizer, statistics, samples, tmp_path):
    strict = Target(symmetric_only=True, per_tensor_weights=True, power_of_two_scales=True)
    before = quantizer(conv_net(), statistics, strict, bits=4)
    noise = noise_db(before)
    after = compensate(before, conv_net(), samples, tmp_path, quiet, strict)
    check_target(after, strict)
    for weight in qdq.weights(after):
        assert weight.quantized.axis is None
        assert np.log2(weight.quantized.scale) == np.rint(np.log2(weight.quantized.scale))
    assert noise_db(after) > noise


@pytest.mark.parametrize(
    ("name", "output"), [("stem_w", "stem"), ("deep_w", "deep"), ("flat_w", "flat")]
)
def test_every_output_keeps_its_mean_in_strided_padded_and_depthwise_layers(
    name, output, samples, tmp_path
):
    model = conv_net()
    for weight in qdq.weights(model):
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=2, axis=0))
    model = compensate(model, conv_net(), samples, tmp_path, quiet, positions=10_000)
    means = [
        np.mean([one[output] for one in run(net, fitted(CALIBRATION), [output])], axis=(0, 1, 3, 4))
        for net in (conv_net(), model)
    ]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def test_drift_that_is_linear_in_the_inputs_is_made_up_for(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 4] x) => (float[1, 3] y) { h = Gemm <transB = 1> (x, first) y = Gemm <transB = 1> (h, second) }"""
    random = np.random.default_rng(3)
    first, second = (
        random.normal(size=(12, 4)).astype(np.float32),
        random.normal(size=(3, 12)).astype(np.float32),
    )
    given = random.normal(size=(200, 4)).astype(np.float32)

    def net():
        return ir.from_onnx_text(
            text, initializers=[ir.tensor(first, name="first"), ir.tensor(second, name="second")]
        )

    def noise(drift):
        model = net()
        for weight, bits in zip(qdq.weights(model), (3, 8), strict=True):
            qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=bits, axis=0))
        folder = tmp_path / str(drift)
        model = compensate(model, net(), written(folder, "x", given), tmp_path, quiet, drift=drift)
        inputs = [row[np.newaxis] for row in random.normal(size=(50, 4)).astype(np.float32)]
        return sqnr_db(
            *(np.array([one["y"] for one in run(network, inputs)]) for network in (net(), model))
        )

    # twelve numbers made of four leave the second layer eight to spare: its 8 bits can undo what 3 bits did
    assert noise(drift=True) > noise(drift=False) + 10


def test_a_matmul_of_constant_weights_is_rounded_too(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 5, 24] x) => (float[1, 5, 6] y) { y = MatMul (x, w) }"""
    random = np.random.default_rng(5)
    mixed = random.normal(size=(3, 24))
    given = (random.normal(size=(60, 5, 3)) @ mixed + 0.3 * random.normal(size=(60, 5, 24))).astype(
        np.float32
    )
    array = random.normal(size=(24, 6)).astype(np.float32)

    def net():
        return ir.from_onnx_text(text, initializers=[ir.tensor(array, name="w")])

    model = net()
    (weight,) = qdq.weights(model)
    qdq.quantize_weight(model, weight, qdq.to_codebook(weight, pot(4), axis=1))
    (before,) = qdq.weights(model)
    model = compensate(model, net(), written(tmp_path, "x", given), tmp_path, quiet)
    (after,) = qdq.weights(model)
    noise = [
        np.sum((given.reshape(-1, 24) @ (found.array - array)) ** 2) for found in (before, after)
    ]
    assert noise[1] < 0.5 * noise[0]


def test_a_weight_that_two_layers_share_is_rounded_once_and_each_gets_its_bias(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 4] x) => (float[1, 4] y) { h = Gemm (x, w, b) r = Relu (h) y = Gemm (r, w, b) }"""
    random = np.random.default_rng(3)
    array, bias = (
        random.normal(size=(4, 4)).astype(np.float32),
        random.normal(size=4).astype(np.float32),
    )
    given = random.normal(size=(100, 4)).astype(np.float32)

    def net():
        return ir.from_onnx_text(
            text, initializers=[ir.tensor(array, name="w"), ir.tensor(bias, name="b")]
        )

    model = net()
    (weight,) = qdq.weights(model)
    qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=3, axis=1))
    model = compensate(model, net(), written(tmp_path, "x", given), tmp_path, quiet)
    inputs = [row[np.newaxis] for row in fitted(given)]
    means = [
        np.mean([one["y"] for one in run(network, inputs)], axis=0) for network in (net(), model)
    ]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def test_a_gemm_that_is_more_than_weight_and_bias_is_refused(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3] x) => (float[1, 2] y) <float[3, 2] w = {0.9, -0.6, 0.35, 0.2, -1.0, 1.0}>
    { y = Gemm <alpha = 0.5> (x, w) }"""
    model = ir.from_onnx_text(text)
    (weight,) = qdq.weights(model)
    qdq.quantize_weight(model, weight, qdq.symmetric(weight, axis=None))
    given = written(tmp_path, "x", [np.ones(3, np.float32)])
    with pytest.raises(
        StageError,
        match=r"^quantize compensate: no quantized weight belongs to a supported layer; it takes",
    ):
        compensate(model, ir.from_onnx_text(text), given, tmp_path, quiet)


def test_weights_that_are_float_still_are_said_to_be_missing(samples, tmp_path):
    with pytest.raises(
        StageError, match="no weight is quantized yet; put a stage that quantizes weights before it"
    ):
        compensate(conv_net(), conv_net(), samples, tmp_path, quiet)


def test_one_sample_is_enough(statistics, tmp_path):
    one = written(tmp_path, "image", [CALIBRATION[0][0]])
    assert np.isfinite(
        noise_db(compensate(symmetric(conv_net(), statistics), conv_net(), one, tmp_path, quiet))
    )


def test_what_memory_has_no_room_for_waits_on_the_disk_and_changes_nothing(
    statistics, samples, tmp_path
):
    nets = [
        compensate(
            symmetric(conv_net(), statistics),
            conv_net(),
            samples,
            tmp_path,
            quiet,
            memory_mb=memory,
        )
        for memory in (0, 512)
    ]
    found = [weights(net) for net in nets]
    for name, weight in found[0].items():
        np.testing.assert_array_equal(weight.array, found[1][name].array)
        np.testing.assert_array_equal(weight.bias, found[1][name].bias)
    assert not list(tmp_path.iterdir())


def test_mirrored_pictures_are_as_if_they_lay_among_the_samples(statistics, tmp_path):
    pictures = [
        np.round(np.moveaxis(array[0], 0, -1) * 50 + 128).clip(0, 255).astype(np.uint8)
        for array in CALIBRATION[:4]  # too few to leave some out
    ]
    how = {"image": Preprocessing(mean=(128.0,), std=(50.0,), layout="NCHW")}

    def compensated(name, arrays, **options):
        given = Samples.write(
            tmp_path / name, (Sample(str(i), {"image": a}) for i, a in enumerate(arrays)), how
        )
        return compensate(
            symmetric(conv_net(), statistics),
            conv_net(),
            given,
            tmp_path,
            quiet,
            drift=False,
            **options,
        )

    both = [one for picture in pictures for one in (picture, picture[:, ::-1])]
    nets = compensated("one", pictures, horizontal_flip=True), compensated("both", both)
    for here, there in zip(*map(qdq.weights, nets), strict=True):
        np.testing.assert_array_equal(here.array, there.array)
        np.testing.assert_array_equal(here.bias, there.bias)


def test_samples_that_are_no_pictures_have_no_mirror(statistics, samples, tmp_path):
    reason = "^quantize compensate: horizontal_flip is set, but no input of the samples is an image; leave it out$"
    with pytest.raises(StageError, match=reason):
        compensate(
            symmetric(conv_net(), statistics),
            conv_net(),
            samples,
            tmp_path,
            quiet,
            horizontal_flip=True,
        )


# ---- the check on samples that are left out


SINGLE = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 24] x) => (float[1, 6] y) { y = Gemm <transB = 1> (x, w, b) }"""


def single():
    random = np.random.default_rng(5)
    tensors = [
        ir.tensor(random.normal(size=shape).astype(np.float32), name=name)
        for name, shape in (("w", (6, 24)), ("b", (6,)))
    ]
    return ir.from_onnx_text(SINGLE, initializers=tensors)


def unlike(count):
    """Samples along one axis, but for those of a hundred that are left out: rounding to nearest is best for those."""
    random = np.random.default_rng(9)
    axis = random.normal(size=24)
    arrays = [
        random.normal(size=24) if index % 13 == 5 else random.normal() * axis
        for index in range(count)
    ]
    return [array.astype(np.float32) for array in arrays]


def test_what_is_worse_on_samples_left_out_stays_as_it_was(tmp_path, caplog):
    model = single()
    (weight,) = qdq.weights(model)
    qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=3, axis=0))
    (before,) = weights(ir.from_proto(ir.to_proto(model))).values()
    given = written(tmp_path, "x", unlike(100))
    (after,) = qdq.weights(
        compensate(model, single(), given, tmp_path, quiet, damping=1e-6, rescale=False)
    )
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(after.bias, before.bias)
    assert "worse than the network that it was given, so 1 of 1 weights stay" in caplog.text


def test_layers_that_a_fit_helps_keep_it_where_others_do_not(tmp_path, caplog):
    """Two branches, of which one sees samples that are unlike those that are left out."""
    both = SINGLE.replace("(float[1, 24] x)", "(float[1, 24] x, float[1, 24] u)").replace(
        "(float[1, 6] y) { ", "(float[1, 6] y, float[1, 6] v) { v = Gemm <transB = 1> (u, c, d) "
    )
    random = np.random.default_rng(6)

    def net():
        tensors = [
            ir.tensor(random.normal(size=shape).astype(np.float32), name=name)
            for name, shape in (("w", (6, 24)), ("b", (6,)), ("c", (6, 24)), ("d", (6,)))
        ]
        return ir.from_onnx_text(both, initializers=tensors)

    float_model = net()
    model = ir.from_proto(ir.to_proto(float_model))
    for weight, bits in zip(qdq.weights(model), (6, 3), strict=True):
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=bits, axis=0))
    before = weights(ir.from_proto(ir.to_proto(model)))
    mixing = random.normal(size=(4, 24))
    alike = (random.normal(size=(100, 4)) @ mixing).astype(np.float32)
    stream = (
        Sample(str(index), {"x": x, "u": u})
        for index, (x, u) in enumerate(zip(unlike(100), alike, strict=True))
    )
    given = Samples.write(tmp_path, stream, {"x": Preprocessing(), "u": Preprocessing()})
    after = weights(
        compensate(model, float_model, given, tmp_path, quiet, damping=1e-6, rescale=False)
    )
    np.testing.assert_array_equal(after["w"].array, before["w"].array)
    assert (after["c"].array != before["c"].array).any()
    assert "1 of 2 weights stay as they were" in caplog.text


def test_samples_too_few_to_leave_some_out_are_said_to_be(statistics, tmp_path, caplog):
    few = written(tmp_path, "image", [array[0] for array in CALIBRATION[:9]])
    compensate(symmetric(conv_net(), statistics), conv_net(), few, tmp_path, quiet)
    assert "9 samples are too few to leave some out: they check the result" in caplog.text


def test_layers_around_branches_and_loops_are_compensated_too(tmp_path):
    feeds = networks.feeds("branches", 12)
    given = written(tmp_path, "image", [one["image"][0] for one in feeds])
    float_model = ir.from_proto(networks.NETWORKS["branches"]())
    inputs = [one["image"] for one in feeds]
    statistics = histogram(float_model, given, quiet)

    def quantized():
        return symmetric(ir.from_proto(ir.to_proto(float_model)), statistics)

    def noise(model):
        exact, rounded = (
            np.array([next(iter(one.values())) for one in run(net, inputs)])
            for net in (float_model, model)
        )
        return sqnr_db(exact, rounded)

    compensated = compensate(quantized(), float_model, given, tmp_path, quiet)
    assert noise(compensated) > noise(quantized()) + 3


# ---- its parts


def test_segments_give_what_the_whole_network_gives_and_read_the_weights_of_the_day(
    statistics, samples, tmp_path
):
    model = symmetric(conv_net(), statistics)
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    segments = PiecewiseInference(model, layers, samples, 3, MemoryBudget(tmp_path, 1 << 20))
    for layer, weight in zip(layers, qdq.weights(model), strict=True):
        arrays = list(segments.inputs(layer))
        wanted = run(model, CALIBRATION[:3], [layer.inputs[0].name])
        for array, exact in zip(arrays, wanted, strict=True):
            np.testing.assert_allclose(array, exact[layer.inputs[0].name], atol=1e-6)
        qdq.quantize_weight(
            model, weight, qdq.symmetric(weight, bits=3, axis=0)
        )  # what lies behind shall see it


def test_segments_give_back_the_room_of_what_nobody_reads_any_more(samples, tmp_path):
    model, room = conv_net(), MemoryBudget(tmp_path, 1 << 20)
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    segments = PiecewiseInference(model, layers, samples, 3, room)
    for layer in layers:
        list(segments.inputs(layer))
    assert (1 << 20) - room.free == 3 * 8 * 4  # the last layer's inputs


@pytest.mark.parametrize(
    "attributes",
    [
        "strides = [2, 1], pads = [1, 0, 2, 1], dilations = [1, 2]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
        'auto_pad = "SAME_LOWER", strides = [2, 3]',
        'auto_pad = "VALID"',
        "group = 2, pads = [1, 1, 1, 1]",
        "group = 2, pads = [3, 0, 0, 2], strides = [3, 1]",
    ],
)
def test_rows_times_weights_are_the_convolution(attributes):
    groups = 2 if "group" in attributes else 1
    random = np.random.default_rng(0)
    array = random.normal(size=(6, 4 // groups, 3, 2)).astype(np.float32)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 4, 9, 8] x) => (float[1, 6, p, q] y) {{ y = Conv <kernel_shape = [3, 2], {attributes}> (x, w) }}"""
    model = ir.from_onnx_text(text, initializers=[ir.tensor(array, name="w")])
    x = random.normal(size=(1, 4, 9, 8)).astype(np.float32)
    (exact,) = run(model, [x])
    found = input_rows(model.graph[0], array.shape, x, places=10_000, sample=0) @ array.reshape(
        groups, 6 // groups, -1
    ).transpose(0, 2, 1)
    np.testing.assert_allclose(
        found.transpose(0, 2, 1).reshape(6, -1), exact["y"].reshape(6, -1), atol=1e-5
    )


@pytest.mark.parametrize(
    "attributes", ["strides = [1, 1]", "strides = [2, 2]", "strides = [2, 2], pads = [2, 2, 2, 2]"]
)
def test_rows_of_a_pointwise_convolution_are_the_places_that_it_looks_at(attributes):
    array = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3, 4, 4] x) => (float[1, 5, p, q] y) {{ y = Conv <kernel_shape = [1, 1], {attributes}> (x, w) }}"""
    model = ir.from_onnx_text(text, initializers=[ir.tensor(array, name="w")])
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 4)).astype(np.float32)
    (exact,) = run(model, [x])
    found = (
        input_rows(model.graph[0], array.shape, x, places=10_000, sample=0)[0] @ array[:, :, 0, 0].T
    )
    np.testing.assert_allclose(found.T, exact["y"].reshape(5, -1), atol=1e-6)


@pytest.mark.parametrize("book", [uniform(2), uniform(8), pot(4), apot(4)])
def test_inputs_that_do_not_correlate_are_rounded_to_nearest(book):
    target = np.random.default_rng(1).normal(size=(2, 9, 5)) * book.largest / 3
    grid = Grid(book, np.ones((2, 1, 5)), np.zeros((2, 1, 5)))
    codes, _ = round_to_grid(target, grid, Hessian(np.stack([np.diag(np.arange(1.0, 10))] * 2)))
    levels = np.array(book.levels)
    np.testing.assert_array_equal(
        codes, levels[np.abs(target[..., np.newaxis] - levels).argmin(axis=-1)]
    )


def test_correlated_inputs_err_much_less_than_by_rounding_each_weight_to_nearest():
    random = np.random.default_rng(2)
    root = random.normal(size=(300, 4)) @ random.normal(size=(4, 16)) + 0.3 * random.normal(
        size=(300, 16)
    )
    hessian, target = root.T @ root / 300, random.normal(size=(16, 40))
    grid = Grid(uniform(3), np.ones((1, 1, 40)), np.zeros((1, 1, 40)))
    codes = round_to_grid(target[np.newaxis], grid, Hessian(hessian[np.newaxis]))[0][0]
    chosen, plain = (
        np.sum((root @ (found - target)) ** 2) for found in (codes, np.rint(target).clip(-3, 3))
    )
    assert chosen < 0.5 * plain


@pytest.mark.parametrize("fit", ["output", "tensor"])
def test_weights_that_a_scale_gives_exactly_find_that_scale(fit):
    random = np.random.default_rng(4)
    codes = random.integers(-7, 8, size=(1, 12, 3))
    codes[0, 0] = 7  # so that the largest weight asks for it
    scale = np.full((1, 1, 3), 0.3) if fit == "tensor" else np.array([[[0.1, 0.2, 3.0]]])
    root = random.normal(size=(40, 12))
    grid = Grid(uniform(4), np.ones((1, 1, 3)), np.zeros((1, 1, 3)))
    found, scales = round_to_grid(
        codes * scale, grid, Hessian((root.T @ root / 40)[np.newaxis]), fit
    )
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_allclose(np.broadcast_to(scales, scale.shape), scale, rtol=1e-6)


def test_biases_corrected_by_samples_give_each_output_the_mean_of_float_on_them(
    statistics, samples, tmp_path
):
    """Analytic correction takes float's inputs; what the layers before add comes through. By samples it does not."""

    def means(model):
        return np.mean([one["logits"] for one in run(model, CALIBRATION)], axis=0)

    def quantized():
        return symmetric(conv_net(), statistics, bits=3)

    analytic = correct_bias(quantized(), conv_net(), statistics)
    empirical = correct_bias(
        quantized(), conv_net(), statistics, samples, tmp_path, quiet, samples=len(CALIBRATION)
    )
    away = {
        name: np.abs(means(m) - means(conv_net())).max()
        for name, m in (("a", analytic), ("e", empirical))
    }
    assert away["e"] < 1e-4 < away["a"]
    for name, weight in weights(empirical).items():
        np.testing.assert_array_equal(
            weight.quantized.codes, weights(quantized())[name].quantized.codes
        )
