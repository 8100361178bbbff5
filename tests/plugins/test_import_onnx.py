"""The import stage: what comes out is the same function, made plain; what cannot be meant is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from qpipe.errors import StageError
from qpipe.quant.network_inputs import states_of
from qpipe_plugins.models.onnx_file import onnx_file

RANDOM = np.random.default_rng(5)
NET = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[{batch}, 3, {height}, 8] image) => (float[{batch}, 4] logits) {{
  {body}
}}
"""
HEAD = "pooled = GlobalAveragePool (x) logits = Flatten <axis = 1> (pooled)"


def write(
    folder: Path,
    body: str,
    arrays: dict[str, np.ndarray],
    *,
    opset: int = 17,
    batch: str = "1",
    height: str = "8",
) -> Path:
    model = onnx.parser.parse_model(NET.format(opset=opset, batch=batch, height=height, body=body))
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def weight(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


def batch_norm(channels: int = 4) -> dict[str, np.ndarray]:
    values = {name: weight(channels) for name in ("gamma", "beta", "mean")}
    return {**values, "variance": np.abs(weight(channels)) + np.float32(0.1)}


def outputs(model: bytes, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


def assert_same_function(path: Path, model: ir.Model) -> None:
    image = weight(1, 3, 8, 8)
    before, after = (
        outputs(path.read_bytes(), image),
        outputs(ir.to_proto(model).SerializeToString(), image),
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        ("y = Conv <kernel_shape = [3, 3]> (image, w, b)", {"w": (4, 3, 3, 3), "b": (4,)}),
        ("y = Conv <kernel_shape = [3, 3]> (image, w)", {"w": (4, 3, 3, 3)}),
        ("y = ConvTranspose <kernel_shape = [2, 2]> (image, w, b)", {"w": (3, 4, 2, 2), "b": (4,)}),
    ],
)
def test_batch_norm_folds_into_the_layer_before_it(
    tmp_path: Path, layer: str, shapes: dict[str, tuple[int]]
) -> None:
    body = f"{layer} x = BatchNormalization (y, gamma, beta, mean, variance) {HEAD}"
    path = write(
        tmp_path, body, {**{name: weight(*shape) for name, shape in shapes.items()}, **batch_norm()}
    )
    model = onnx_file(path=path)
    assert "BatchNormalization" not in kinds(model)
    assert_same_function(path, model)


def test_batch_norm_folds_into_gemm(tmp_path: Path) -> None:
    body = """pooled = GlobalAveragePool (image) flat = Flatten (pooled)
      y = Gemm <transB = 1> (flat, w, b) logits = BatchNormalization (y, gamma, beta, mean, variance)"""
    path = write(tmp_path, body, {"w": weight(4, 3), "b": weight(4), **batch_norm()})
    model = onnx_file(path=path)
    assert kinds(model) == ["GlobalAveragePool", "Flatten", "Gemm"]
    assert model.graph.outputs[0].name == "logits"
    assert_same_function(path, model)


def test_batch_norm_behind_a_tensor_that_others_use_stays(tmp_path: Path) -> None:
    body = f"""y = Conv <kernel_shape = [1, 1]> (image, w) z = BatchNormalization (y, gamma, beta, mean, variance)
      x = Add (y, z) {HEAD}"""
    path = write(tmp_path, body, {"w": weight(4, 3, 1, 1), **batch_norm()})
    model = onnx_file(path=path)
    assert "BatchNormalization" in kinds(model)
    assert_same_function(path, model)


def test_a_weight_that_two_layers_share_is_folded_for_each_alone(tmp_path: Path) -> None:
    body = f"""y = Conv <kernel_shape = [1, 1]> (image, w) y2 = Conv <kernel_shape = [1, 1]> (image, w)
      z = BatchNormalization (y, gamma, beta, mean, variance) x = Add (y2, z) {HEAD}"""
    path = write(tmp_path, body, {"w": weight(4, 3, 1, 1), **batch_norm()})
    model = onnx_file(path=path)
    assert "BatchNormalization" not in kinds(model)
    assert_same_function(path, model)


def test_identity_dropout_and_constants_go(tmp_path: Path) -> None:
    body = f"""half = Constant <value = float {{0.5}}> () doubled = Add (half, half) w2 = Mul (w, doubled)
      same = Identity (image) kept = Dropout (same) x = Conv <kernel_shape = [1, 1]> (kept, w2) {HEAD}"""
    path = write(tmp_path, body, {"w": weight(4, 3, 1, 1)})
    model = onnx_file(path=path)
    assert kinds(model) == ["Conv", "GlobalAveragePool", "Flatten"]
    assert_same_function(path, model)


def test_a_shape_that_is_computed_is_folded(tmp_path: Path) -> None:
    body = """x = Conv <kernel_shape = [1, 1]> (image, w) pooled = GlobalAveragePool (x)
      shape = Shape (pooled) zero = Constant <value = int64[1] {0}> () one = Constant <value = int64[1] {-1}> ()
      first = Gather <axis = 0> (shape, zero) wanted = Concat <axis = 0> (first, one)
      logits = Reshape (pooled, wanted)"""
    path = write(tmp_path, body, {"w": weight(4, 3, 1, 1)}, batch="N")
    model = onnx_file(path=path)
    assert kinds(model) == ["Conv", "GlobalAveragePool", "Reshape"]
    assert_same_function(path, model)


def test_every_value_has_a_shape_and_every_node_a_name_of_its_own(tmp_path: Path) -> None:
    body = f"y = Conv <kernel_shape = [3, 3]> (image, w) x = Relu (y) {HEAD}"
    model = onnx_file(path=write(tmp_path, body, {"w": weight(4, 3, 3, 3)}, batch="N"))
    assert [list(value.shape or ()) for node in model.graph for value in node.outputs] == [
        [1, 4, 6, 6], [1, 4, 6, 6], [1, 4, 1, 1], [1, 4],
    ]  # fmt: skip
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == len(names)


def test_an_old_opset_is_lifted(tmp_path: Path) -> None:
    body = f"y = Conv <kernel_shape = [1, 1]> (image, w) x = Clip <min = 0.0, max = 6.0> (y) {HEAD}"
    path = write(tmp_path, body, {"w": weight(4, 3, 1, 1)}, opset=9)
    model = onnx_file(path=path)
    assert model.opset_imports[""] == 17
    assert_same_function(path, model)


def test_an_open_dimension_is_pinned_by_shapes(tmp_path: Path) -> None:
    body = f"x = Conv <kernel_shape = [1, 1]> (image, w) {HEAD}"
    path = write(tmp_path, body, {"w": weight(4, 3, 1, 1)}, batch="N", height="H")
    model = onnx_file(path=path, shapes={"image": [1, 3, 8, 8]})
    assert list(model.graph.inputs[0].shape or ()) == [1, 3, 8, 8]
    with pytest.raises(
        StageError,
        match=re.escape(
            f"{path}: dimension 2 ('H') of input 'image' is open; pin it with shapes: {{image: [1, 3, ?, 8]}}"
        ),
    ):
        onnx_file(path=path)
    with pytest.raises(
        StageError, match=r"shapes names input 'imag', which is not there; did you mean 'image'\?"
    ):
        onnx_file(path=path, shapes={"imag": [1, 3, 8, 8]})
    with pytest.raises(
        StageError, match=r"shapes gives input 'image' \[3, 8\]; give 4 numbers from 1 up"
    ):
        onnx_file(path=path, shapes={"image": [3, 8]})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    array = weight(4, 3, 1, 1)
    array[2, 1] = value
    path = write(tmp_path, f"x = Conv <kernel_shape = [1, 1]> (image, w) {HEAD}", {"w": array})
    with pytest.raises(StageError, match=r"weight 'w' holds NaN or infinity"):
        onnx_file(path=path)


def test_a_missing_a_cut_and_a_foreign_file_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write(
        tmp_path, f"x = Conv <kernel_shape = [1, 1]> (image, w) {HEAD}", {"w": weight(4, 3, 1, 1)}
    )
    whole = path.read_bytes()
    with pytest.raises(
        StageError, match=r"absent.onnx: no such file; give the path of an ONNX file"
    ):
        onnx_file(path=tmp_path / "absent.onnx")
    for content in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        b"PK\x03\x04 no network",
        b"\xff" * 64,
    ):
        path.write_bytes(content)
        with pytest.raises(StageError) as raised:
            onnx_file(path=path)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)


