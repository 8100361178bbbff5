"""Networks that are PyTorch modules: of torchvision, of timm, or of a Python file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from qpipe.bytecode import no_bytecode
from qpipe.errors import StageError, suggest
from qpipe_plugins.models.onnx_file import read_network

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'qpipe-edge[torch]'"
TORCH_MODULES = dict.fromkeys(("torch", "onnxscript"), INSTALL)
MAX_REASON = 200  # characters of an error of PyTorch
MAX_SUGGESTION = 300  # characters: timm has over a thousand models
# keys under which training scripts wrap a state dict
STATE_DICT_KEYS = ("state_dict", "model")
DATA_PARALLEL_PREFIX = "module."
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
    states: dict[str, str] | None = None,
) -> ir.Model:
    """Export a PyTorch module in evaluation mode and read it as `onnx` does; torch is an extra.

    `model` is torchvision:NAME or timm:NAME, built with `arguments` ({num_classes: 10}); or `file`
    is your own Python file, whose `function` returns the module. The file may import installed
    packages, but no other files of its folder: for that give a folder with an __init__.py, which is
    then part of the key as a whole. `weights` is a state dict as torch.save writes it; only tensors
    are loaded from it, no code. Without it the weights are those that the code sets: for
    torchvision and timm random ones (seed 0), which are good for latency alone. `shapes` are those
    of the inputs, in the order of forward and with the batch: {image: [1, 3, 224, 224]}; `types`
    are those of inputs that are not float32; `states` is as of `onnx`. It is exported by
    torch.onnx, which needs onnxscript.
    """
    torch = _import("torch")
    _import("onnxscript")
    torch.manual_seed(0)
    if (model is None) == (file is None) or not shapes:
        raise StageError("torch: give either model or file, and shapes: {input: [1, 3, 224, 224]}")
    if file is not None:
        where = f"{file}:{function}"
        module = _module_from_file(file, function, arguments or {})
    else:
        where = str(model)
        module = _module_from_library(where, arguments or {})
    if weights is not None:
        _load_weights(module, weights)
    _check_type_names(types or {}, shapes)
    inputs = []
    for name, shape in shapes.items():
        type_name = (types or {}).get(name, "float32")
        inputs.append(torch.zeros(shape, dtype=getattr(torch, type_name)))
    exported = workdir / "network.onnx"
    with torch.no_grad():
        torch.onnx.export(
            module.eval(),
            tuple(inputs),
            exported,
            input_names=list(shapes),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return read_network(exported, f"torch: {where}", states=states)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise StageError(f"torch: {error.name} is not installed; {INSTALL}") from error
    except Exception as error:  # versions that do not fit together fail in ways of their own
        reason = _one_line(error)
        raise StageError(f"torch: {name} cannot be imported: {reason}; {INSTALL}") from error


def _check_type_names(types: Mapping[str, Type], shapes: Mapping[str, list[int]]) -> None:
    for name in types:
        if name not in shapes:
            raise StageError(
                f"torch: types names input '{name}', which shapes does not; {suggest(name, shapes)}"
            )


# ---- modules


def _module_from_library(model: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Return a model of torchvision or timm."""
    library, _, name = model.partition(":")
    if library == "torchvision":
        models = _import("torchvision.models")
        names = models.list_models()
        build = models.get_model
    elif library == "timm":
        timm = _import("timm")
        names = timm.list_models()
        build = timm.create_model
    else:
        raise StageError(
            f"torch: model is '{model}'; give torchvision:NAME or timm:NAME, "
            "or file for your own module"
        )
    if name not in names:
        suggestion = suggest(name, names)[:MAX_SUGGESTION]
        raise StageError(f"torch: {library} has no model '{name}'; {suggestion}")
    module: torch.nn.Module = build(name, **arguments)
    return module


def _module_from_file(file: Path, function: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Return what a function or a class of the file makes, or a module that the file holds.

    What its code raises keeps its traceback.
    """
    from torch import nn

    code = _run_file(file)
    if not hasattr(code, function):
        names = [
            name
            for name, value in vars(code).items()
            if callable(value) and not name.startswith("_")
        ]
        raise StageError(f"torch: {file} has no '{function}'; {suggest(function, names)}")
    module = getattr(code, function)
    if not isinstance(module, nn.Module):
        module = module(**arguments)
    if not isinstance(module, nn.Module):
        raise StageError(
            f"torch: {file}:{function} returned {type(module).__name__}; "
            "it must return a torch.nn.Module"
        )
    return module


def _run_file(file: Path) -> ModuleType:
    """Import a Python file, or a folder with an __init__.py, by its path."""
    is_package = file.is_dir()
    start = file / "__init__.py" if is_package else file
    name = f"qpipe_torch_{file.stem}"
    spec = importlib.util.spec_from_file_location(
        name, start, submodule_search_locations=[str(file)] if is_package else None
    )
    if spec is None or spec.loader is None or not start.is_file():
        raise StageError(
            f"torch: {file} is not a Python file; give one, or a folder with an __init__.py"
        )
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code  # dataclasses, and imports within a folder, look there
    try:
        with no_bytecode():
            spec.loader.exec_module(code)
    except ModuleNotFoundError as error:
        raise StageError(
            f"torch: {file}: no module named '{error.name}'; install it; or, if it is in the same "
            "folder, give that folder, with an __init__.py"
        ) from error
    return code


# ---- weights


def _load_weights(module: torch.nn.Module, file: Path) -> None:
    """Load a state dict into the module; raise StageError where it does not fit."""
    state_dict = _read_state_dict(file)
    try:
        module.load_state_dict(state_dict)
    except RuntimeError as error:
        raise StageError(
            f"torch: {file} does not fit the module: {_one_line(error)}; check model and arguments"
        ) from error


def _read_state_dict(file: Path) -> dict[str, Any]:
    """Return the tensors of a file by name, without the prefix of DataParallel."""
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile, struct and torch, depending on the file
        raise StageError(
            f"torch: {file} cannot be read as weights: {_one_line(error)}; "
            "save them with torch.save(model.state_dict(), FILE)"
        ) from error
    for key in STATE_DICT_KEYS:
        if isinstance(content, dict):
            content = content.get(key, content)
    is_state_dict = isinstance(content, dict) and all(
        isinstance(value, torch.Tensor) for value in content.values()
    )
    if not is_state_dict:
        raise StageError(
            f"torch: {file} holds no state dict; save it with torch.save(model.state_dict(), FILE)"
        )
    return {name.removeprefix(DATA_PARALLEL_PREFIX): value for name, value in content.items()}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]} ..."
