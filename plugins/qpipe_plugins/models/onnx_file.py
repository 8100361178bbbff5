"""Networks that come as ONNX files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import common

from qpipe.errors import StageError, suggest
from qpipe.quant.external_data import LARGEST, external_tensors, locate, location
from qpipe_plugins.models.constant_folding import fold
from qpipe_plugins.models.network_checks import (
    check_functions,
    check_inputs,
    check_shapes,
    check_weights,
)

OPSET = 17


def onnx_file(*, path: Path, shapes: dict[str, list[int]] | None = None) -> ir.Model:
    """Read a float network from an ONNX file, and make it plain: one sample, known shapes, folded batch norm.

    The batch becomes 1; `shapes` gives the inputs whose other dimensions are open, as {input: [1, 3, 224, 224]}.
    Constants are folded, Identity and Dropout go, the opset is lifted to at least 17. External data must lie in the
    file's folder.
    """
    return read_network(path, shapes, str(path))


def read_network(path: Path, shapes: Mapping[str, list[int]] | None, where: str) -> ir.Model:
    """The network in a file, made plain as `onnx_file` says; errors begin with `where` it came from."""
    with _sound(where):
        proto = _read(path, where)
        _check(proto, where)
        proto = _lift(proto, where)
        _pin(proto.graph, shapes or {}, where)
        model = ir.from_proto(proto)
        check_weights(model, where)
        _plain(model)
        if not fold(model):
            raise StageError(
                f"{where}: the shapes in the network contradict each other; export it with a static shape"
            )
        _name(model)
        check_shapes(model, where)
    return model


@contextmanager
def _sound(where: str) -> Iterator[None]:
    """What the libraries stumble over in a network that passed the checker, in one line."""
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


# ---- reading


def _read(path: Path, where: str) -> onnx.ModelProto:
    if not path.is_file():
        raise StageError(
            f"{where}: no such file; give the path of an ONNX file, relative to the recipe"
        )
    size = path.stat().st_size
    if size > LARGEST:
        raise StageError(
            f"{where}: {size} bytes; an ONNX file has at most {LARGEST}, with larger weights beside it"
        )
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise StageError(
            f"{where}: not an ONNX file, or cut short; export or copy it again"
        ) from error
    if not proto.graph.node:
        raise StageError(
            f"{where}: not an ONNX file, or one without nodes; export or copy it again"
        )
    _read_external(proto, path.parent, where)
    return proto


def _read_external(proto: onnx.ModelProto, folder: Path, where: str) -> None:
    total = 0
    for tensor in external_tensors(proto):
        place = location(tensor)
        file = locate(tensor, folder)
        if file is None:
            raise StageError(
                f"{where}: weight '{tensor.name}' lies in '{place}'; it must lie in the model's folder"
            )
        if not file.is_file():
            raise StageError(
                f"{where}: weight '{tensor.name}' lies in '{place}', which is missing; put it there"
            )
        if file.stat().st_size > LARGEST:
            raise StageError(
                f"{where}: '{place}' has {file.stat().st_size} bytes; qpipe takes networks below 2 GiB"
            )
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (ValueError, OSError, onnx.checker.ValidationError) as error:
            raise StageError(
                f"{where}: weight '{tensor.name}': {_first_line(error)}; export it again"
            ) from error
        total += len(tensor.raw_data)
        if total > LARGEST:
            raise StageError(
                f"{where}: more than {LARGEST} bytes of weights; qpipe takes networks below 2 GiB"
            )
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _first_line(error: BaseException) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def _check(proto: onnx.ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise StageError(
            f"{where}: not a valid network: {_first_line(error)}; export it again"
        ) from error
    check_inputs(proto, where)
    check_functions(proto, where)


def _lift(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    opset = next(
        (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0
    )
    if opset > onnx.defs.onnx_opset_version():
        known = onnx.defs.onnx_opset_version()
        raise StageError(
            f"{where}: opset {opset} is newer than onnx {onnx.__version__} knows; export it with {known}"
        )
    if opset >= OPSET:
        return proto
    try:
        lifted = onnx.version_converter.convert_version(proto, OPSET)
    except Exception as error:  # the converter raises bare RuntimeErrors, and its own
        reason = f"opset {opset} does not convert to {OPSET}: {_first_line(error)}"
        raise StageError(f"{where}: {reason}; export it with opset {OPSET} or later") from error
    lifted.ir_version = max(lifted.ir_version, 8)  # what opset 17 came with
    return lifted


# ---- shapes


def _pin(graph: onnx.GraphProto, shapes: Mapping[str, list[int]], where: str) -> None:
    """Make every dimension of every input a number, and forget the shapes said of all that follows."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    for name in shapes:
        if name not in inputs:
            raise StageError(
                f"{where}: shapes names input '{name}', which is not there; {suggest(name, inputs)}"
            )
    known: dict[str, int] = {}  # symbols that another input's shape has settled
    for name, value in sorted(inputs.items(), key=lambda item: item[0] not in shapes):
        dimensions = value.type.tensor_type.shape.dim
        given = shapes.get(name)
        if given is not None and (len(given) != len(dimensions) or min(given, default=1) < 1):
            raise StageError(
                f"{where}: shapes gives input '{name}' {given}; give {len(dimensions)} numbers from 1 up"
            )
        for axis, dimension in enumerate(dimensions):
            symbol = dimension.dim_param
            fixed = dimension.dim_value
            size = (
                given[axis]
                if given is not None
                else fixed or known.get(symbol) or (1 if axis == 0 else 0)
            )
            if size < 1:
                called = f" ('{symbol}')" if symbol else ""
                example = [d.dim_value or (1 if i == 0 else "?") for i, d in enumerate(dimensions)]
                hint = f"pin it with shapes: {{{name}: [{', '.join(map(str, example))}]}}"
                raise StageError(
                    f"{where}: dimension {axis}{called} of input '{name}' is open; {hint}"
                )
            if symbol:
                known[symbol] = size
            dimension.dim_value = size
        if len(dimensions) > 1 and dimensions[0].dim_value != 1:
            rest = ", ".join(str(d.dim_value) for d in dimensions[1:])
            raise StageError(
                f"{where}: input '{name}' takes {dimensions[0].dim_value} samples at once; qpipe feeds one: "
                f"shapes: {{{name}: [1, {rest}]}}, or export it so"
            )
    del graph.value_info[:]
    for value in graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()


# ---- names


def _plain(model: ir.Model) -> None:
    common.InlinePass()(model)
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _name(model: ir.Model) -> None:
    for node in model.graph:
        node.name = node.name or f"{node.op_type}_{node.outputs[0].name}"
    common.NameFixPass()(model)