def test_an_invalid_network_says_why(tmp_path: Path) -> None:
    path = write(tmp_path, f"x = Conv <kernel_shape = [1, 1]> (image, nowhere) {HEAD}", {})
    with pytest.raises(StageError, match=r"not a valid network: .*nowhere"):
        onnx_file(path=path)


def external(folder: Path, location: str) -> Path:
    path = write(
        folder, f"x = Conv <kernel_shape = [1, 1]> (image, w) {HEAD}", {"w": weight(4, 3, 1, 1)}
    )
    model = onnx.load(path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    array = weight(4, 3, 1, 1)
    (tmp_path / "weights.bin").write_bytes(array.tobytes())
    model = onnx_file(path=path)
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/hostname", "inner/../../secret.bin", "link.bin", "/dev/zero", "a\0b"],
)
def test_external_weights_elsewhere_are_never_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(weight(4, 3, 1, 1).tobytes())
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(StageError, match=r"it must be in the model's folder"):
        onnx_file(path=external(folder, location))


def test_external_weights_that_are_missing_or_short_are_named(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    with pytest.raises(StageError, match=r"weight 'w' is in 'weights.bin', which is missing"):
        onnx_file(path=path)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(StageError) as raised:
        onnx_file(path=path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize("bias", [True, False])
def test_the_factors_of_gemm_go_into_its_constants(tmp_path: Path, bias: bool) -> None:
    layer = "Gemm <alpha = 0.5, beta = 3.0, transB = 1>"
    body = f"""pooled = GlobalAveragePool (image) flat = Flatten (pooled) y = {layer} (flat, w{", b" if bias else ""})
      z = Gemm (flat, w2) logits = Add (y, z)"""
    path = write(
        tmp_path, body, {"w": weight(4, 3), "w2": weight(3, 4)} | ({"b": weight(4)} if bias else {})
    )
    model = onnx_file(path=path)
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    assert not {"alpha", "beta"} & set(gemm.attributes)
    assert_same_function(path, model)


def test_a_gemm_with_factors_takes_in_the_batch_norm_behind_it_and_leaves_others_their_weight(
    tmp_path: Path,
) -> None:
    body = """pooled = GlobalAveragePool (image) flat = Flatten (pooled) x = Gemm <alpha = 0.5, beta = 2.0> (flat, w, b)
      y = BatchNormalization (x, gamma, beta, mean, variance) z = Gemm (flat, w, b) logits = Add (y, z)"""
    path = write(tmp_path, body, {"w": weight(3, 4), "b": weight(4), **batch_norm()})
    model = onnx_file(path=path)
    assert "BatchNormalization" not in kinds(model)
    assert_same_function(path, model)


def test_the_factor_of_a_bias_that_is_computed_stays(tmp_path: Path) -> None:
    body = """pooled = GlobalAveragePool (image) flat = Flatten (pooled) c = MatMul (flat, w2)
      logits = Gemm <alpha = 0.5, beta = 3.0> (flat, w, c)"""
    path = write(tmp_path, body, {"w": weight(3, 4), "w2": weight(3, 4)})
    model = onnx_file(path=path)
    (gemm,) = (node for node in model.graph if node.op_type == "Gemm")
    assert set(gemm.attributes) == {"beta"}
    assert_same_function(path, model)


def test_external_weights_in_attributes_subgraphs_and_functions_are_read_and_only_from_beside(
    tmp_path: Path,
) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
    net (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] logits) <bool yes = {1}> {
      a = Constant <value = float[1] {1.0}> () b = Add (image, a)
      c = If (yes) <then_branch = one () => (float[1] d) { d = Constant <value = float[1] {2.0}> () },
                    else_branch = two () => (float[1] e) { e = Constant <value = float[1] {3.0}> () }>
      f = Add (b, c)
      logits = own.plus (f)
    }
    <domain: "own", opset_import: ["" : 17]>
    plus (x) => (y) { k = Constant <value = float[1] {4.0}> () y = Add (x, k) }"""
    model = onnx.parser.parse_model(text)
    nodes = [
        *model.graph.node,
        *(node for branch in model.graph.node[2].attribute for node in branch.g.node),
    ]
    nodes += model.functions[0].node
    constants = [node.attribute[0].t for node in nodes if node.op_type == "Constant"]
    assert len(constants) == 4
    for place, tensor in enumerate(constants):
        del tensor.float_data[:]
        tensor.raw_data = b""
        onnx.external_data_helper.set_external_data(tensor, f"{place}.bin")
        tensor.ClearField("raw_data")
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    for place in range(4):
        with pytest.raises(
            StageError, match=rf"is in '{place}.bin', which is missing; put it there"
        ):
            onnx_file(path=path)
        (tmp_path / f"{place}.bin").write_bytes(np.float32([place + 1]).tobytes())
    image = weight(1, 3, 8, 8)
    expected = onnx.parser.parse_model(text).SerializeToString()
    made = outputs(ir.to_proto(onnx_file(path=path)).SerializeToString(), image)
    np.testing.assert_allclose(made, outputs(expected, image), rtol=1e-6)


def value(
    name: str, dtype: int = onnx.TensorProto.FLOAT, shape: tuple[int, ...] = (1, 4)
) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, dtype, shape)


def network(
    folder: Path, nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], inputs: list[onnx.ValueInfoProto],
    opset: int = 17, functions: list[onnx.FunctionProto] | None = None,
) -> Path:  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "net", inputs, [value("y")], tensors)
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("own", 1)]
    model = onnx.helper.make_model(
        graph, opset_imports=opsets, functions=functions or [], ir_version=9
    )
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def node(operator: str, *inputs: str, to: str = "c", **attributes: object) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, inputs, [to], **attributes)


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "Pad"])
def test_a_tensor_beyond_all_memory_is_refused_before_anybody_makes_it(
    tmp_path: Path, operator: str
) -> None:
    arrays = {
        "one": np.float32([1]),
        "size": np.array([1 << 40, 0][: 2 if operator == "Pad" else 1], np.int64),
    }
    given = ["size"] if operator == "ConstantOfShape" else ["one", "size"]
    nodes = [
        node(operator, *given),
        node("ReduceMax", "c", to="r", keepdims=0),
        node("Add", "x", "r", to="y"),
    ]
    with pytest.raises(
        StageError,
        match=rf"'c', output of {operator} '.+', has 10995116277\d\d elements; the limit is",
    ):
        onnx_file(path=network(tmp_path, nodes, arrays, [value("x")]))


def test_what_is_too_much_to_fold_stays_to_be_computed(tmp_path: Path) -> None:
    arrays = {
        "size": np.array([1, 64, 256, 256], np.int64),
        "kernel": np.array([64, 64, 7, 7], np.int64),
    }
    nodes = [
        node("ConstantOfShape", "size", to="a"), node("ConstantOfShape", "kernel", to="w"), node("Conv", "a", "w"),
        node("ReduceMax", "c", to="r", keepdims=0), node("Add", "x", "r", to="y"),
    ]  # fmt: skip
    assert kinds(onnx_file(path=network(tmp_path, nodes, arrays, [value("x")])))[-3:] == [
        "Conv",
        "ReduceMax",
        "Add",
    ]


def test_functions_that_double_thirty_times_over_are_counted_and_not_inlined(
    tmp_path: Path,
) -> None:
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    functions = [
        onnx.helper.make_function("own", "f0", ["a"], ["b"], [node("Relu", "a", to="b")], opsets)
    ]
    for level in range(1, 30):
        calls = [
            node(f"f{level - 1}", "a", to="c", domain="own"),
            node(f"f{level - 1}", "c", to="b", domain="own"),
        ]
        functions.append(onnx.helper.make_function("own", f"f{level}", ["a"], ["b"], calls, opsets))
    path = network(
        tmp_path, [node("f29", "x", to="y", domain="own")], {}, [value("x")], functions=functions
    )
    with pytest.raises(StageError, match="the network has 536870912 nodes; the limit is 200000"):
        onnx_file(path=path)


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (onnx.TensorProto.BFLOAT16, "input 'x' is bfloat16; it must be a tensor of float, float16"),
        (onnx.TensorProto.STRING, "input 'x' is string; it must be a tensor of float, float16"),
    ],
)
def test_an_input_that_samples_cannot_be_is_refused(
    tmp_path: Path, dtype: int, reason: str
) -> None:
    nodes = [onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)]
    with pytest.raises(StageError, match=reason):
        onnx_file(path=network(tmp_path, nodes, {}, [value("x", dtype)]))


def test_types_and_shapes_that_do_not_fit_together_name_the_node_and_the_reason(
    tmp_path: Path,
) -> None:
    """No operator of this opset convolves bfloat16, though others compute in it."""
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["c"], to=onnx.TensorProto.BFLOAT16),
        onnx.helper.make_node("Conv", ["c", "c"], ["d"], "conv1"),
        onnx.helper.make_node("Cast", ["d"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    path = network(tmp_path, nodes, {}, [value("x", shape=(1, 3, 4, 4))])
    line = "do not fit together at Conv 'conv1': X .* unsupported type: tensor\\(bfloat16\\); export it so"
    with pytest.raises(StageError, match=line):
        onnx_file(path=path)
    weight = {"w": np.ones(3, np.float32)}
    path = network(tmp_path, [node("Add", "x", "w", to="y")], weight, [value("x", shape=(1, 8))])
    with pytest.raises(StageError, match=r"at Add.*: Incompatible dimensions; export it so"):
        onnx_file(path=path)


def test_an_output_whose_name_has_control_characters_is_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    )
    model.graph.node[0].output[0] = "y\n"
    model.graph.output[0].name = "y\n"
    onnx.save(model, tmp_path / "net.onnx")
    line = r"the name of output 'y\\n' has control characters; export the network with another"
    with pytest.raises(StageError, match=line):
        onnx_file(path=tmp_path / "net.onnx")


def test_the_shape_behind_a_group_normalization_is_that_of_its_input(tmp_path: Path) -> None:
    ones = np.ones(4, np.float32)
    nodes = [
        onnx.helper.make_node("GroupNormalization", ["x", "s", "b"], ["n"], num_groups=2),
        node("Flatten", "n", to="y"),
    ]
    inputs = [value("x", shape=(1, 4, 1))]
    path = network(tmp_path, nodes, {"s": ones, "b": ones}, inputs, opset=21)
    model = onnx_file(path=path)
    assert [list(value.shape or ()) for node in model.graph for value in node.outputs] == [
        [1, 4, 1],
        [1, 4],
    ]


def test_an_input_without_a_shape_is_named(tmp_path: Path) -> None:
    shapeless = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
    path = network(tmp_path, [node("Relu", "x", to="y")], {}, [shapeless])
    with pytest.raises(StageError, match="input 'x' has no shape; export it with one"):
        onnx_file(path=path)


def test_a_sequence_and_no_input_at_all_are_refused(tmp_path: Path) -> None:
    sequence = onnx.helper.make_tensor_sequence_value_info("x", onnx.TensorProto.FLOAT, (1, 4))
    with pytest.raises(StageError, match="input 'x' is of type sequence; it must be a tensor of"):
        onnx_file(
            path=network(
                tmp_path, [node("ConcatFromSequence", "x", to="y", axis=0)], {}, [sequence]
            )
        )
    nodes = [node("ConstantOfShape", "size", to="y")]
    with pytest.raises(StageError, match="the network has no input; export one that has"):
        onnx_file(path=network(tmp_path, nodes, {"size": np.array([1, 4], np.int64)}, []))


def test_an_opset_of_the_future_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"opset 99 is newer than onnx [0-9.]+ supports; export it with \d+"
    ):
        onnx_file(path=network(tmp_path, [node("Relu", "x", to="y")], {}, [value("x")], opset=99))


def test_infinity_is_welcome_where_nothing_multiplies_by_it(tmp_path: Path) -> None:
    keep = np.array([[True, False, True, True]])
    nodes = [node("Where", "keep", "x", "low"), node("Softmax", "c", to="y")]
    path = network(tmp_path, nodes, {"keep": keep, "low": np.float32(-np.inf)}, [value("x")])
    assert kinds(onnx_file(path=path)) == ["Where", "Softmax"]


def test_a_constant_that_cannot_be_computed_stays(tmp_path: Path) -> None:
    nodes = [node("Gather", "one", "seven"), node("Add", "x", "c", to="y")]
    path = network(tmp_path, nodes, {"one": np.float32([1]), "seven": np.array([7])}, [value("x")])
    assert kinds(onnx_file(path=path)) == ["Gather", "Add"]


def test_ten_thousand_constants_in_a_row_fold_in_seconds(tmp_path: Path) -> None:
    nodes = [node("Add", f"v{i}", "one", to=f"v{i + 1}") for i in range(10_000)]
    path = network(
        tmp_path,
        [*nodes, node("Add", "x", "v10000", to="y")],
        {"one": np.float32([1]), "v0": np.float32([0])},
        [value("x")],
    )
    model = onnx_file(path=path)
    assert kinds(model) == ["Add"]
    assert [
        v.const_value.numpy().item() for v in model.graph.initializers.values() if v.const_value
    ] == [10_000]


def test_a_weight_that_two_layers_read_in_different_ways_is_copied(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x", "w"),
        node("Gemm", "c", "w", to="d", transB=1),
        node("MatMul", "d", "w", to="y"),
    ]
    path = network(tmp_path, nodes, {"w": weight(4, 4)}, [value("x")])
    first, second, third = onnx_file(path=path).graph
    assert first.inputs[1] is third.inputs[1]
    assert first.inputs[1] is not second.inputs[1]


def test_a_sum_that_is_no_bias_stays(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x", "w"), node("Add", "c", "column", to="y")]
    path = network(tmp_path, nodes, {"w": weight(4, 4), "column": weight(4, 1)}, [value("x")])
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)
    assert kinds(onnx_file(path=path)) == ["MatMul", "Add"]


@pytest.mark.parametrize("states", ["{", "[]", '{"image": "logits"}', '{"no such": "logits"}'])
def test_what_a_file_says_in_the_name_of_qpipe_is_not_believed(tmp_path: Path, states: str) -> None:
    """Only the recipe says which outputs feed states, and only compile which layers it limited."""
    body = f"x = Conv (image, w) {HEAD}"
    path = write(tmp_path, body, {"w": weight(4, 3, 1, 1)})
    proto = onnx.load(path)
    onnx.helper.set_model_props(
        proto, {"qpipe.states": states, "qpipe.limited_layers": "many", "author": "me"}
    )
    onnx.save(proto, path)
    model = onnx_file(path=path)
    assert states_of(model) == {}
    assert dict(model.metadata_props) == {"author": "me"}
