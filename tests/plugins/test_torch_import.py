"""The torch stage: what is exported computes what the module computes, and weights bring no code with them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from qpipe.errors import StageError
from qpipe_plugins.models.torch_module import torch_module

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's exporter uses what PyTorch deprecates
WHY = "needs torch and onnxscript: pip install 'qpipe-edge[torch]'"
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=5, steps=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, image):
        x = self.drop(torch.relu(self.norm(self.conv(image))))
        return self.head(x.mean((2, 3)))

def model(classes=5):
    return Net(classes)

ready = Net(3)

def words():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 4)
        def forward(self, ids, scale):
            return self.table(ids) * scale
    return Words()

def text():
    return "no module"
"""


@pytest.fixture(scope="module")
def torch() -> Any:
    pytest.importorskip("onnxscript", reason=WHY)
    return pytest.importorskip("torch", reason=WHY)


@pytest.fixture
def export(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ir.Model]:
    """Exports a module of net.py, of images of 16 x 16 unless told otherwise."""
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    known = set(sys.modules)

    def run(**options: Any) -> ir.Model:
        given = {"shapes": {"image": [1, 3, 16, 16]}, **options}
        if "model" not in given:
            given.setdefault("file", tmp_path / "net.py")
        return torch_module(tmp_path, **given)

    yield run
    for name in set(sys.modules) - known:
        if name.startswith("qpipe_torch_"):
            del sys.modules[name]


def outputs(model: ir.Model, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, inputs)[0])


def trained(torch: Any, folder: Path, classes: int = 5) -> Any:
    """A module with moments that are not those of a new one, in evaluation mode."""
    space: dict[str, Any] = {}
    exec(NETWORK, space)
    torch.manual_seed(4)
    module = space["Net"](classes)
    for _ in range(3):
        module(torch.randn(4, 3, 16, 16) * 2 + 1)
    return module.eval()


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "DataParallel"])
def test_weights_are_loaded_and_the_export_computes_what_the_module_does(
    torch: Any, export: Callable[..., ir.Model], tmp_path: Path, wrap: str
) -> None:
    module = trained(torch, tmp_path)
    state = module.state_dict()
    state = (
        {f"module.{name}": value for name, value in state.items()}
        if wrap == "DataParallel"
        else state
    )
    torch.save(
        {"state_dict": state, "epoch": 3} if wrap == "state_dict" else state,
        tmp_path / "weights.pt",
    )
    model = export(weights=tmp_path / "weights.pt")
    image = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(outputs(model, image=image), expected, rtol=1e-4, atol=1e-5)
    kinds = [node.op_type for node in model.graph]
    assert "Dropout" not in kinds
    assert "BatchNormalization" not in kinds


def test_arguments_reach_the_function(export: Callable[..., ir.Model]) -> None:
    assert export(arguments={"classes": 9}).graph.outputs[0].shape == [1, 9]


@pytest.mark.parametrize(("function", "classes"), [("Net", 5), ("ready", 3)])
def test_a_class_and_a_module_serve_as_well(
    export: Callable[..., ir.Model], function: str, classes: int
) -> None:
    assert export(function=function).graph.outputs[0].shape == [1, classes]


def test_several_inputs_have_types_of_their_own(export: Callable[..., ir.Model]) -> None:
    model = export(
        function="words", shapes={"ids": [1, 6], "scale": [1, 6, 4]}, types={"ids": "int64"}
    )
    assert [(value.name, value.dtype) for value in model.graph.inputs] == [
        ("ids", ir.DataType.INT64), ("scale", ir.DataType.FLOAT),
    ]  # fmt: skip
    ids, scale = np.array([[0, 1, 2, 3, 4, 6]]), np.full((1, 6, 4), 2, np.float32)
    assert outputs(model, ids=ids, scale=scale).shape == (1, 6, 4)


def test_random_weights_are_the_same_every_time(export: Callable[..., ir.Model]) -> None:
    image = np.ones((1, 3, 16, 16), np.float32)
    assert np.array_equal(outputs(export(), image=image), outputs(export(), image=image))


def test_a_folder_is_imported_as_a_package_and_stays_as_it_was(
    export: Callable[..., ir.Model], tmp_path: Path
) -> None:
    package = tmp_path / "nets"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import model\n", encoding="utf-8")
    (package / "inner.py").write_text(NETWORK, encoding="utf-8")
    assert export(file=package).graph.outputs[0].shape == [1, 5]
    assert sorted(path.name for path in package.rglob("*")) == ["__init__.py", "inner.py"]


def test_weights_that_bring_code_are_refused_and_it_does_not_run(
    torch: Any, export: Callable[..., ir.Model], tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"conv.weight": Evil()}, tmp_path / "weights.pt")
    message = f"torch: {tmp_path / 'weights.pt'} cannot be read as weights: "
    with pytest.raises(StageError, match=re.escape(message)) as caught:
        export(weights=tmp_path / "weights.pt")
    assert str(caught.value).endswith("; save them with torch.save(model.state_dict(), FILE)")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_refused(
    torch: Any, export: Callable[..., ir.Model], tmp_path: Path
) -> None:
    torch.save(trained(torch, tmp_path, 4).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(
        StageError,
        match=r"weights.pt does not fit the module: .*size mismatch.*; check model and arguments",
    ):
        export(weights=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": "modle"}, "net.py has no 'modle'; did you mean 'model'?"),
        ({"function": "text"}, "net.py:text returned str; it must return a torch.nn.Module"),
        (
            {"types": {"imgae": "int64"}},
            "torch: types names input 'imgae', which shapes does not; did you mean 'image'?",
        ),
        ({"shapes": {}}, "torch: give either model or file, and shapes: {input: [1, 3, 224, 224]}"),
        (
            {"model": "keras:vgg"},
            "torch: model is 'keras:vgg'; give torchvision:NAME or timm:NAME, or file for your own module",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    export: Callable[..., ir.Model], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=re.escape(message)):
        export(**options)


def test_a_module_that_lies_beside_the_file_is_not_seen(
    export: Callable[..., ir.Model], tmp_path: Path
) -> None:
    (tmp_path / "layers.py").write_text("", encoding="utf-8")
    (tmp_path / "net.py").write_text("import layers\n", encoding="utf-8")
    message = r"net.py: no module named 'layers'; install it; or, if it is in the same folder, give that folder"
    with pytest.raises(StageError, match=message):
        export()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("torchvision:mobilenet_v3_small", {"num_classes": 7}),
        ("timm:mobilenetv3_small_050", {"num_classes": 7}),
    ],
)
def test_a_model_of_a_library_is_built_with_its_arguments(
    torch: Any, export: Callable[..., ir.Model], model: str, arguments: dict[str, Any]
) -> None:
    try:
        __import__(model.partition(":")[0])
    except Exception as error:  # noqa: BLE001  (wheels that do not fit together fail in ways of their own)
        pytest.skip(f"{model.partition(':')[0]} does not import: {error}")
    exported = export(model=model, arguments=arguments, shapes={"image": [1, 3, 64, 64]})
    assert exported.graph.outputs[0].shape == [1, 7]
    with pytest.raises(
        StageError, match=f"torch: {model.partition(':')[0]} has no model 'mobilenet_v9'; "
    ):
        export(model=f"{model.partition(':')[0]}:mobilenet_v9")


def test_without_torch_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        StageError, match=re.escape("torch is not installed; pip install 'qpipe-edge[torch]'")
    ):
        torch_module(tmp_path, model="torchvision:resnet18", shapes={"image": [1, 3, 64, 64]})
