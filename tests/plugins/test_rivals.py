"""Quantizers of others as stages: each where it is installed, and what is said where it is not."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from models import conv_net, images, run
from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Array, Platform, Preprocessing, Sample, Target
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.quantize.external_quantizer import (
    isolated_library,
    name_excluded_nodes,
    read_quantized,
)
from qpipe_plugins.quantize.neural_compressor import neural_compressor
from qpipe_plugins.quantize.nncf import nncf
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.quark import quark

Stage = Callable[..., ir.Model]
MODULES = {"nncf": "nncf", "quark": "quark", "neural_compressor": "onnx_neural_compressor"}
EXTRAS = {name: f"pip install 'qpipe-edge[{name.replace('_', '-')}]'" for name in MODULES}
STAGES: dict[str, Stage] = {
    "onnxruntime_static": onnxruntime_static, "nncf": nncf, "quark": quark, "neural_compressor": neural_compressor
}  # fmt: skip


def is_there(name: str) -> bool:
    return name not in MODULES or importlib.util.find_spec(MODULES[name]) is not None


def needs(name: str, *options: Any) -> Any:
    why = f"needs {MODULES.get(name)}: {EXTRAS.get(name)}"
    marks = (
        ()
        if name not in MODULES
        else (pytest.mark.slow, pytest.mark.skipif(not is_there(name), reason=why))
    )
    return pytest.param(name, *options, marks=marks)


ALL = [needs(name) for name in STAGES]


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    stream = (Sample(str(index), {"image": array[0]}) for index, array in enumerate(images(12)))
    return Samples.write(tmp_path / "samples", stream, {"image": Preprocessing()})


def network() -> ir.Model:
    model = conv_net()
    ShapeInferencePass()(model)
    return model


def built(model: ir.Model, folder: Path) -> ir.Model:
    """As the compile stage gives it to the device."""
    return ir.load(compiled(model, Platform(), folder / "build").folder / "model.onnx")


def logits(model: ir.Model) -> Array:
    return np.stack([arrays["logits"] for arrays in run(model, images(8, seed=9))])


def sqnr(model: ir.Model) -> float:
    truth = logits(network())
    return float(10 * np.log10(np.sum(truth**2) / np.sum((truth - logits(model)) ** 2)))


def state() -> tuple[object, ...]:
    root = logging.getLogger()
    return (
        Path.cwd(), dict(os.environ), list(root.handlers), root.level, root.manager.disable, logging.getLoggerClass(),
        random.getstate(), np.random.get_state()[1].tolist(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_its_network_is_compiled_and_near_to_float(
    name: str, samples: Samples, tmp_path: Path
) -> None:
    model = built(STAGES[name](network(), samples), tmp_path)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) >= 4
    assert sqnr(model) > 15


@pytest.mark.parametrize("name", ALL)
def test_it_leaves_nothing_behind(
    name: str, samples: Samples, capfd: pytest.CaptureFixture[str]
) -> None:
    before, files = state(), sorted(Path.cwd().iterdir())
    STAGES[name](network(), samples, samples=4)
    assert state() == before
    assert sorted(Path.cwd().iterdir()) == files
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", ALL)
def test_samples_may_lie_in_a_folder_relative_to_the_current_one(
    name: str, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    STAGES[name](network(), Samples(Path("samples")), samples=4)


@pytest.mark.parametrize("name", ALL)
def test_the_same_comes_out_twice(name: str, samples: Samples) -> None:
    first, second = (STAGES[name](network(), samples, samples=4) for _ in range(2))
    np.testing.assert_array_equal(logits(first), logits(second))


@pytest.mark.parametrize("name", ALL)
def test_a_node_that_is_excluded_keeps_its_float_weight(name: str, samples: Samples) -> None:
    model = STAGES[name](network(), samples, samples=4, exclude=("middle",))
    readers = {
        node.inputs[1].producer() is None: node for node in model.graph if node.op_type == "Conv"
    }
    assert (
        readers[True].attributes.get_int("group", 1) == 8
    )  # the depthwise one reads an initializer
    assert False in readers


@pytest.mark.parametrize("name", ALL)
def test_a_target_of_one_scale_a_tensor_gets_no_other(name: str, samples: Samples) -> None:
    model = STAGES[name](network(), samples, Target(per_tensor_weights=True), samples=4)
    scales = [
        node.inputs[1].const_value for node in model.graph if node.op_type == "DequantizeLinear"
    ]
    assert all(scale is not None and scale.size == 1 for scale in scales)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        needs("nncf", {"bias_correction": "accurate", "preset": "performance"}),
        needs(
            "nncf", {"granularity": "tensor", "channel_alignment": True, "bias_correction": "none"}
        ),
        needs("nncf", {"activations": "channel"}),
        needs("quark", {"rounding": "adaround", "iterations": 20}),
        needs("quark", {"rounding": "adaquant", "iterations": 20}),
        needs("quark", {"scales": "power_of_two", "activation": "int8"}),
        needs(
            "quark",
            {
                "equalize": True,
                "bias_correction": True,
                "granularity": "tensor",
                "method": "percentile",
            },
        ),
        needs("neural_compressor", {"smooth": 0.5}),
        needs("neural_compressor", {"method": "percentile"}),
        needs("neural_compressor", {"method": "entropy"}),
        needs("neural_compressor", {"activation": "int8"}),
        needs("onnxruntime_static", {"method": "moving_average"}),
        needs("onnxruntime_static", {"activation": "int8", "symmetric_activations": True}),
    ],
)
def test_its_options_are_options_of_its_own(
    name: str, options: dict[str, Any], samples: Samples, tmp_path: Path
) -> None:
    assert sqnr(built(STAGES[name](network(), samples, samples=8, **options), tmp_path)) > 6


@pytest.mark.parametrize("name", ALL)
def test_what_it_refuses_is_one_line(name: str, samples: Samples) -> None:
    model = network()
    model.graph.initializers["stem_w"].const_value = ir.tensor(
        np.zeros((8, 2, 3, 3), np.float32), name="stem_w"
    )
    with pytest.raises(
        StageError,
        match=f"^quantize {name}: the library's quantizer failed: .*; leave this scheme out$",
    ):
        STAGES[name](model, samples)


@pytest.mark.parametrize("name", [name for name in MODULES if not is_there(name)])
def test_where_it_is_not_installed_one_line_says_what_to_do(name: str, samples: Samples) -> None:
    wanted = re.escape(f"quantize {name}: {MODULES[name]} is not installed; {EXTRAS[name]}")
    with pytest.raises(StageError, match=f"^{wanted}"):
        STAGES[name](network(), samples)


# ---- what they share


def test_what_a_library_does_to_the_process_is_undone(capfd: pytest.CaptureFixture[str]) -> None:
    before = state()
    with isolated_library("quantize it", "install it") as folder:
        Path("left.bin").write_bytes(b"0")
        assert (folder / "left.bin").exists()
        logging.getLogger().addHandler(logging.NullHandler())
        logging.disable(logging.CRITICAL)
        logging.getLogger().setLevel(1)
        os.environ["NOISE"] = "1"
        np.random.seed(5)
        random.seed(5)
        print("noise")
    assert state() == before
    assert not folder.exists()
    assert capfd.readouterr() == ("", "noise\n")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            ValueError("\n\n  no such node\nmore\n"),
            "the library's quantizer failed: no such node; leave this scheme out",
        ),
        (RuntimeError(), "the library's quantizer failed: RuntimeError; leave this scheme out"),
        (SystemExit(0), "the library's quantizer failed: 0; leave this scheme out"),
        (ModuleNotFoundError("no", name="py_what"), "py_what is not installed; pip install it"),
        (StageError("quantize it: so and so"), "so and so"),
    ],
)
def test_what_a_library_raises_is_one_line(raised: BaseException, message: str) -> None:
    with pytest.raises(StageError) as caught, isolated_library("quantize it", "pip install it"):
        raise raised
    assert str(caught.value) == f"quantize it: {message}"


def test_memory_that_runs_out_is_said_by_who_knows_better() -> None:
    with pytest.raises(MemoryError), isolated_library("quantize it", "pip install it"):
        raise MemoryError


def test_a_network_that_stock_runtimes_cannot_run_is_refused() -> None:
    model = network()
    model.graph.append(ir.node("Odd", [model.graph.outputs[0]], domain="com.strange"))
    model.opset_imports["com.strange"] = 1
    with pytest.raises(
        StageError,
        match=r"^quantize it: the result has operator Odd of the library's own domain 'com.strange'",
    ):
        read_quantized(ir.to_proto(model), "quantize it")
    with pytest.raises(
        StageError,
        match=r"^quantize it: the library's quantizer found nothing to quantize in this network",
    ):
        read_quantized(ir.to_proto(network()), "quantize it")


def test_nodes_get_names_of_their_own_before_some_are_excluded() -> None:
    model = network()
    for node in model.graph:
        node.name = "same" if node.op_type == "Conv" else None
    assert name_excluded_nodes(model, ["deep_w"], "quantize it") == ["same_1"]
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    with pytest.raises(StageError, match=r"^quantize it: exclude 'deap' matches no node"):
        name_excluded_nodes(model, ["deap"], "quantize it")
