"""Networks in ONNX files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx.inliner
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import common

from qpipe.errors import StageError
from qpipe.quant.external_data import LARGEST, external_tensors, locate, location
from qpipe.quant.given_network import interface_change, interface_of, keep_given
from qpipe.quant.graph import without_subgraphs
from qpipe.quant.network_inputs import set_fixed_values, set_states
from qpipe_plugins.models.fixed_values import fix_values
from qpipe_plugins.models.network_checks import (
    check_finite_weights,
    check_functions,
    check_inputs,
    check_outputs,
    check_shapes,
    check_states,
    element_count,
)
from qpipe_plugins.models.opset_check import check_raised
from qpipe_plugins.models.pinned_shapes import InputShapes, open_replaced_sizes, pin_shapes
from qpipe_plugins.models.shape_inference import ContradictionError
from qpipe_plugins.models.simplification import simplify
from qpipe_plugins.models.sparse_tensors import densify

MIN_OPSET = 17
LAST_PLAIN_RESIZE_OPSET = 10  # the next gave Resize a choice of coordinates
FIRST_IR_WITH_WEIGHTS = 4  # the first in which an initializer need not be an input as well
MIN_IR_VERSION = 8  # what opset 17 came with
RECORD_PREFIX = "qpipe."  # of the metadata that qpipe gives networks

# of all tensors together, with which a network is tried on noise
MAX_TRIED_ELEMENTS = 1 << 28


def onnx_file(
    *,
    path: Path,
    shapes: dict[str, list[int | str]] | None = None,
    batch_axis: dict[str, int] | None = None,
    states: dict[str, str] | None = None,
    values: dict[str, float] | None = None,
) -> ir.Model:
    """Read a float network from an ONNX file and simplify it: one sample, known shapes.

    An open batch becomes 1. It is the open axis with a name such as batch or N, else the first;
    `batch_axis` tells where it is another, as {state: 1}. `shapes` gives the shapes of inputs with
    other open dimensions, as {input: [1, 3, 224, 224]}; a name in place of a number leaves a
    dimension open, for samples that differ in it, as {sound: [1, time]}. Constants are folded, also
    those that scale and shift the channels of a layer, as batch normalization does; Identity,
    Dropout and functions are removed, the opset is raised to at least 17. Inputs and outputs keep
    names, order, types and values; between them all is computed in float32, also what the file
    computes in float16 or double. External data must be in the file's folder. `states` names the
    output that feeds an input at the next chunk of a sequence, as {h0: hn}. A sample is then a
    sequence: its inputs have a first axis of chunks, its states begin as its arrays of their names,
    or as zeros; it is calibrated and scored chunk by chunk. `values` gives inputs that are always
    fed one number, as {sr: 16000}: branches that it decides are decided here; the input stays.
    """
    return read_network(
        path, str(path), shapes=shapes, batch_axes=batch_axis, states=states, values=values
    )


def read_network(
    path: Path,
    where: str,
    *,
    shapes: InputShapes | None = None,
    batch_axes: Mapping[str, int] | None = None,
    states: Mapping[str, str] | None = None,
    values: Mapping[str, float] | None = None,
) -> ir.Model:
    """Return the network in a file, simplified as `onnx_file` says; errors begin with `where`."""
    with _library_errors(where):
        proto = _read(path, where)
        open_replaced_sizes(proto.graph, shapes or {})
        given = proto.SerializeToString()
        _check(proto, where)
        densify(proto, where)
        given_interface = interface_of(ir.from_proto(proto))
        opset = _opset(proto)
        proto = _raise_opset(_without_functions(proto), where)
        pin_shapes(proto.graph, where, shapes=shapes or {}, batch_axes=batch_axes or {})
        model = ir.from_proto(proto)
        _forget_records(model)
        check_finite_weights(model, where)
        _inline_functions(model)
        fix_values(model, values or {}, where)
        try:
            simplify(model)
        except ContradictionError as error:
            reason = f"types or shapes do not fit together at {error}"
            raise StageError(
                f"{where}: {reason}; export it so that ONNX Runtime runs it"
            ) from error
        _name_nodes(model)
        check_shapes(model, where)
        if opset < MIN_OPSET and element_count(model) <= MAX_TRIED_ELEMENTS:
            check_raised(given, proto, where, opset=opset)
        change = interface_change(given_interface, interface_of(model))
    if change is not None:
        raise StageError(f"{where}: import changed the network: its {change}; please report this")
    check_states(model, states or {}, where)
    set_states(model, states or {})
    set_fixed_values(model, values or {})
    keep_given(model, given)
    return model


@contextmanager
def _library_errors(where: str) -> Iterator[None]:
    """Turn what the libraries raise about a network that passed the checker into one line."""
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {_first_line(cause)}"
        raise StageError(
            f"{where}: not a sound network: {reason}; export it again, or see this step's log"
        ) from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an error with text, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)


# ---- reading


def _read(path: Path, where: str) -> onnx.ModelProto:
    if not path.is_file():
        raise StageError(
            f"{where}: no such file; give the path of an ONNX file, relative to the recipe"
        )
    size = path.stat().st_size
    if size > LARGEST:
        raise StageError(
            f"{where}: the file has {size} bytes; the limit is {LARGEST}, "
            "with larger weights as external data"
        )
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise StageError(
            f"{where}: not an ONNX file, or an incomplete one; export or copy it again"
        ) from error
    if not proto.graph.node:
        raise StageError(
            f"{where}: not an ONNX file, or one without nodes; export or copy it again"
        )
    _read_external_data(proto, path.parent, where)
    return proto


def _read_external_data(proto: onnx.ModelProto, folder: Path, where: str) -> None:
    total = 0
    for tensor in external_tensors(proto):
        weight = f"weight '{tensor.name}'"
        name = location(tensor)
        path = locate(tensor, folder)
        if path is None:
            raise StageError(f"{where}: {weight} is in '{name}'; it must be in the model's folder")
        if not path.is_file():
            raise StageError(f"{where}: {weight} is in '{name}', which is missing; put it there")
        size = path.stat().st_size
        if size > LARGEST:
            raise StageError(f"{where}: '{name}' has {size} bytes; networks must be below 2 GiB")
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (ValueError, OSError, onnx.checker.ValidationError) as error:
            raise StageError(f"{where}: {weight}: {_first_line(error)}; export it again") from error
        total += len(tensor.raw_data)
        if total > LARGEST:
            raise StageError(
                f"{where}: the weights have more than {LARGEST} bytes; networks must be below 2 GiB"
            )
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _check(proto: onnx.ModelProto, where: str) -> None:
    try:
        with _as_the_checker_demands(proto):
            onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise StageError(
            f"{where}: not a valid network: {_first_line(error)}; export it again"
        ) from error
    check_inputs(proto, where)
    check_outputs(proto, where)
    check_functions(proto, where)


@contextmanager
def _as_the_checker_demands(proto: onnx.ModelProto) -> Iterator[None]:
    """Accept what runtimes do: tensors without a shape, and weights that are no inputs in IR 3."""
    values = [*proto.graph.input, *proto.graph.output]
    tensors = [value.type.tensor_type for value in values]
    shapeless = [tensor for tensor in tensors if tensor.elem_type and not tensor.HasField("shape")]
    proto.ir_version = max(proto.ir_version, FIRST_IR_WITH_WEIGHTS)
    for tensor in shapeless:
        tensor.shape.SetInParent()
    try:
        yield
    finally:
        for tensor in shapeless:
            tensor.ClearField("shape")


def _without_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network of an old opset with its functions inlined: the converter knows none."""
    if not proto.functions or _opset(proto) >= MIN_OPSET:
        return proto
    return onnx.inliner.inline_local_functions(proto, convert_version=True)


