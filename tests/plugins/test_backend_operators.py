"""Every operator of ONNX, by ONNX's own test cases: quantized as its scales say, or float to the last bit, or refused
in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase as Case
from onnx.backend.test.loader import load_model_tests

from processors import KINDS, Arithmetic, machine_kind, session
from qpipe.errors import StageError
from qpipe.quant.arithmetic import fake_quantize, scale_and_zero_point
from qpipe.quant.coverage import coverage
from qpipe.samples.store import Samples
from qpipe.types import Platform, Preprocessing, Sample
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.symmetric import symmetric

JOINING = {
    "Add",
    "Mul",
    "Concat",
    "MatMul",
    "Where",
    "Sub",
    "Div",
    "Max",
    "Min",
    "Sum",
}  # all of their inputs are fed
PLATFORM = Platform(max_opset=24, max_ir_version=11)  # what is above is lowered, or refused
Feeds = dict[str, np.ndarray]


@cache
def cases() -> list[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them divide by zero on purpose
        return sorted(load_model_tests(kind="node"), key=lambda case: case.name)


def is_tensor(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def wrapped(case: Case, layers: bool) -> tuple[onnx.ModelProto, Feeds] | None:
    """The case as a network of one sample: its float inputs fed, all others constant, a layer that changes nothing
    before and behind each where `layers` is set; None where it feeds no float tensor."""
    arrays, outputs = case.data_sets[0]
    graph = case.model.graph
    if not all(map(is_tensor, [*arrays, *outputs])) or graph.node[0].op_type in (
        "Loop",
        "If",
        "Scan",
    ):
        return None
    nodes, feeds, inputs, given = [], {}, [], []
    tensors = {"one": np.ones((1, 1, 1, 1), np.float32)}
    feeds_all = any(node.op_type in JOINING for node in graph.node)

    def reshape(name: str, shape: tuple[int, ...], result: str) -> None:
        tensors[f"{result}_shape"] = np.array(shape, np.int64)
        nodes.append(
            helper.make_node("Reshape", [name, f"{result}_shape"], [result], f"{result}_reshape")
        )

    for value, array in zip(graph.input, arrays, strict=True):
        if array.dtype != np.float32 or (feeds and not feeds_all) or array.size == 0:
            tensors[value.name] = array
            continue
        fed, flat = f"{value.name}_fed", (1, 1, array.size, 1)
        inputs.append(helper.make_tensor_value_info(fed, TensorProto.FLOAT, flat))
        feeds[fed] = array.reshape(flat)
        if layers:
            nodes.append(helper.make_node("Conv", [fed, "one"], [f"{fed}_after"], f"{fed}_layer"))
        reshape(f"{fed}_after" if layers else fed, array.shape, value.name)
    if not feeds:
        return None
    nodes += graph.node
    for value, array in zip(graph.output, outputs, strict=True):
        if array.dtype == np.float32 and layers and array.size:
            reshape(value.name, (1, 1, array.size, 1), f"{value.name}_flat")
            nodes.append(
                helper.make_node(
                    "Conv", [f"{value.name}_flat", "one"], [f"{value.name}_given"], value.name
                )
            )
            flat = (1, 1, array.size, 1)
            given.append(
                helper.make_tensor_value_info(f"{value.name}_given", TensorProto.FLOAT, flat)
            )
        else:
            given.append(value)
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    network = helper.make_graph(
        nodes, case.name, inputs, given, [*graph.initializer, *initializers]
    )
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.graph.CopyFrom(network)
    model.ir_version = max(model.ir_version, 8)
    if not any(opset.domain == "" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", 17))
    return model, feeds


def run(model: ir.Model | onnx.ModelProto, feeds: Feeds, kind: Arithmetic | None = None) -> Feeds:
    """With integer kernels for that kind of processor, or by the definition of each operator."""
    written = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    running = session(written, kind or machine_kind(), optimize=kind is not None)
    names = [value.name for value in running.get_outputs()]
    return dict(zip(names, running.run(None, feeds), strict=True))


def imported(model: onnx.ModelProto, folder: Path) -> ir.Model:
    path = folder / "case.onnx"
    path.write_bytes(model.SerializeToString())
    return onnx_file(path=path)


def stored(folder: Path, feeds: Feeds) -> Samples:
    sample = Sample("0", {name: array[0] for name, array in feeds.items()})
    return Samples.write(folder, [sample], {name: Preprocessing() for name in feeds})


def silent(done: float, total: float | None = None, unit: str = "") -> None:
    pass


def is_composed(case: Case) -> bool:
    """Whether the case is that of another operator, written out as the basic ones that it is a function of."""
    return "_expanded" in case.name


def complaints(check: str, chosen: Iterable[Case], folder: Path) -> Iterator[str]:
    for case in chosen:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # infinities that cases are about
                found = {"whole": whole, "layers": between_layers, "float": without_layers}[check](
                    case, folder
                )
        except StageError as error:
            found = "" if "\n" not in str(error) and len(str(error)) < 600 else f"said {error}"
        except Exception as error:  # noqa: BLE001  (all that are wrong are told together)
            found = f"{type(error).__name__}: {str(error)[:200]}"
        if found:
            yield f"{case.name}: {found}"


def whole(case: Case, folder: Path) -> str:
    """The case as it is: most take more than one sample at once, and are refused."""
    coverage(imported(case.model, folder))
    return ""


def between_layers(case: Case, folder: Path) -> str:
    """In the end each value is as near to float as its two roundings allow, and twice what those of the inputs do."""
    made = wrapped(case, layers=True)
    if made is None:
        return ""
    proto, feeds = made
    operators = {node.op_type for node in case.model.graph.node}
    model = imported(proto, folder)
    if not set(coverage(model).integer) & operators - {"Conv", "Reshape"} and not operators & {
        "Conv",
        "Reshape",
    }:
        return ""
    statistics = histogram(model, stored(folder / "samples", feeds), silent)
    coarse = {
        name: fake_quantize(x, *scale_and_zero_point(x.min(), x.max()), dtype=np.uint8)
        for name, x in feeds.items()
    }
    exact, moved = (run(model, given) for given in (feeds, coarse))
    for kind in KINDS:
        quantized = symmetric(ir.from_proto(ir.to_proto(model)), statistics, kind.target)
        build = compiled(quantized, PLATFORM, folder / "build")
        for name, array in run(onnx.load(build.folder / "model.onnx"), feeds, kind).items():
            if array.dtype != np.float32 or not array.size or name not in statistics:
                continue
            step = (max(statistics[name].maximum, 0) - min(statistics[name].minimum, 0)) / 255
            allowed = 2 * step + 2 * np.abs(moved[name] - exact[name]).max()
            distance = np.abs(array - exact[name]).max()
            if distance > allowed * 1.01 + 1e-6:
                return f"{kind}: {name} is {distance} away, {allowed} would be allowed"
    return ""


def without_layers(case: Case, folder: Path) -> str:
    """Nothing in it has a weight to quantize around: it stays as it is."""
    made = wrapped(case, layers=False)
    if made is None:
        return ""
    proto, feeds = made
    model = imported(proto, folder)
    if coverage(model).integer:
        return ""
    statistics = histogram(model, stored(folder / "samples", feeds), silent)
    one, two = (run(proto, feeds) for _ in range(2))
    build = compiled(symmetric(model, statistics), PLATFORM, folder / "build")
    three = run(onnx.load(build.folder / "model.onnx"), feeds)
    for name, array in one.items():
        is_random = not np.array_equal(array, two[name], equal_nan=array.dtype.kind == "f")
        if not is_random and not np.array_equal(
            array, three[name], equal_nan=array.dtype.kind == "f"
        ):
            return f"{name} differs by {np.abs(array.astype(float) - three[name]).max()}"
    return ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", ["whole", "layers", "float"])
@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.lab)])
def test_every_operator_is_quantized_as_its_scales_say_or_stays_or_is_refused(
    share: int, check: str, tmp_path: Path
) -> None:
    """Of every fourth case each day, and of all of them, those that are written out as well, in the lab."""
    chosen = [case for case in cases() if share == 1 or not is_composed(case)][::share]
    found = list(complaints(check, chosen, tmp_path))
    assert not found, f"{len(found)} of {len(chosen)} cases:\n" + "\n".join(found)
