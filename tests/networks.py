"""Networks as strangers bring them: known architectures, narrow and small, with seeded random weights.

Weights have He's variance, so that activations keep their size from layer to layer and quantization noise means
something. Each function gives a valid ONNX network; NETWORKS has them all by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A network while it is built; tensors are known by their names."""

    def __init__(self, seed: int = 0, opset: int = 17) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, np.ndarray] = {}

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        name = f"c{len(self.initializers)}"
        array = np.asarray(array)
        self.initializers[name] = array.astype(
            dtype or (np.float32 if array.dtype == np.float64 else array.dtype)
        )
        return name

    def weight(self, *shape: int, fan_in: int) -> str:
        return self.constant(self.random.normal(0, np.sqrt(2 / fan_in), shape), np.float32)

    def small(self, *shape: int, around: float = 0.0) -> str:
        return self.constant(around + self.random.normal(0, 0.1, shape), np.float32)

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        return self.several(operator, *inputs, count=1, name=name, **attributes)[0]

    def several(
        self,
        operator: str,
        *inputs: str,
        count: int,
        name: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        outputs = [f"t{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(count)]
        label = f"{operator.lower()}_{len(self.nodes)}" if name is None else name
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, label, domain=domain, **attributes)
        )
        return outputs

    def model(self, *outputs: str, ir_version: int | None = None) -> onnx.ModelProto:
        """The finished network; the outputs get the type and shape that inference finds."""
        tensors = [
            numpy_helper.from_array(array, name) for name, array in self.initializers.items()
        ]
        bare = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, bare, tensors)
        opset = helper.make_opsetid("", self.opset)
        version = ir_version or helper.find_min_ir_version_for([opset])
        inferred = onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=[opset], ir_version=version),
            strict_mode=True,
            data_prop=True,
        )
        onnx.checker.check_model(inferred)
        del inferred.graph.value_info[:]
        return inferred

    # ---- layers

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, group: int = 1,
        bias: bool = True, axes: int = 2, **attributes: Any,
    ) -> str:  # fmt: skip
        fan_in = inputs // group * kernel**axes
        weight = self.weight(outputs, inputs // group, *[kernel] * axes, fan_in=fan_in)
        more = [self.small(outputs)] if bias else []
        given = {
            "strides": [stride] * axes,
            "pads": [kernel // 2] * 2 * axes,
            "group": group,
        } | attributes
        if "auto_pad" in given:
            del given["pads"]
        return self.add("Conv", x, weight, *more, kernel_shape=[kernel] * axes, **given)

    def norm(self, x: str, channels: int) -> str:
        statistics = [self.small(channels, around=mean) for mean in (1.0, 0.0, 0.0)]
        variance = self.constant(self.random.uniform(0.5, 1.5, channels), np.float32)
        return self.add("BatchNormalization", x, *statistics, variance)

    def relu6(self, x: str) -> str:
        return self.add("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.add(
            "Gemm", x, self.weight(outputs, inputs, fan_in=inputs), self.small(outputs), transB=1
        )

    def head(self, x: str, channels: int, classes: int) -> str:
        return self.dense(self.add("Flatten", self.add("GlobalAveragePool", x)), channels, classes)

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.constant(shape, np.int64))


# ---- images


def mobilenet_v1() -> onnx.ModelProto:
    net = Net(1)
    x = net.relu6(
        net.norm(net.conv(net.input("image", [1, 3, 32, 32]), 3, 8, 3, stride=2, bias=False), 8)
    )
    width = 8
    for outputs, stride in ((16, 1), (32, 2), (32, 1), (64, 2)):
        x = net.relu6(
            net.norm(net.conv(x, width, width, 3, stride=stride, group=width, bias=False), width)
        )
        x = net.relu6(net.norm(net.conv(x, width, outputs, bias=False), outputs))
        width = outputs
    return net.model(net.add("Softmax", net.head(x, width, 1001)))


def mobilenet_v2() -> onnx.ModelProto:
    net = Net(2)
    x, width = net.relu6(net.conv(net.input("image", [1, 3, 32, 32]), 3, 8, 3, stride=2)), 8
    for outputs, stride in ((8, 1), (16, 2), (16, 1), (24, 2), (24, 1)):
        inner = net.relu6(net.conv(x, width, 4 * width))
        inner = net.relu6(net.conv(inner, 4 * width, 4 * width, 3, stride=stride, group=4 * width))
        inner = net.conv(inner, 4 * width, outputs)
        x = net.add("Add", x, inner) if outputs == width else inner
        width = outputs
    return net.model(net.head(net.relu6(net.conv(x, width, 64)), 64, 10))


def _hard_swish(net: Net, x: str, form: str) -> str:
    if form == "operator":
        return net.add("HardSwish", x)
    clipped = net.relu6(net.add("Add", x, net.constant(np.float32(3))))
    if form == "divided":
        return net.add("Div", net.add("Mul", x, clipped), net.constant(np.float32(6)))
    return net.add("Mul", net.add("Mul", clipped, net.constant(np.float32(1 / 6))), x)


def mobilenet_v3(form: str = "operator") -> onnx.ModelProto:
    net = Net(3)
    x = _hard_swish(net, net.conv(net.input("image", [1, 3, 32, 32]), 3, 8, 3, stride=2), form)
    width = 8
    for outputs, stride in ((8, 1), (16, 2), (16, 1)):
        wide = 3 * width
        inner = _hard_swish(net, net.conv(x, width, wide), form)
        inner = _hard_swish(net, net.conv(inner, wide, wide, 5, stride=stride, group=wide), form)
        gate = net.add("Relu", net.conv(net.add("GlobalAveragePool", inner), wide, 8))
        gate = net.add("HardSigmoid", net.conv(gate, 8, wide), alpha=1 / 6, beta=0.5)
        inner = net.conv(net.add("Mul", inner, gate), wide, outputs)
        x = net.add("Add", x, inner) if outputs == width else inner
        width = outputs
    return net.model(net.head(_hard_swish(net, net.conv(x, width, 48), form), 48, 10))


def resnet() -> onnx.ModelProto:
    """Batch norm behind sums, where nothing can take it in, as in networks that normalize first."""
    net = Net(4)
    x = net.add(
        "Relu",
        net.norm(net.conv(net.input("image", [1, 3, 32, 32]), 3, 16, 7, stride=2, bias=False), 16),
    )
    x, width = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 16
    for outputs, stride in ((16, 1), (32, 2), (32, 1)):
        inner = net.add(
            "Relu", net.norm(net.conv(x, width, outputs, 3, stride=stride, bias=False), outputs)
        )
        inner = net.norm(net.conv(inner, outputs, outputs, 3, bias=False), outputs)
        short = (
            x
            if outputs == width
            else net.norm(net.conv(x, width, outputs, stride=stride, bias=False), outputs)
        )
        x = net.add("Relu", net.norm(net.add("Add", inner, short), outputs))
        width = outputs
    return net.model(net.head(x, width, 10))


def _silu(net: Net, x: str) -> str:
    return net.add("Mul", x, net.add("Sigmoid", x))


def yolo() -> onnx.ModelProto:
    net = Net(5)
    x = _silu(net, net.conv(net.input("images", [1, 3, 32, 32]), 3, 16, 3, stride=2))
    left, right = net.several("Split", x, count=2, axis=1)
    right = _silu(net, net.conv(right, 8, 8, 3))
    fine = _silu(net, net.conv(net.add("Concat", left, right, axis=1), 16, 16, 3))
    pooled = fine
    pools = [fine]
    for _ in range(2):
        pooled = net.add("MaxPool", pooled, kernel_shape=[5, 5], strides=[1, 1], pads=[2, 2, 2, 2])
        pools.append(pooled)
    deep = _silu(net, net.conv(net.add("Concat", *pools, axis=1), 48, 16, 3, stride=2))
    scales = net.constant(np.float32([1, 1, 2, 2]))
    up = net.add(
        "Resize",
        deep,
        "",
        scales,
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    fine = _silu(net, net.conv(net.add("Concat", up, fine, axis=1), 32, 16, 3))
    heads = [
        net.reshape(
            net.add("Transpose", net.conv(feature, 16, 14), perm=[0, 2, 3, 1]),
            1,
            size * size * 2,
            7,
        )
        for feature, size in ((fine, 16), (deep, 8))
    ]
    both = net.add("Concat", *heads, axis=1)
    boxes, scores = net.several("Split", both, net.constant([4, 3], np.int64), count=2, axis=2)
    return net.model(net.add("Concat", boxes, net.add("Sigmoid", scores), axis=2))


def segmentation() -> onnx.ModelProto:
    """Transposed convolution, grouped convolution, PRelu, LeakyRelu, padding, space to depth and back."""
    net = Net(6)
    x = net.add("SpaceToDepth", net.input("image", [1, 3, 32, 32]), blocksize=2)
    x = net.add("PRelu", net.conv(x, 12, 16, 3), net.small(16, 1, 1, around=0.2))
    padded = net.add("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    y = net.add("LeakyRelu", net.conv(padded, 16, 16, 3, group=4, pads=[0, 0, 0, 0]), alpha=0.1)
    y = net.add("LeakyRelu", net.conv(y, 16, 32, 3, stride=2), alpha=0.1)
    y = net.add(
        "ConvTranspose", y, net.weight(32, 16, 2, 2, fan_in=32), net.small(16), strides=[2, 2]
    )
    y = net.add("Relu", net.conv(net.add("Concat", x, y, axis=1), 32, 16, 3, auto_pad="SAME_UPPER"))
    return net.model(net.add("DepthToSpace", net.conv(y, 16, 16), blocksize=2))


def channels_last() -> onnx.ModelProto:
    net = Net(7)
    x = net.add("Transpose", net.input("image", [1, 24, 24, 3]), perm=[0, 3, 1, 2])
    x = net.add("Relu", net.conv(x, 3, 8, 3, stride=2, auto_pad="SAME_UPPER"))
    x = net.add("Relu", net.conv(x, 8, 16, 3))
    return net.model(net.add("Transpose", net.conv(x, 16, 4), perm=[0, 2, 3, 1]))


def pixels() -> onnx.ModelProto:
    """Takes uint8, and normalizes by itself."""
    net = Net(8)
    x = net.add("Cast", net.input("image", [1, 3, 24, 24], TensorProto.UINT8), to=TensorProto.FLOAT)
    mean, std = (
        net.constant(np.float32(values).reshape(1, 3, 1, 1))
        for values in ((124, 116, 104), (58, 57, 57))
    )
    x = net.add("Div", net.add("Sub", x, mean), std)
    x = net.add("Relu", net.conv(x, 3, 8, 3, stride=2))
    return net.model(net.head(net.add("Relu", net.conv(x, 8, 16, 3)), 16, 10))


def open_dimensions() -> onnx.ModelProto:
    """Batch, height and width are left open, and shapes computed on the way."""
    net = Net(9)
    x = net.add("Relu", net.conv(net.input("image", ["N", 3, "H", "W"]), 3, 8, 3, stride=2))
    x = net.add("GlobalAveragePool", net.add("Relu", net.conv(x, 8, 16, 3)))
    batch = net.add("Gather", net.add("Shape", x), net.constant(0, np.int64))
    batch = net.add("Unsqueeze", batch, net.constant([0], np.int64))
    flat = net.add("Reshape", x, net.add("Concat", batch, net.constant([-1], np.int64), axis=0))
    return net.model(net.dense(flat, 16, 10))


def volumes() -> onnx.ModelProto:
    net = Net(10)
    x = net.add("Relu", net.conv(net.input("volume", [1, 1, 8, 12, 12]), 1, 8, 3, axes=3))
    x = net.add("MaxPool", x, kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    x = net.add("Relu", net.conv(x, 8, 16, 3, axes=3))
    x = net.add("AveragePool", x, kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    return net.model(net.head(net.add("Relu", net.conv(x, 16, 16, axes=3)), 16, 6))


# ---- sound and language


def keywords() -> onnx.ModelProto:
    """DS-CNN on 49 frames of 10 cepstral coefficients."""
    net = Net(11)
    x = net.norm(
        net.conv(net.input("features", [1, 1, 49, 10]), 1, 16, 3, stride=2, bias=False), 16
    )
    x = net.add("Relu", x)
    for _ in range(3):
        x = net.add("Relu", net.norm(net.conv(x, 16, 16, 3, group=16, bias=False), 16))
        x = net.add("Relu", net.norm(net.conv(x, 16, 16, bias=False), 16))
    pooled = net.add("AveragePool", x, kernel_shape=[25, 5])
    return net.model(net.add("Softmax", net.dense(net.add("Flatten", pooled), 16, 12)))


def waveform() -> onnx.ModelProto:
    net = Net(12)
    x, width = net.input("sound", [1, 1, 256]), 1
    for outputs, dilation in ((8, 1), (16, 1), (16, 2)):
        pads = [dilation * 2] * 2
        x = net.add("Relu", net.conv(x, width, outputs, 5, axes=1, dilations=[dilation], pads=pads))
        width = outputs
    x = net.add("MaxPool", x, kernel_shape=[4], strides=[4])
    return net.model(net.add("Transpose", net.conv(x, width, 5, axes=1), perm=[2, 0, 1]))


def _gelu(net: Net, x: str, form: str) -> str:
    if form == "operator":
        return net.add("Gelu", x)
    half, one, root = (net.constant(np.float32(value)) for value in (0.5, 1, np.sqrt(2)))
    return net.add(
        "Mul", net.add("Mul", x, net.add("Add", net.add("Erf", net.add("Div", x, root)), one)), half
    )


def _projected(net: Net, x: str, inputs: int, outputs: int) -> str:
    return net.add(
        "Add",
        net.add("MatMul", x, net.weight(inputs, outputs, fan_in=2 * inputs)),
        net.small(outputs),
    )


def _attention(net: Net, x: str, width: int, length: int, mask: str | None = None) -> str:
    heads, size = 4, width // 4

    def split(perm: list[int]) -> str:
        projected = net.reshape(_projected(net, x, width, width), 1, length, heads, size)
        return net.add("Transpose", projected, perm=perm)

    query, key, value = split([0, 2, 1, 3]), split([0, 2, 3, 1]), split([0, 2, 1, 3])
    scores = net.add("Div", net.add("MatMul", query, key), net.constant(np.float32(np.sqrt(size))))
    scores = scores if mask is None else net.add("Add", scores, mask)
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), value)
    merged = net.reshape(net.add("Transpose", mixed, perm=[0, 2, 1, 3]), 1, length, width)
    return _projected(net, merged, width, width)


def _layer_norm(net: Net, x: str, width: int) -> str:
    return net.add("LayerNormalization", x, net.small(width, around=1), net.small(width), axis=-1)


def transformer(form: str = "operator") -> onnx.ModelProto:
    """A vision transformer: patches, two blocks that normalize first, mean over the patches."""
    net = Net(13, opset=20 if form == "operator" else 17)
    width, length = 32, 16
    x = net.conv(net.input("image", [1, 3, 16, 16]), 3, width, 4, stride=4, pads=[0, 0, 0, 0])
    x = net.add("Transpose", net.reshape(x, 1, width, length), perm=[0, 2, 1])
    x = net.add("Add", x, net.small(1, length, width))
    for _ in range(2):
        x = net.add("Add", x, _attention(net, _layer_norm(net, x, width), width, length))
        inner = _gelu(net, _projected(net, _layer_norm(net, x, width), width, 2 * width), form)
        x = net.add("Add", x, _projected(net, inner, 2 * width, width))
    return net.model(net.dense(_mean(net, _layer_norm(net, x, width), 1), width, 10))


def _mean(net: Net, x: str, axis: int) -> str:
    if net.opset < 18:
        return net.add("ReduceMean", x, axes=[axis], keepdims=0)
    return net.add("ReduceMean", x, net.constant([axis], np.int64), keepdims=0)


def text() -> onnx.ModelProto:
    """Token ids and a mask go in, a class and the tokens' features come out; normalizes last, as BERT does."""
    net = Net(14)
    width, length = 32, 12
    ids = net.input("ids", [1, "length"], TensorProto.INT64)
    mask = net.add(
        "Cast", net.input("mask", [1, "length"], TensorProto.INT64), to=TensorProto.FLOAT
    )
    mask = net.add(
        "Unsqueeze",
        net.add("Sub", net.constant(np.float32(1)), mask),
        net.constant([1, 2], np.int64),
    )
    mask = net.add("Mul", mask, net.constant(np.float32(-10000)))
    x = net.add("Gather", net.small(100, width), ids)
    x = _layer_norm(net, net.add("Add", x, net.small(1, length, width)), width)
    x = _layer_norm(net, net.add("Add", x, _attention(net, x, width, length, mask)), width)
    inner = _projected(
        net, _gelu(net, _projected(net, x, width, 2 * width), "erf"), 2 * width, width
    )
    x = _layer_norm(net, net.add("Add", x, inner), width)
    first = net.add("Gather", x, net.constant(0, np.int64), axis=1)
    return net.model(net.dense(net.add("Tanh", net.dense(first, width, width)), width, 3), x)


def recurrent() -> onnx.ModelProto:
    """LSTM and GRU, optional inputs left empty, between layers that can be integers."""
    net = Net(15)
    x = net.add("Relu", net.conv(net.input("sound", [1, 4, 64]), 4, 8, 5, axes=1, stride=2))
    x = net.add("Transpose", x, perm=[2, 0, 1])
    weights = [net.weight(1, 32, 8, fan_in=16), net.weight(1, 32, 8, fan_in=16)]
    x = net.several("LSTM", x, *weights, "", "", "", "", hidden_size=8, count=3)[0]
    x = net.add("Squeeze", x, net.constant([1], np.int64))
    weights = [net.weight(1, 24, 8, fan_in=16), net.weight(1, 24, 8, fan_in=16), net.small(1, 48)]
    x = net.several("GRU", x, *weights, hidden_size=8, count=2)[1]
    return net.model(net.dense(net.add("Flatten", x), 8, 4))


def log_mel(window: int = 64, bands: int = 16) -> onnx.ModelProto:
    """Convolutions behind the logarithm of a mel spectrum, which 8 bits ruin: most of it is below one step."""
    net = Net(21)
    sound = net.input("sound", [1, 1, 1024])
    frequencies = np.arange(window // 2)[:, np.newaxis]
    phases = 2 * np.pi * frequencies * np.arange(window) / window
    parts = []
    for wave in (np.cos(phases), np.sin(phases)):
        filters = net.constant((wave * np.hanning(window))[:, np.newaxis], np.float32)
        part = net.add("Conv", sound, filters, strides=[window // 2])
        parts.append(net.add("Mul", part, part))
    shape = (bands, window // 2, 1)
    mel = np.abs(net.random.normal(size=shape)) * (net.random.random(shape) < 0.15)
    power = net.add("Conv", net.add("Add", *parts), net.constant(mel, np.float32))
    x = net.add("Log", net.add("Add", power, net.constant(np.float32(1e-6))))
    x = net.add("Relu", net.conv(x, bands, 24, 3, axes=1))
    x = net.add("Relu", net.conv(x, 24, 24, 3, axes=1, stride=2))
    x = net.add("Relu", net.conv(x, 24, 24, 3, axes=1, stride=2))
    return net.model(net.head(x, 24, 10))


def sounds(count: int, seed: int) -> list[np.ndarray]:
    """Inputs of log_mel: pink noise, some of it a hundred times as loud as other."""
    random = np.random.default_rng(seed)
    arrays = []
    for _ in range(count):
        spectrum = np.fft.rfft(random.normal(size=1024))
        pink = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1))
        arrays.append((pink * 10 ** random.uniform(-1.5, 0.5)).astype(np.float32)[None, None])
    return arrays


# ---- what exporters do


def products() -> onnx.ModelProto:
    """Gemm and MatMul in all their ways: transposed, scaled, without bias, weight on the left, one weight for two."""
    net = Net(16)
    x = net.add("Flatten", net.input("x", [1, 24]))
    x = net.add("Relu", net.add("Gemm", x, net.weight(24, 32, fan_in=24), net.small(32)))
    x = net.add("Relu", net.add("Gemm", x, net.weight(32, 32, fan_in=32), transB=1))
    x = net.add(
        "Relu",
        net.add("Gemm", x, net.weight(32, 32, fan_in=32), net.small(1, 32), alpha=0.5, beta=2.0),
    )
    shared = net.weight(32, 32, fan_in=32)
    x = net.add("Relu", net.add("MatMul", x, shared))
    x = net.add("Relu", net.add("Gemm", x, shared, net.small(1), transB=1))
    x = net.add("Relu", net.add("MatMul", x, shared))
    left = net.add("MatMul", net.weight(8, 32, fan_in=32), net.add("Transpose", x, perm=[1, 0]))
    x = net.add("Add", net.add("Transpose", left, perm=[1, 0]), net.small(8))
    return net.model(net.add("Gemm", net.weight(4, 8, fan_in=8), x, net.small(4, 1), transB=1))


def twins() -> onnx.ModelProto:
    """One convolution's weight used twice, and given out; two nodes of one name, one without; two outputs of one."""
    net = Net(17)
    shared = net.weight(8, 8, 3, 3, fan_in=72)
    x = net.add("Relu", net.conv(net.input("left", [1, 3, 16, 16]), 3, 8, 3, name="same"))
    y = net.add("Relu", net.conv(net.input("right", [1, 3, 16, 16]), 3, 8, 3, name="same"))
    x, y = (net.add("Conv", tensor, shared, pads=[1, 1, 1, 1], name="") for tensor in (x, y))
    net.nodes.append(
        helper.make_node("Mul", [shared, net.constant(np.float32(1))], ["weight_given"], "given")
    )
    both = net.add("Relu", net.add("Add", x, y))
    return net.model(net.head(both, 8, 5), both, "weight_given")


def branches() -> onnx.ModelProto:
    """If and Loop, whose bodies read tensors from around them."""
    net = Net(18)
    x = net.conv(net.input("image", [1, 3, 16, 16]), 3, 8, 3)
    value = helper.make_tensor_value_info
    rectified, halved = (
        helper.make_node("Relu", [x], ["then_y"]),
        helper.make_node("Mul", [x, "half"], ["else_y"]),
    )
    net.initializers["half"] = np.float32(0.5)
    taken = net.add("ReduceMax", x, keepdims=0)
    shape = [1, 8, 16, 16]
    y = net.add(
        "If",
        net.add("Greater", taken, net.constant(np.float32(0))),
        then_branch=helper.make_graph(
            [rectified], "then", [], [value("then_y", TensorProto.FLOAT, shape)]
        ),
        else_branch=helper.make_graph(
            [halved], "else", [], [value("else_y", TensorProto.FLOAT, shape)]
        ),
    )
    weight = net.weight(8, 8, 1, 1, fan_in=8)
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["h", weight], ["g"]),
            helper.make_node("Relu", ["g"], ["next"]),
            helper.make_node("Identity", ["more"], ["again"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("more", TensorProto.BOOL, []),
            value("h", TensorProto.FLOAT, shape),
        ],
        [value("again", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, shape)],
    )
    z = net.add(
        "Loop", net.constant(2, np.int64), "", net.add("Relu", net.conv(y, 8, 8, 3)), body=body
    )
    return net.model(net.head(net.add("Relu", net.conv(z, 8, 8)), 8, 5))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{
        function.__name__: function
        for function in (
            mobilenet_v1, mobilenet_v2, mobilenet_v3, resnet, yolo, segmentation, channels_last, pixels,
            open_dimensions, volumes, keywords, waveform, transformer, text, recurrent, products, twins, branches,
        )
    },
    "mobilenet_v3_divided": lambda: mobilenet_v3("divided"),
    "mobilenet_v3_multiplied": lambda: mobilenet_v3("multiplied"),
    "transformer_erf": lambda: transformer("erf"),
}  # fmt: skip
SHAPES = {"open_dimensions": {"image": [1, 3, 24, 24]}, "text": {"ids": [1, 12], "mask": [1, 12]}}


def feeds(name: str, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random inputs of a network, as it is fed: normal floats, pixels, token ids, masks that end early."""
    random = np.random.default_rng(seed)
    inputs = NETWORKS[name]().graph.input
    return [{value.name: _feed(name, value, random) for value in inputs} for _ in range(count)]


def _feed(name: str, value: onnx.ValueInfoProto, random: np.random.Generator) -> np.ndarray:
    tensor = value.type.tensor_type
    shape = SHAPES.get(name, {}).get(value.name) or [
        dimension.dim_value for dimension in tensor.shape.dim
    ]
    if value.name == "mask":
        return (np.arange(shape[1]) < random.integers(4, shape[1] + 1)).astype(np.int64)[np.newaxis]
    if tensor.elem_type == TensorProto.INT64:
        return random.integers(0, 100, shape)
    if tensor.elem_type == TensorProto.UINT8:
        return random.integers(0, 256, shape).astype(np.uint8)
    return random.normal(0, 1, shape).astype(np.float32)
