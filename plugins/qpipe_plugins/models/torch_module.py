"""Networks that are PyTorch modules: of torchvision, of timm, or of a file of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from qpipe.errors import StageError, suggest
from qpipe_plugins.models.onnx_file import read_network

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'qpipe-edge[torch]'"
LONGEST = 200  # characters of an error of PyTorch's
Type = Literal["float32", "int64", "int32", "uint8", "bool"]


def torch_module(
    workdir: Path,
    *,
    shapes: dict[str, list[int]],
    model: str | None = None,
    file: Path | None = None,
    function: str = "model",
    arguments: dict[str, Any] | None = None,
    weights: Path | None = None,
    types: dict[str, Type] | None = None,
    opset: int = 18,
) -> ir.Model:
    """Export a PyTorch module by torch.onnx, in evaluation mode, and read it as `onnx` does; torch is an extra.

    `model` is torchvision:NAME or timm:NAME, built with `arguments` ({num_classes: 10}); or `file` is a Python file of
    your own, whose `function` gives the module (it may import installed packages, but nothing beside it: for that give
    a folder with an __init__.py, which is then in the key as a whole). `weights` is a state dict as torch.save writes
    it; only tensors are loaded from it, no code. Without it weights are what the code sets, of torchvision and timm
    random ones (seed 0): these serve for latency alone. `shapes` are those of the inputs in the order of forward, with
    the batch: {image: [1, 3, 224, 224]}; `types` those that are not float32. Needs torch, with onnxscript.
    """
    torch = _imported("torch")
    _imported("onnxscript")
    torch.manual_seed(0)
    if (model is None) == (file is None) or not shapes:
        raise StageError("torch: give either model or file, and shapes: {input: [1, 3, 224, 224]}")
    where = model or f"{file}:{function}"
    made = _own(file, function, arguments or {}) if file else _built(str(model), arguments or {})
    if weights is not None:
        _load(made, weights)
    kinds = _kinds(types or {}, shapes)
    inputs = tuple(
        torch.zeros(shape, dtype=getattr(torch, kinds[name])) for name, shape in shapes.items()
    )
    exported = workdir / "network.onnx"
    with torch.no_grad():
        torch.onnx.export(
            made.eval(),
            inputs,
            exported,
            input_names=list(shapes),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return read_network(exported, None, f"torch: {where}")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise StageError(f"torch: {error.name} is not installed; {INSTALL}") from error
    except Exception as error:  # two wheels that do not fit together fail in ways of their own
        raise StageError(f"torch: {name} does not import: {_line(error)}; {INSTALL}") from error


def _built(model: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    home, _, name = model.partition(":")
    if home == "torchvision":
        models = _imported("torchvision.models")
        known = models.list_models()
        build = models.get_model
    elif home == "timm":
        known = (timm := _imported("timm")).list_models()
        build = timm.create_model
    else:
        raise StageError(
            f"torch: model is '{model}'; give torchvision:NAME or timm:NAME, or file for your own"
        )
    if name not in known:
        raise StageError(f"torch: {home} has no model '{name}'; {suggest(name, known):.300}")
    made: torch.nn.Module = build(name, **arguments)
    return made


def _own(file: Path, function: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """The module that a function, or a class, of the file gives; what its code raises keeps its traceback."""
    from torch import nn

    code = _run(file)
    if not hasattr(code, function):
        names = [
            name
            for name, value in vars(code).items()
            if callable(value) and not name.startswith("_")
        ]
        raise StageError(f"torch: {file} has no '{function}'; {suggest(function, names)}")
    made = getattr(code, function)
    made = made if isinstance(made, nn.Module) else made(**arguments)
    if not isinstance(made, nn.Module):
        raise StageError(
            f"torch: {file}:{function} gave {type(made).__name__}; it must give a torch.nn.Module"
        )
    return made


def _run(file: Path) -> ModuleType:
    home = [str(file)] if file.is_dir() else None
    start = file / "__init__.py" if home else file
    name = f"qpipe_torch_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=home)
    if spec is None or spec.loader is None or not start.is_file():
        raise StageError(
            f"torch: {file} is no Python file; give one, or a folder with an __init__.py"
        )
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code  # dataclasses, and imports within a folder, look there
    # it would change the folder, and so the key
    written = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(code)
    except ModuleNotFoundError as error:
        hint = "install it; what lies beside the file is not seen: give their folder, with an __init__.py"
        raise StageError(f"torch: {file}: no module named '{error.name}'; {hint}") from error
    finally:
        sys.dont_write_bytecode = written
    return code


def _load(made: torch.nn.Module, file: Path) -> None:
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile, struct and torch, as the file pleases
        hint = "save them with torch.save(model.state_dict(), FILE)"
        raise StageError(
            f"torch: {file} cannot be read as weights: {_line(error)}; {hint}"
        ) from error
    for wrapper in ("state_dict", "model"):
        found = found.get(wrapper, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(
        isinstance(value, torch.Tensor) for value in found.values()
    ):
        raise StageError(
            f"torch: {file} holds no state dict; save it with torch.save(model.state_dict(), FILE)"
        )
    plain = {
        name.removeprefix("module."): value for name, value in found.items()
    }  # that of DataParallel
    try:
        made.load_state_dict(plain)
    except RuntimeError as error:
        raise StageError(
            f"torch: {file} does not fit: {_line(error)}; check model and arguments"
        ) from error


def _kinds(types: Mapping[str, Type], shapes: Mapping[str, list[int]]) -> dict[str, str]:
    for name in types:
        if name not in shapes:
            raise StageError(
                f"torch: types names input '{name}', which shapes has not; {suggest(name, shapes)}"
            )
    return {name: types.get(name, "float32") for name in shapes}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