def _raise_opset(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Return the network in opset 17 or later."""
    opset = _opset(proto)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise StageError(
            f"{where}: opset {opset} is newer than onnx {onnx.__version__} supports; "
            f"export it with {newest}"
        )
    if opset >= MIN_OPSET:
        return proto
    try:
        converted = onnx.version_converter.convert_version(proto, MIN_OPSET)
    except Exception as error:  # the converter raises bare RuntimeErrors, and its own
        raise StageError(
            f"{where}: opset {opset} cannot be converted to {MIN_OPSET}: {_first_line(error)}; "
            f"export it with opset {MIN_OPSET} or later"
        ) from error
    converted.ir_version = max(converted.ir_version, MIN_IR_VERSION)
    if opset <= LAST_PLAIN_RESIZE_OPSET:
        _keep_resize_coordinates(converted.graph)
    return converted


def _keep_resize_coordinates(graph: onnx.GraphProto) -> None:
    """Let each Resize compute what it and Upsample did up to opset 10.

    The converter leaves out that they took coordinates times the scale, without a shift by half an
    element, and rounded them to the origin; ONNX Runtime rounds up where a tensor becomes smaller.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _keep_resize_coordinates(attribute.g)
        if node.op_type != "Resize":
            continue
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        is_smaller = scales is not None and onnx.numpy_helper.to_array(scales).min(initial=1) < 1
        attributes = {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "ceil" if is_smaller else "floor",
        }
        others = [attribute for attribute in node.attribute if attribute.name not in attributes]
        del node.attribute[:]
        node.attribute.extend(others)
        for name, value in attributes.items():
            node.attribute.append(onnx.helper.make_attribute(name, value))


def _opset(proto: onnx.ModelProto) -> int:
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return entry.version
    return 0


# ---- names and records


def _forget_records(model: ir.Model) -> None:
    """Remove what qpipe records in networks: that of a file is of another run, or anybody's."""
    for name in [name for name in model.metadata_props if name.startswith(RECORD_PREFIX)]:
        del model.metadata_props[name]


def _inline_functions(model: ir.Model) -> None:
    """Inline functions; make all constants initializers."""
    common.InlinePass()(model)
    common.RemoveInitializersFromInputsPass()(model)
    with without_subgraphs(model.graph):
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _name_nodes(model: ir.Model) -> None:
    for node in model.graph:
        node.name = node.name or f"{node.op_type}_{node.outputs[0].name}"
    common.NameFixPass()(model)
