"""Run the model as it was measured, on your own files, or on the golden samples.

    python example.py                         compare with the golden outputs
    python example.py FILE ...                print what the network predicts for each file
    python example.py --save OUT.npz FILE ... also save what it is fed, its outputs and predictions

A file is what the samples were read from: a picture, a sound, an .npz of one sample. It is decoded
and fed by the code, with the options, that the samples were measured with; manifest.json has them
all. Saved arrays are NUMBER/in/NAME, NUMBER/out/NAME and NUMBER/prediction/NAME, and files are
numbered from 0. It needs numpy and the runtime; for files Python 3.11, for pictures Pillow.
"""

from __future__ import annotations

import argparse
import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any, Callable, Mapping  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

FOLDER = Path(__file__).resolve().parent
TOP_CLASSES = 5
MIN_PRINTED_SCORE = 0.3  # detections below it are counted


def main() -> None:
    """Exit with status 1 where an output is not what was exported, or a file cannot be fed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--save", type=Path, metavar="OUT.npz", help="a new file for all arrays")
    options = parser.parse_args()
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    infer = runpy.run_path(str(FOLDER / "load.py"))["load"](FOLDER, manifest)
    if options.files:
        predict(options.files, manifest, infer, options.save)
    else:
        prove(manifest, infer)


# ---- the golden samples


def prove(manifest: Any, infer: Callable[[Any], Any]) -> None:
    """Run the golden samples; exit with status 1 where an output is not what was exported."""
    golden = np.load(FOLDER / "golden.npz")
    input_names = [declaration["name"] for declaration in manifest["inputs"]]
    for number, sample in enumerate(manifest["golden"]["samples"]):
        feeds = {name: golden[f"{number}/in/{name}"] for name in input_names}
        for name, output in infer_sample(infer, feeds, manifest).items():
            expected = golden[f"{number}/out/{name}"]
            deviation = relative_deviation(output, expected)
            line = f"{sample} {name} {list(output.shape)}: off by {100 * deviation:.3g} %"
            say(f"{line} of its span")
            if not deviation <= manifest["golden"]["tolerance"]:
                raise SystemExit(f"{name} of {sample} is not what was exported")
    reason = why_not_fed(manifest)
    if reason:
        say(reason)


def infer_sample(infer: Callable[[Any], Any], inputs: Any, manifest: Any) -> Any:
    """Return the outputs for a sample; of a network with states those of all chunks along axis 0.

    Inputs with an axis more than the network takes have their chunks along it; states go from one
    chunk to the next.
    """
    if not manifest["states"]:
        return infer(inputs)
    ranks = {declaration["name"]: len(declaration["shape"]) for declaration in manifest["inputs"]}
    in_chunks = [name for name, array in inputs.items() if array.ndim > ranks[name]]
    count = len(inputs[in_chunks[0]]) if in_chunks else 1
    feeds = dict(inputs)
    chunks: Any = {}
    for index in range(count):
        for name in in_chunks:
            feeds[name] = inputs[name][index]
        outputs = infer(feeds)
        for name, output in outputs.items():
            chunks.setdefault(name, []).append(output)
        for state, output_name in manifest["states"].items():
            feeds[state] = outputs[output_name]
    fed_back = set(manifest["states"].values())
    names = [name for name in chunks if name not in fed_back] or list(chunks)
    return {name: np.stack(chunks[name]) for name in names}


def relative_deviation(output: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest deviation of an output, as a part of the span of what is expected.

    Infinities must be where they were.
    """
    if output.shape != expected.shape:
        return float("inf")
    is_finite = np.isfinite(expected)
    if not np.array_equal(output[~is_finite], expected[~is_finite]):
        return float("inf")
    if not is_finite.any():
        return 0.0
    exact = expected[is_finite].astype(np.float64)
    span = max(np.ptp(exact), 1e-6)
    return float(np.abs(output[is_finite].astype(np.float64) - exact).max() / span)


# ---- files


def predict(files: Any, manifest: Any, infer: Callable[[Any], Any], save: Path | None) -> None:
    """Print the prediction for each file, and go on with the next where one cannot be fed."""
    reason = why_not_fed(manifest)
    if reason:
        raise SystemExit(reason)
    if save is not None and save.exists():
        raise SystemExit(f"{save} exists; give a new file")
    feed = input_reader(manifest)
    postprocess = postprocess_of(manifest)
    arrays: dict[str, Any] = {}
    failures = 0
    for number, file in enumerate(files):
        try:
            feeds = feed(file)
            outputs = infer_sample(infer, feeds, manifest)
            prediction = postprocess(outputs)
        except Exception as error:  # noqa: BLE001  (decoders raise any class on damaged files)
            failures += 1
            sys.stderr.write(f"{file}: {' '.join(str(error).split())}\n")
            continue
        for part, values in (("in", feeds), ("out", outputs), ("prediction", prediction)):
            for name, value in values.items():
                arrays[f"{number}/{part}/{name}"] = value
        lines = describe(prediction, manifest)
        if not lines:
            lines = [describe_value(name, value) for name, value in prediction.items()]
            save = save or new_file()
        say(str(file))
        for line in lines:
            say(f"  {line}")
    compare_pillow(manifest)
    if save is not None:
        save_arrays(save, arrays)
    if failures:
        raise SystemExit(1)


def compare_pillow(manifest: Any) -> None:
    """Write a line where pictures were decoded by another version of Pillow than in the run."""
    here = getattr(sys.modules.get("PIL"), "__version__", None)
    measured = manifest["run"]["versions"].get("pillow")
    if here and measured and here != measured:
        sys.stderr.write(f"Pillow is {here} here, and was {measured}; pixels may differ\n")


