"""Files fed to an exported folder, without qpipe: the network gets what it was measured with."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import PIL
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import qpipe
from bare_python import run_alone
from qpipe.engine import stage_results
from qpipe.engine.portable_call import read_call, write_decoder
from qpipe.engine.scoring_record import POSTPROCESS, first_index, write_scoring
from qpipe.export.bundle import write_bundle
from qpipe.export.sample_handling import SampleHandling
from qpipe.recipe.stage_call import Call
from qpipe.samples.store import Samples
from qpipe.stages import registry
from qpipe.stages.registry import Registry
from qpipe.types import Build, Dataset
from qpipe_plugins.samples.coco import coco
from qpipe_plugins.samples.images import images
from qpipe_plugins.samples.npz import npz
from qpipe_plugins.samples.wav import wav

FACTS: Any = {"recipe": {"name": "net"}, "measured": {"scheme": "int8"}, "run": {"versions": {}}}
PICTURES = 20
SIDE = 16


# ---- pictures of every kind


def draw_pictures(folder: Path, count: int = PICTURES) -> list[Path]:
    """Pictures as cameras and programs write them: turned, grey, CMYK, 16 bits, palettes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(11)
    files = []
    for number in range(count):
        height, width = (int(side) for side in random.integers(17, 40, 2))
        coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        files.append(save_picture(picture, folder, number))
    return sorted(files)


def save_picture(picture: Image.Image, folder: Path, number: int) -> Path:
    kind = number % 7
    file = folder / (f"{number:02}.jpg" if kind < 3 else f"{number:02}.png")
    if kind == 0:
        picture.save(file, quality=90)
    elif kind == 1:
        exif = Image.Exif()
        exif[0x0112] = 2 + number % 7  # every orientation but upright
        picture.save(file, quality=90, exif=exif)
    elif kind == 2:
        picture.convert("CMYK").save(file, quality=90)
    elif kind == 3:
        deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257 - 100
        Image.fromarray(deep.astype(np.uint16)).save(file)
    elif kind == 4:
        picture.convert("L").save(file)
    elif kind == 5:
        picture.convert("P", palette=Image.Palette.ADAPTIVE).save(file, transparency=0)
    else:
        picture.save(file)
    return file


# ---- networks and their bundles


def constant(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(5).normal(0, 0.1, shape)
    return numpy_helper.from_array(values.astype(np.float32), name)


def save_network(
    folder: Path, shape: list[int], outputs: dict[str, list[int]], dtype: int = TensorProto.FLOAT
) -> Build:
    """A network with an output of each of these shapes: products of the input, with weights."""
    size = int(np.prod(shape))
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
    ]
    tensors = [numpy_helper.from_array(np.float32(1 / 64), "scale")]
    declared = []
    for name, output_shape in outputs.items():
        tensors.append(constant(f"{name}_weight", size, int(np.prod(output_shape))))
        tensors.append(numpy_helper.from_array(np.array(output_shape), f"{name}_shape"))
        nodes.append(helper.make_node("MatMul", ["flat", f"{name}_weight"], [f"{name}_row"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_row", f"{name}_shape"], [name]))
        declared.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape))
    x = helper.make_tensor_value_info("x", dtype, shape)
    graph = helper.make_graph(nodes, "net", [x], declared, tensors)
    opset = [helper.make_opsetid("", 17)]
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "net.onnx")
    return Build.write(
        folder, {"runtime": "onnxruntime", "runner": "r.py", "model": "net.onnx", "options": {}}
    )


def score_with(folder: Path, stages: Registry, options: dict[str, Any]) -> None:
    """What the accuracy stage leaves with its numbers; stages by kind and name."""
    postprocess, postprocess_options = options.get("postprocess", (None, {}))
    metric, metric_options = options.get("metric", ("topk", {}))
    chosen = {
        "postprocess": postprocess
        and Call(stages.stage("postprocess", postprocess), postprocess_options),
        "metric": [Call(stages.stage("metric", metric), metric_options)],
        "always": [],
    }
    folder.mkdir()
    write_scoring(folder, Call(stages.stage("measure", "accuracy"), chosen))