def save_arrays(file: Path, arrays: Any) -> None:
    """Write all values that are arrays of numbers or text."""
    plain: dict[str, Any] = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind in "biufcU":
            plain[name] = array
    with file.open("xb") as stream:
        np.savez(stream, **plain)
    say(f"arrays are in {file}")


def why_not_fed(manifest: Any) -> str:
    """Return why files cannot be fed; empty where they can."""
    preprocessing = manifest["preprocessing"]
    reason = preprocessing["decode"].get("reason")
    if not reason:
        return ""
    return f"files cannot be fed as samples {preprocessing['stage']['name']} did: {reason}"


def input_reader(manifest: Any) -> Callable[[Path], Any]:
    """Return the function from a file to what the network is fed for it."""
    decode = carried_function(manifest["preprocessing"]["decode"])
    module = importlib.import_module("qpipe.samples.sample_feeds")
    shapes = {declaration["name"]: declaration["shape"] for declaration in manifest["inputs"]}
    types = {declaration["name"]: numpy_type(declaration) for declaration in manifest["inputs"]}
    network = module.NetworkInputs(shapes, types, manifest["states"])

    def feed(file: Path) -> Any:
        if not file.is_file():
            raise ValueError("no such file")
        feeds = module.SampleFeeds(decode(file), manifest["preprocessing"]["inputs"], network)
        return {**feeds.constant, **feeds.sample_inputs()}

    return feed


def numpy_type(declaration: Any) -> str:
    """Return the name that numpy has for the type of an input."""
    name: str = declaration["type"].replace("tensor(", "").replace(")", "")
    return {"float": "float32", "double": "float64"}.get(name, name)


def postprocess_of(manifest: Any) -> Callable[[Any], Any]:
    """Return the function from outputs to a prediction; the outputs where it is not here."""
    postprocessing = manifest["postprocessing"]
    call = postprocessing["call"]
    if call is None:
        return dict
    if call.get("reason"):
        stage = postprocessing["stage"]["name"]
        line = f"outputs are shown without postprocess {stage}: {call['reason']}"
        sys.stderr.write(f"{line}\n")
        return dict
    function = carried_function(call)

    def predict_by_name(outputs: Any) -> Any:
        prediction = function(outputs)
        return prediction if isinstance(prediction, Mapping) else {"prediction": prediction}

    return predict_by_name


def carried_function(call: Any) -> Callable[[Any], Any]:
    """Return a function of the code in this folder, with the options that it was measured with."""
    code = str(FOLDER / "code")
    if code not in sys.path:
        sys.path.insert(0, code)
    sys.dont_write_bytecode = True  # this folder holds what was exported, and nothing else
    function = getattr(importlib.import_module(call["module"]), call["function"])
    options = dict(call["options"])
    for name, path in call["files"].items():
        options[name] = FOLDER / path
    return lambda value: function(value, **options)


def new_file() -> Path:
    """Return the name of a file that does not exist yet."""
    number = 1
    while Path(f"outputs-{number}.npz").exists():
        number += 1
    return Path(f"outputs-{number}.npz")


# ---- predictions in words


def describe(prediction: Any, manifest: Any) -> Any:
    """Return lines for boxes, text or classes; none for anything else."""
    classes = manifest["classes"]
    if "boxes" in prediction and "labels" in prediction and "scores" in prediction:
        return describe_boxes(prediction, classes)
    if isinstance(prediction.get("text"), str):
        return [repr(prediction["text"])]
    scores = np.asarray(next(iter(prediction.values()), ()))
    is_one_row = scores.size >= 2 and max(scores.shape) == scores.size
    if is_one_row and scores.dtype.kind == "f":
        return describe_classes(scores.reshape(-1), classes, manifest["postprocessing"]["first"])
    return []


def describe_boxes(prediction: Any, classes: Any) -> Any:
    """Return a line for each box that scores well, in pixels of the network's input."""
    lines = []
    scores = np.asarray(prediction["scores"])
    printed = np.flatnonzero(scores >= MIN_PRINTED_SCORE)
    for index in printed:
        x1, y1, x2, y2 = (float(corner) for corner in prediction["boxes"][index])
        name = class_name(int(prediction["labels"][index]), classes)
        box = f"x {x1:.1f} to {x2:.1f}, y {y1:.1f} to {y2:.1f} of the input"
        lines.append(f"{scores[index]:.4f} {name}: {box}")
    rest = len(scores) - len(printed)
    return [*lines, f"{rest} more boxes score below {MIN_PRINTED_SCORE:g}"]


def describe_classes(scores: np.ndarray, classes: Any, first: int | None) -> Any:
    """Return a line for each of the best classes."""
    lines = []
    for index in np.argsort(-scores, kind="stable")[:TOP_CLASSES]:
        name = f"score {index}"
        if first is not None and index >= first:
            name = class_name(int(index) - first, classes)
        lines.append(f"{scores[index]:.4f} {name}")
    return lines


def class_name(label: int, classes: Any) -> str:
    """Return the name of a label."""
    return str(classes[label]) if 0 <= label < len(classes) else f"label {label}"


def describe_value(name: str, value: Any) -> str:
    """Return the shape and the range of an array, or a value as it is."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not array.size:
        return f"{name} {list(array.shape)}: {str(value)[:200]}"
    return f"{name} {list(array.shape)}: {array.min():.6g} to {array.max():.6g}"


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