def export(
    folder: Path,
    stage: str,
    data: Dataset,
    build: Build,
    stages: Registry | None = None,
    **scoring: Any,
) -> tuple[Samples, Path]:
    """The evaluation samples as a run keeps them, and the exported folder."""
    samples = folder / "samples"
    samples.mkdir()
    stage_results.write("samples", data, samples)
    scores = folder / "scores"
    score_with(scores, stages or registry.load(), scoring)
    postprocess = scoring.get("postprocess")
    handling = SampleHandling(
        {"kind": "samples", "name": stage, "options": {}},
        samples / stage_results.DECODER,
        postprocess and {"kind": "postprocess", "name": postprocess[0], "options": {}},
        scores / POSTPROCESS,
        (),
        first_index(scores),
    )
    evaluation = Samples(samples / "evaluation")
    write_bundle(folder / "shipped", build, evaluation, FACTS, handling)
    return evaluation, folder / "shipped"


def open_session(build: Build) -> onnxruntime.InferenceSession:
    """Stock ONNX Runtime, on one thread as the example: more would add in another order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        build.folder / "net.onnx", options, providers=["CPUExecutionProvider"]
    )


def assert_fed_alike(folder: Path, evaluation: Samples, build: Build, source: Path) -> str:
    """Feed the files of all samples to the example; return what it prints."""
    before = sorted((folder / "shipped").rglob("*"))
    files = [source / sample.id for sample in evaluation]
    ended = run_alone(folder, folder / "shipped/example.py", "--save", "saved.npz", *files)
    assert (ended.returncode, ended.stderr) == (0, "")
    session = open_session(build)
    names = [output.name for output in session.get_outputs()]
    with np.load(folder / "saved.npz") as saved:
        for number in range(len(evaluation)):
            feeds = evaluation.feeds(number, ["x"])
            assert feeds["x"].dtype == saved[f"{number}/in/x"].dtype
            assert np.array_equal(feeds["x"], saved[f"{number}/in/x"]), evaluation[number].id
            for name, expected in zip(names, session.run(names, feeds), strict=True):
                assert np.array_equal(expected, saved[f"{number}/out/{name}"])
    assert sorted((folder / "shipped").rglob("*")) == before, "it is left as it was exported"
    return ended.stdout


def manifest_of(folder: Path) -> Any:
    return json.loads((folder / "shipped/manifest.json").read_text(encoding="utf-8"))


# ---- classifiers


@pytest.mark.parametrize(
    "options",
    [
        {"size": SIDE, "resize": 20, "mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]},
        {"size": (SIDE, 24), "crop": "none", "mean": 127.5, "std": 127.5, "layout": "NHWC"},
        {"size": SIDE, "mean": 0.0, "std": 1.0, "color_order": "BGR", "dtype": "uint8"},
    ],
    ids=["crop", "squeeze", "BGR uint8"],
)
def test_pictures_are_fed_as_they_were_measured(tmp_path: Path, options: dict[str, Any]) -> None:
    draw_pictures(tmp_path / "pictures" / "few", 3)
    draw_pictures(tmp_path / "pictures" / "many", PICTURES + 3)
    for number in range(3):  # not those of calibration
        (tmp_path / "pictures" / "many" / f"{number:02}.{'png' if number > 2 else 'jpg'}").unlink()
    source = tmp_path / "pictures" / "many"
    data = images(calibration=tmp_path / "pictures" / "few", evaluation=source, **options)
    is_bytes = options.get("dtype") == "uint8"
    height, width = options["size"] if isinstance(options["size"], tuple) else (SIDE, SIDE)
    shape = [1, height, width, 3] if options.get("layout") == "NHWC" else [1, 3, height, width]
    build = save_network(
        tmp_path / "build",
        shape,
        {"y": [1, 9]},
        TensorProto.UINT8 if is_bytes else TensorProto.FLOAT,
    )
    evaluation, _ = export(tmp_path, "images", data, build)
    assert len(evaluation) == PICTURES
    printed = assert_fed_alike(tmp_path, evaluation, build, source)
    assert printed.count("label") == 5 * PICTURES


def test_classes_are_named_by_the_offset_that_was_scored_with(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "few", 1)
    source = tmp_path / "many"
    for number, name in enumerate(("ant", "bee", "cat")):
        (source / name).mkdir(parents=True)
        Image.new("RGB", (SIDE, SIDE), (90 * number, 40, 200)).save(source / name / "1.png")
    data = images(calibration=tmp_path / "few", evaluation=source, size=SIDE, mean=0.0, std=255.0)
    build = save_network(tmp_path / "build", [1, 3, SIDE, SIDE], {"y": [1, 4]})
    evaluation, _ = export(
        tmp_path,
        "images",
        data,
        build,
        postprocess=("softmax", {"output": None, "axis": None}),
        metric=("topk", {"k": 1, "first": 1}),
    )
    printed = assert_fed_alike(tmp_path, evaluation, build, source).splitlines()
    session = open_session(build)
    (logits,) = session.run(None, evaluation.feeds(2, ["x"]))
    shares = np.exp(logits[0] - logits.max()) / np.exp(logits[0] - logits.max()).sum()
    names = ["score 0", "ant", "bee", "cat"]  # the first is that of no class
    expected = [f"  {shares[index]:.4f} {names[index]}" for index in np.argsort(-shares)]
    start = printed.index(str(source / "cat/1.png"))
    assert printed[start + 1 : start + 5] == expected
    postprocessing = manifest_of(tmp_path)["postprocessing"]
    assert postprocessing["first"] == 1
    assert postprocessing["call"]["options"] == {"output": None, "axis": None}


def test_the_manifest_holds_every_step_from_the_file_to_the_input(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "few", 1)
    draw_pictures(tmp_path / "many", 4)
    (tmp_path / "many/00.jpg").unlink()
    data = images(
        calibration=tmp_path / "few",
        evaluation=tmp_path / "many",
        size=SIDE,
        resize=20,
        mean=10.0,
        std=2.0,
        color_order="BGR",
    )
    build = save_network(tmp_path / "build", [1, 3, SIDE, SIDE], {"y": [1, 9]})
    export(tmp_path, "images", data, build)
    preprocessing = manifest_of(tmp_path)["preprocessing"]
    assert preprocessing["stage"]["name"] == "images"
    assert preprocessing["decode"]["options"] == {
        "size": [SIDE, SIDE],
        "fit": "crop",
        "short_side": 20,
        "color_order": "BGR",
        "resampling": "bilinear",
        "padding": 114,
        "orientation": "exif",
    }
    assert "EXIF" in preprocessing["decode"]["about"]
    fed = {"mean": [10.0], "std": [2.0], "layout": "NCHW", "dtype": "float32"}
    assert preprocessing["inputs"] == {"image": fed}


def test_a_file_that_is_no_picture_is_one_line_and_the_others_are_fed(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "few", 1)
    (picture, *_) = draw_pictures(tmp_path / "many", 2)
    picture.unlink()
    data = images(
        calibration=tmp_path / "few", evaluation=tmp_path / "many", size=SIDE, mean=0.0, std=1.0
    )
    build = save_network(tmp_path / "build", [1, 3, SIDE, SIDE], {"y": [1, 9]})
    export(tmp_path, "images", data, build)
    (tmp_path / "text.jpg").write_text("not a picture", encoding="utf-8")
    ended = run_alone(
        tmp_path, tmp_path / "shipped/example.py", "none.png", "text.jpg", "many/01.jpg"
    )
    assert ended.returncode == 1
    assert ended.stderr == "none.png: no such file\ntext.jpg: not an image\n"
    assert ended.stdout.startswith("many/01.jpg\n")


def test_another_version_of_pillow_is_told(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "few", 1)
    (_, picture) = draw_pictures(tmp_path / "many", 2)
    (tmp_path / "many/00.jpg").unlink()
    data = images(
        calibration=tmp_path / "few", evaluation=tmp_path / "many", size=SIDE, mean=0.0, std=1.0
    )
    build = save_network(tmp_path / "build", [1, 3, SIDE, SIDE], {"y": [1, 9]})
    export(tmp_path, "images", data, build)
    for measured, line in (
        (PIL.__version__, ""),
        ("9.1", f"Pillow is {PIL.__version__} here, and was 9.1; pixels may differ\n"),
    ):
        manifest = manifest_of(tmp_path)
        manifest["run"]["versions"]["pillow"] = measured
        (tmp_path / "shipped/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        fed = run_alone(tmp_path, tmp_path / "shipped/example.py", picture)
        assert (fed.returncode, fed.stderr) == (0, line)


# ---- detectors


@pytest.mark.parametrize(
    ("fit", "postprocess"),
    [
        ("letterbox", ("yolo_boxes", {"version": "v10", "size": (32, 32)})),
        ("stretch", ("ssd_boxes", {"size": 32, "strides": (16,), "scales": (0.3, 0.6)})),
    ],
)
def test_boxes_are_those_of_the_stage(
    tmp_path: Path, fit: Any, postprocess: tuple[str, dict[str, Any]]
) -> None:
    source = tmp_path / "pictures"
    files = draw_pictures(source, PICTURES + 1)
    sizes = {}
    for file in files:
        with Image.open(file) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5
            sizes[file.name] = picture.size[::-1] if turned else picture.size
    entries = [
        {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        for number, (name, size) in enumerate(sizes.items())
    ]
    boxes = [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 9, 9]}]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    content = {"images": entries, "categories": categories, "annotations": boxes}
    (tmp_path / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    data = coco(
        images=source,
        annotations=tmp_path / "boxes.json",
        size=32,
        mean=0.0,
        std=20.0,
        fit=fit,
        calibration_count=1,
    )
    is_yolo = postprocess[0] == "yolo_boxes"
    # 2 x 2 cells of 4 default boxes
    outputs = {"rows": [1, 12, 6]} if is_yolo else {"boxes": [1, 16, 4], "scores": [1, 16, 3]}
    build = save_network(tmp_path / "build", [1, 3, 32, 32], outputs)
    evaluation, _ = export(
        tmp_path, "coco", data, build, postprocess=postprocess, metric=("coco_map", {})
    )
    printed = assert_fed_alike(tmp_path, evaluation, build, source)
    stage = registry.load().stage("postprocess", postprocess[0]).function
    total = 0
    with np.load(tmp_path / "saved.npz") as saved:
        for number in range(PICTURES):
            raw = {name: saved[f"{number}/out/{name}"] for name in outputs}
            expected = stage(raw, **postprocess[1])
            total += int((expected["scores"] >= 0.3).sum())
            for name, values in expected.items():
                assert np.array_equal(values, saved[f"{number}/prediction/{name}"])
    assert total > 0
    assert printed.count(" of the input\n") == total


# ---- sound, arrays, anything else


def test_sounds_are_fed_as_they_were_measured(tmp_path: Path) -> None:
    import wave

    random = np.random.default_rng(2)
    for name in ("few/0", "many/1", "many/2"):
        file = tmp_path / f"{name}.wav"
        file.parent.mkdir(exist_ok=True)
        with wave.open(str(file), "wb") as sound:
            sound.setnchannels(2)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(random.integers(-9000, 9000, 2 * 3000, np.int16).tobytes())
    data = wav(
        calibration=tmp_path / "few",
        evaluation=tmp_path / "many",
        rate=8000,
        seconds=0.4,
        features="mfcc",
        n_fft=256,
        mels=20,
        layout="CTF",
        mean=-3.0,
        std=2.0,
    )
    build = save_network(tmp_path / "build", [1, 1, 19, 10], {"y": [1, 3, 5]})
    evaluation, _ = export(tmp_path, "wav", data, build)
    printed = assert_fed_alike(tmp_path, evaluation, build, tmp_path / "many")
    assert "y [1, 3, 5]: " in printed
    options = manifest_of(tmp_path)["preprocessing"]["decode"]["options"]
    assert (options["rate"], options["seconds"], options["fmax"]) == (8000, 0.4, 4000.0)


def test_arrays_are_fed_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for name in ("few/0", "many/1", "many/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / f"{name}.npz", x=random.normal(size=7).astype(np.float32), label=3)
    data = npz(calibration=tmp_path / "few", evaluation=tmp_path / "many", target="label")
    build = save_network(tmp_path / "build", [1, 7], {"y": [1, 3]})
    evaluation, _ = export(tmp_path, "npz", data, build)
    assert_fed_alike(tmp_path, evaluation, build, tmp_path / "many")
    np.savez(tmp_path / "other.npz", z=np.zeros(7, np.float32))
    ended = run_alone(tmp_path, tmp_path / "shipped/example.py", "other.npz")
    assert (ended.returncode, ended.stderr) == (
        1,
        "other.npz: npz: other.npz has no array 'x'; there is z\n",
    )


def test_a_postprocess_gets_the_files_that_its_options_name(tmp_path: Path) -> None:
    for name in ("few", "many"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "1.npz", x=np.arange(7, dtype=np.float32) * len(name))
    data = npz(calibration=tmp_path / "few", evaluation=tmp_path / "many")
    build = save_network(tmp_path / "build", [1, 7], {"frames": [1, 6, 4]})
    alphabet = tmp_path / "alphabet.txt"
    alphabet.write_text("a\nb\nc\n", encoding="utf-8")
    options = {"alphabet": None, "alphabet_file": alphabet, "blank": 0, "output": None}
    evaluation, _ = export(
        tmp_path,
        "npz",
        data,
        build,
        postprocess=("ctc_greedy", options),
        metric=("wer", {}),
    )
    alphabet.unlink()
    printed = assert_fed_alike(tmp_path, evaluation, build, tmp_path / "many").splitlines()
    (frames,) = open_session(build).run(None, evaluation.feeds(0, ["x"]))
    best = frames[0].argmax(axis=1)
    merged = [
        symbol for symbol, before in zip(best, [-1, *best[:-1]], strict=True) if symbol != before
    ]
    text = "".join("-abc"[symbol] for symbol in merged).replace("-", "")
    assert printed[1] == f"  {text!r}"
    assert text


def test_outputs_of_another_kind_are_saved_to_a_new_file(tmp_path: Path) -> None:
    for name in ("few", "many"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "1.npz", x=np.full(7, len(name), np.float32))
    data = npz(calibration=tmp_path / "few", evaluation=tmp_path / "many")
    build = save_network(tmp_path / "build", [1, 7], {"map": [1, 3, 2], "more": [1, 2]})
    export(tmp_path, "npz", data, build)
    for expected in ("outputs-1.npz", "outputs-2.npz"):
        ended = run_alone(tmp_path, tmp_path / "shipped/example.py", "many/1.npz")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.splitlines()[-1] == f"arrays are in {expected}"
    ended = run_alone(
        tmp_path, tmp_path / "shipped/example.py", "--save", "outputs-1.npz", "many/1.npz"
    )
    assert (ended.returncode, ended.stderr) == (1, "outputs-1.npz exists; give a new file\n")


# ---- stages of somebody else

OWN_DECODER = '''
"""Numbers in a text file."""
import numpy as np
{imports}

def decode(file, *, vocabulary, scale=2.0):
    """The lengths of the words that are in the vocabulary."""
    words = vocabulary.read_text(encoding="utf-8").split()
    lengths = [len(word) if word in words else 0 for word in file.read_text().split()]
    return {{"x": np.array(lengths, np.float32) * scale}}
'''


def own_stage(folder: Path, imports: str, name: str) -> Callable[[Path], Any]:
    """The function of a module that somebody wrote."""
    import importlib.util
    import sys

    (folder / f"{name}.py").write_text(OWN_DECODER.format(imports=imports), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    (folder / "vocabulary.txt").write_text("a list of words", encoding="utf-8")
    return partial(module.decode, vocabulary=folder / "vocabulary.txt")


def own_dataset(folder: Path, decode: Callable[[Path], Any] | None) -> Dataset:
    for name, text in (("1.txt", "a few words"), ("2.txt", "list of nothing")):
        (folder / name).write_text(text, encoding="utf-8")
    lengths = np.array([[2, 0, 10], [8, 4, 0]], np.float32)
    samples = [qpipe.Sample(f"{row + 1}.txt", {"x": lengths[row]}) for row in range(2)]
    return Dataset(samples[:1], samples[1:], {"x": qpipe.Preprocessing()}, (), decode)


def test_a_stage_of_somebody_else_is_handed_over_with_the_files_that_it_reads(
    tmp_path: Path,
) -> None:
    decode = own_stage(tmp_path, "from pathlib import Path", "own_decoder")
    data = own_dataset(tmp_path, decode)
    build = save_network(tmp_path / "build", [1, 3], {"y": [1, 2]})
    evaluation, shipped = export(tmp_path, "words", data, build)
    (tmp_path / "vocabulary.txt").unlink()
    assert_fed_alike(tmp_path, evaluation, build, tmp_path)
    decoded = manifest_of(tmp_path)["preprocessing"]["decode"]
    assert decoded["files"] == {"vocabulary": "files/decode/vocabulary/vocabulary.txt"}
    assert decoded["options"] == {"scale": 2.0}
    assert (shipped / "code/own_decoder.py").is_file()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({1: "one"}, "its option 'scale' is not JSON"),
        (np.float32(2), "its option 'scale' is not JSON"),
        (Path("/nowhere"), "its option 'scale' is /nowhere, which is not a file"),
    ],
)
def test_an_option_that_cannot_be_handed_over_is_named(
    tmp_path: Path, option: Any, reason: str
) -> None:
    decode = own_stage(tmp_path, "from pathlib import Path", "own_decoder")
    write_decoder(tmp_path / "decoder", partial(decode, scale=option))
    assert read_call(tmp_path / "decoder") == {"reason": reason}


@pytest.mark.parametrize(
    ("imports", "reason"),
    [
        (None, "its stage gives no function that decodes a file"),
        (
            "import onnx",
            "{module}.py imports onnx; it may import the standard library, numpy, Pillow, "
            "and own modules that import no more",
        ),
        (
            "import qpipe",
            "{module}.py imports qpipe itself; import names from their modules, "
            "such as qpipe.errors",
        ),
        ("import importlib", "{module}.py can run code that no import statement names"),
    ],
)
def test_a_stage_that_does_not_run_alone_says_so(
    tmp_path: Path, imports: str | None, reason: str
) -> None:
    module = f"decoder_{'none' if imports is None else imports.split()[-1]}"
    decode = None if imports is None else own_stage(tmp_path, imports, module)
    build = save_network(tmp_path / "build", [1, 3], {"y": [1, 2]})
    export(tmp_path, "words", own_dataset(tmp_path, decode), build)
    assert manifest_of(tmp_path)["preprocessing"]["decode"] == {
        "reason": reason.format(module=module)
    }


def test_the_example_says_why_files_cannot_be_fed(tmp_path: Path) -> None:
    build = save_network(tmp_path / "build", [1, 3], {"y": [1, 2]})
    export(tmp_path, "words", own_dataset(tmp_path, None), build)
    line = (
        "files cannot be fed as samples words did: its stage gives no function that decodes a file"
    )
    fed = run_alone(tmp_path, tmp_path / "shipped/example.py", "2.txt")
    assert (fed.returncode, fed.stdout, fed.stderr) == (1, "", f"{line}\n")
    proven = run_alone(tmp_path, tmp_path / "shipped/example.py")
    assert proven.returncode == 0
    assert proven.stdout.splitlines()[-1] == line


def test_what_is_no_function_of_a_module_says_so(tmp_path: Path) -> None:
    data = own_dataset(tmp_path, lambda file: {"x": np.zeros(3, np.float32)})
    build = save_network(tmp_path / "build", [1, 3], {"y": [1, 2]})
    export(tmp_path, "words", data, build)
    reason = manifest_of(tmp_path)["preprocessing"]["decode"]["reason"]
    assert reason.endswith("<lambda> is not a function of a module")


OWN_POSTPROCESS = '''
"""A postprocess of somebody else."""
import qpipe


def longest(outputs, *, floor: float = 0.5):
    """The largest output."""
    return {"text": str(max(outputs["y"].max(), floor))}


@qpipe.hookimpl
def register_stages(register):
    register("postprocess", longest)
'''


def test_a_postprocess_that_does_not_run_alone_is_left_out_and_named(tmp_path: Path) -> None:
    decode = own_stage(tmp_path, "from pathlib import Path", "own_words")
    build = save_network(tmp_path / "build", [1, 3], {"y": [1, 3]})
    (tmp_path / "own_postprocess.py").write_text(OWN_POSTPROCESS, encoding="utf-8")
    stages = registry.load([tmp_path / "own_postprocess.py"])
    evaluation, _ = export(
        tmp_path,
        "words",
        own_dataset(tmp_path, decode),
        build,
        stages,
        postprocess=("longest", {"floor": 0.5}),
    )
    fed = run_alone(tmp_path, tmp_path / "shipped/example.py", "2.txt")
    assert fed.returncode == 0
    assert fed.stderr.startswith("outputs are shown without postprocess longest: qpipe_file_own_")
    assert "imports qpipe itself" in fed.stderr
    session = open_session(build)
    (scores,) = session.run(None, evaluation.feeds(0, ["x"]))
    best = int(scores.argmax())
    assert fed.stdout.splitlines()[1] == f"  {scores.max():.4f} label {best}"
    assert manifest_of(tmp_path)["postprocessing"]["stage"]["name"] == "longest"
