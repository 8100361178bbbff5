"""`qpipe new`: what it sees in a network, the recipe it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

import networks
from qpipe.recipe import recipe
from qpipe.start import demo
from qpipe.start.network_facts import Tensor, read_network
from qpipe.start.network_family import guess_family
from qpipe.start.recipe_text import yaml_value
from shell import Shell

ROOT = Path(__file__).parents[2]
Shape = list[int | str]


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """The command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def network(
    file: Path,
    shape: Shape = [1, 3, 8, 8],  # noqa: B006
    classes: int = 5,
    *,
    dtype: int = TensorProto.FLOAT,
    last: str = "",
    first: str = "",
    name: str = "image",
    nhwc: bool = False,
) -> Path:
    """A convolution, pooling, a layer of scores: of an input of any rank above 2."""
    random = np.random.default_rng(3)
    channels = shape[-1] if nhwc else shape[1]
    assert isinstance(channels, int)
    nodes, value = [], name
    for operator in filter(
        None, ("Cast" if dtype != TensorProto.FLOAT else "", first, "Transpose" if nhwc else "")
    ):
        options: dict[str, Any] = {
            "Cast": {"to": TensorProto.FLOAT},
            "Transpose": {"perm": [0, 3, 1, 2]},
        }.get(operator, {})
        inputs = [value, "half"] if operator == first else [value]
        nodes.append(helper.make_node(operator, inputs, [f"{operator}_out"], **options))
        value = f"{operator}_out"
    nodes += [
        helper.make_node("Conv", [value, "filters"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Gemm", ["features", "weights"], ["logits" if last else "scores"]),
    ]
    if last:
        nodes.append(helper.make_node(last, ["logits"], ["scores"]))
    kernel = [3] * (len(shape) - 2)
    weights = {
        "filters": random.normal(0, 0.5, (4, channels, *kernel)).astype(np.float32),
        "weights": random.normal(0, 0.5, (4, classes)).astype(np.float32),
    }
    if first:
        weights["half"] = np.array(0.5, np.float32)
    taken = helper.make_tensor_value_info(name, dtype, shape)
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], classes])
    return save(file, nodes, [taken], [given], weights)


def save(
    file: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Mapping[str, Any]
) -> Path:
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file
    )
    return file


def pictures(folder: Path, count: int, side: int = 8) -> Path:
    random = np.random.default_rng(len(str(folder)))
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(random.integers(0, 255, (side, side, 3), np.uint8)).save(
            folder / f"{number}.png"
        )
    return folder


def sounds(folder: Path, count: int, rate: int = 800, length: int = 400) -> Path:
    random = np.random.default_rng(len(str(folder)))
    folder.mkdir(parents=True)
    for number in range(count):
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(random.integers(-9999, 9999, length, np.int16).tobytes())
    return folder


def written(file: str = "recipe.yaml") -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return content


def samples_of(file: str = "recipe.yaml") -> dict[str, Any]:
    ((_, options),) = written(file)["samples"].items()
    return dict(options)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---- the recipe


def test_it_can_be_planned_as_it_stands(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx")
    pictures(tmp_path / "data" / "calibration", 3)
    pictures(tmp_path / "data" / "evaluation", 5)
    qpipe("new net.onnx --samples images:data")
    planned = json.loads(qpipe("plan recipe.yaml --json")[0])
    schemes = {"float32", "int8-tensor", "int8-channel", "int8-equalized", "log4", "onnxruntime"}
    assert {step["scheme"] for step in planned if step["kind"] == "compile"} == schemes
    assert written()["schemes"]["int8-equalized"][-1] == "correct_bias"


@pytest.mark.slow
def test_it_runs_as_it_stands(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx")
    for part, count in (("calibration", 3), ("evaluation", 4)):
        for label in "abcde":
            pictures(tmp_path / "data" / part / label, count)
    qpipe("new net.onnx --samples images:data")
    rows = json.loads(qpipe("run recipe.yaml --smoke --only int8-tensor --json")[0])["rows"]
    assert {row["scheme"] for row in rows} == {"float32", "int8-tensor"}
    assert all(
        {"latency_ms", "size_mb", "agreement", "top1"} <= row["metrics"].keys() for row in rows
    )


def test_everything_in_it_has_a_comment_where_nobody_but_the_user_knows(
    qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx")
    pictures(tmp_path / "data", 6)
    out, _ = qpipe("new net.onnx --samples images:data")
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    assert "    # CHECK: the file does not tell how pixels are scaled" in text
    assert "    # CHECK: BGR for networks from OpenCV and Caffe\n    color_order: RGB\n" in text
    assert "marked CHECK: mean, color_order\n" in out
    assert "next: qpipe samples recipe.yaml" in out


def test_what_is_given_is_not_asked_for_again(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", ["n", 3, "h", "w"])
    pictures(tmp_path / "data", 6)
    given = "--size 12x12 --mean 1,2,3 --std 4.5 --calibration-count 2 --evaluation-count 3"
    qpipe(f"new net.onnx --samples images:data {given}")
    content, options = written(), samples_of()
    assert (options["size"], options["mean"], options["std"]) == (12, [1.0, 2.0, 3.0], 4.5)
    assert content["variables"] == {"calibration_count": 2, "evaluation_count": 3}
    assert content["models"]["net"]["onnx"]["shapes"] == {"image": [1, 3, 12, 12]}
    assert "how pixels are scaled" not in Path("recipe.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            {"classes": 1000},
            {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "layout": "NCHW"},
        ),
        ({"classes": 1001}, {"mean": 127.5, "std": 127.5}),
        ({"shape": [1, 8, 8, 3], "nhwc": True}, {"mean": 127.5, "std": 127.5, "layout": "NHWC"}),
        ({"shape": [1, 1, 8, 8]}, {"mean": 0, "std": 255, "color_order": "grey"}),
        ({"dtype": TensorProto.UINT8}, {"mean": 0, "std": 1, "dtype": "uint8"}),
        ({"first": "Sub"}, {"mean": 0, "std": 1}),
        ({"shape": ["n", 3, 8, 8]}, {"size": 8}),
        ({"shape": [2, 3, 8, 12]}, {"size": [8, 12], "crop": "none"}),
    ],
)
def test_pictures_are_fed_as_is_the_commonest_for_the_family(
    options: dict[str, Any], wanted: dict[str, Any], qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx", **options)
    pictures(tmp_path / "data", 6)
    out, _ = qpipe("new net.onnx --samples images:data")
    assert wanted.items() <= samples_of().items()
    assert "cannot be fed" not in out


def test_paths_are_relative_to_the_recipe(qpipe: Shell, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    network(tmp_path / "net.onnx")
    pictures(tmp_path / "data", 6)
    qpipe(
        f"new {tmp_path / 'net.onnx'} --samples images:{tmp_path / 'data'} --out recipes/mine.yaml"
    )
    assert written("recipes/mine.yaml")["models"]["net"]["onnx"]["path"] == "../net.onnx"
    assert samples_of("recipes/mine.yaml")["evaluation"] == "../data"


def test_a_device_that_no_inventory_has_is_told_with_its_line(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx")
    pictures(tmp_path / "data", 6)
    (tmp_path / "devices.yaml").write_text("rack: 'null'\n", encoding="utf-8")
    out, _ = qpipe("new net.onnx --samples images:data --device rack --device desk")
    assert (
        "there is no device 'desk' yet; put it into devices.yaml beside the recipe:\n  desk: {ssh: {host: ADDRESS"
        in out
    )
    assert "no device 'rack'" not in out
    assert written()["devices"] == ["rack", "desk"]


# ---- samples


def test_one_folder_is_split_and_no_picture_is_in_both_parts(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx")
    pictures(tmp_path / "data", 9)
    qpipe("new net.onnx --samples images:data")
    assert written()["variables"] == {"calibration_count": 3, "evaluation_count": 6}
    call = recipe.load(Path("recipe.yaml"))[0].samples
    made = call.stage.function(**call.resolved())
    parts = [{sample.id for sample in part} for part in (made.calibration, made.evaluation)]
    assert [len(part) for part in parts] == [3, 6]
    assert not parts[0] & parts[1]


@pytest.mark.parametrize(
    "names", [("calibration", "evaluation"), ("train", "val"), ("val", "test")]
)
def test_folders_of_the_usual_names_are_the_parts(
    names: tuple[str, str], qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx")
    for name in names:
        pictures(tmp_path / "data" / name, 3)
    qpipe("new net.onnx --samples images:data")
    options = samples_of()
    assert (options["calibration"], options["evaluation"]) == (
        f"data/{names[0]}",
        f"data/{names[1]}",
    )


@pytest.mark.parametrize(
    ("classes", "labels", "metric"),
    [
        (5, [0, 4, 2], "topk"),
        (5, [1, 5, 2], {"topk": {"first": -1}}),  # they count from 1
        (5, [0, 5, 2], None),
        (1001, [0, 999, 7], {"topk": {"first": 1}}),
        (5, ["a", "b", "c"], None),
        (3, ["a", "b", "c"], "topk"),
    ],
)
def test_labels_score_where_they_can_be_the_networks_classes(
    classes: int, labels: list[Any], metric: Any, qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx", classes=classes)
    pictures(tmp_path / "data" / "calibration", 2)
    pictures(tmp_path / "data" / "evaluation", 3)
    rows = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    (tmp_path / "truth.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    out, _ = qpipe("new net.onnx --samples images:data --labels truth.csv")
    assert samples_of()["evaluation_labels"] == "truth.csv"
    accuracy = next(m for m in written()["measure"] if m == "accuracy" or "accuracy" in m)
    assert accuracy == ({"accuracy": {"metric": [metric]}} if metric else "accuracy")
    assert ("fed as " in out) == bool(metric)
    goal = "top1" if metric else "agreement"
    assert list(written()["pareto"]) == ["latency_ms", goal, "size_mb", "memory_mb"]
    keep = f"must be shown to lose at most so many points of {goal} against float: {1 if metric else 2} by default"
    assert f"{keep}\n# keep: {1 if metric else 2}\n" in Path("recipe.yaml").read_text("utf-8")


def test_labels_that_lie_beside_the_evaluation_folder_are_found(
    qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx")
    for name in ("calibration", "evaluation"):
        pictures(tmp_path / "data" / name, 2)
    (tmp_path / "data" / "evaluation.csv").write_text(
        "file,label\n0.png,1\n1.png,2\n", encoding="utf-8"
    )
    qpipe("new net.onnx --samples images:data")
    assert samples_of()["evaluation_labels"] == "data/evaluation.csv"


def test_open_dimensions_of_tokens_are_those_of_the_samples(qpipe: Shell, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("MatMul", ["words", "weights"], ["mixed"]),
        helper.make_node("Mul", ["mixed", "mask"], ["tags"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "words"]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", "words", 1]),
    ]
    outputs = [helper.make_tensor_value_info("tags", TensorProto.FLOAT, ["n", "words", 6])]
    random = np.random.default_rng(0)
    weights = {"table": random.normal(size=(20, 8)), "weights": random.normal(size=(8, 6))}
    save(
        tmp_path / "net.onnx",
        nodes,
        inputs,
        outputs,
        {n: a.astype(np.float32) for n, a in weights.items()},
    )
    (tmp_path / "data").mkdir()
    for name, count in (("calibration", 2), ("evaluation", 3)):
        mask = np.ones((count, 11, 1), np.float32)
        np.savez(
            tmp_path / "data" / f"{name}.npz", ids=random.integers(0, 20, (count, 11)), mask=mask
        )
    qpipe("new net.onnx --samples npz:data")
    assert written()["models"]["net"]["onnx"]["shapes"] == {"ids": [1, 11], "mask": [1, 11, 1]}
    assert written()["measure"][1] == {"accuracy": {"always": ["sqnr"]}}, (
        "which axis is that of the classes?"
    )
    assert "sqnr_db" in written()["pareto"]


def test_open_height_and_width_are_those_of_arrays(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", ["n", 3, "height", "width"])
    (tmp_path / "data").mkdir()
    for name in ("calibration", "evaluation"):
        arrays = np.random.default_rng(len(name)).normal(size=(4, 3, 12, 20)).astype(np.float32)
        np.savez(tmp_path / "data" / f"{name}.npz", image=arrays)
    qpipe("new net.onnx --samples npz:data")
    assert written()["models"]["net"]["onnx"]["shapes"] == {"image": [1, 3, 12, 20]}


def test_sound_is_fed_at_the_rate_and_length_of_its_files(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", ["n", 1, "time"], 2)
    for part in ("train", "val"):
        for label in ("no", "yes"):
            sounds(tmp_path / "data" / part / label, 3)
    out, _ = qpipe("new net.onnx --samples wav:data")
    assert {"rate": 800, "seconds": 0.5, "layout": "CT"}.items() <= samples_of().items()
    assert written()["models"]["net"]["onnx"]["shapes"] == {"image": [1, 1, 400]}
    assert "top1" in out
    assert "the order of their names, which must be that of the network" in Path(
        "recipe.yaml"
    ).read_text("utf-8")


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ([1, 1, 49, 40], {"features": "log_mel", "mels": 40, "layout": "CTF"}),
        ([1, 1, 40, 101], {"features": "log_mel", "mels": 40, "layout": "CFT"}),
        ([1, 49, 10], {"features": "mfcc", "coefficients": 10, "layout": "TF"}),
    ],
)
def test_features_of_sound_are_as_many_as_the_network_takes(
    shape: Shape, wanted: dict[str, Any], qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx", shape, 2)
    sounds(tmp_path / "data", 6, 16000, 16000)
    qpipe("new net.onnx --samples wav:data")
    assert {**wanted, "rate": 16000, "hop": 160}.items() <= samples_of().items()


def test_an_array_called_label_is_the_target(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", [1, 2, 16])
    random = np.random.default_rng(5)
    for name, count in (("train", 4), ("val", 6)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(count):
            signal = random.normal(size=(2, 16)).astype(np.float32)
            np.savez(
                tmp_path / "data" / name / f"{number}.npz",
                signal=signal,
                label=np.int64(number % 5),
            )
    out, _ = qpipe("new net.onnx --samples npz:data")
    assert samples_of() == {
        "calibration": "data/train",
        "evaluation": "data/val",
        "target": "label",
    }
    assert "top1" in out


def test_annotated_pictures_score_a_detector_by_their_boxes(qpipe: Shell, tmp_path: Path) -> None:
    yolo(tmp_path / "net.onnx", 64, 7)
    pictures(tmp_path / "data" / "val2017", 6, 32)
    images = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 32} for n in range(6)]
    boxes = [{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 8, 9], "iscrowd": 0}]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "cup"}]}
    (tmp_path / "data" / "annotations").mkdir()
    (tmp_path / "data" / "annotations" / "instances_val2017.json").write_text(
        json.dumps(content), encoding="utf-8"
    )
    qpipe("new net.onnx --samples coco:data")
    options = samples_of()
    assert {
        "images": "data/val2017",
        "size": 64,
        "fit": "letterbox",
        "mean": 0,
        "std": 255,
    }.items() <= options.items()
    assert options["annotations"] == "data/annotations/instances_val2017.json"
    accuracy = written()["measure"][1]["accuracy"]
    assert accuracy == {
        "postprocess": {"yolo_boxes": {"version": "v8", "output": "table"}},
        "metric": ["coco_map"],
    }
    assert written()["pareto"] == {
        "latency_ms": "min",
        "map50": "max",
        "size_mb": "min",
        "memory_mb": "min",
    }


@pytest.mark.parametrize(
    "annotations",
    [
        "evaluation/instances.json",
        "evaluation.json",
        "annotations/instances_evaluation.json",
        "boxes.json",
    ],
)
def test_annotated_pictures_lie_in_folders_of_the_two_parts(
    annotations: str, qpipe: Shell, tmp_path: Path
) -> None:
    yolo(tmp_path / "net.onnx", 64, 7)
    for part, count in (("calibration", 3), ("evaluation", 5)):
        pictures(tmp_path / "data" / part, count, 32)
    images = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 32} for n in range(5)]
    content = {"images": images, "annotations": [], "categories": [{"id": 3, "name": "cup"}]}
    file = tmp_path / "data" / annotations
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    qpipe("new net.onnx --samples coco:data")
    paths = {
        "images": "data/evaluation",
        "calibration": "data/calibration",
        "annotations": f"data/{annotations}",
    }
    assert paths.items() <= samples_of().items()
    assert written()["variables"]["evaluation_count"] == 5, "none is taken for calibration"


def yolo(file: Path, side: int, classes: int) -> Path:
    """One table of boxes [1, 4 + classes, cells] of strides 8, 16 and 32."""
    cells = sum((side // stride) ** 2 for stride in (8, 16, 32))
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights"], ["row"]),
        helper.make_node("Reshape", ["row", "shape"], ["table"]),
    ]
    random = np.random.default_rng(1)
    weights = {
        "weights": random.uniform(0, 1, (3, (4 + classes) * cells)).astype(np.float32),
        "shape": np.array([1, 4 + classes, cells]),
    }
    taken = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])
    given = helper.make_tensor_value_info("table", TensorProto.FLOAT, [1, 4 + classes, cells])
    return save(file, nodes, [taken], [given], weights)


def test_a_postprocess_that_does_not_fit_is_left_out_with_its_reason(
    qpipe: Shell, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
    ]
    weights, outputs = {}, []
    for name, columns in (("boxes", 4), ("scores", 3)):
        nodes.append(helper.make_node("Gemm", ["flat", f"{name}_weights"], [f"{name}_row"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_row", f"{name}_shape"], [name]))
        weights[f"{name}_weights"] = random.normal(size=(3, 30 * columns)).astype(np.float32)
        weights[f"{name}_shape"] = np.array([1, 30, columns])
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 30, columns]))
    taken = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])
    save(tmp_path / "net.onnx", nodes, [taken], outputs, weights)
    pictures(tmp_path / "data", 6)
    out, _ = qpipe("new net.onnx --samples images:data")
    assert (
        "looks like  a detector like SSD: 30 boxes in 'boxes', scores of 3 classes in 'scores'"
        in out
    )
    assert "default boxes" in out, "why ssd_boxes does not decode them"
    assert written()["measure"][1] in ("accuracy", {"accuracy": {"always": ["sqnr"]}})


def test_the_shipped_detector_is_recognised(qpipe: Shell, tmp_path: Path) -> None:
    pictures(tmp_path / "data", 4)
    qpipe(f"new {ROOT / 'recipes/models/mobilenet_ssd.onnx'} --samples images:data")
    decoder = {"ssd_boxes": {"size": 192, "boxes": "boxes", "scores": "scores"}}
    assert written()["measure"][1] == {"accuracy": {"postprocess": decoder}}
    assert {
        "size": 192,
        "crop": "none",
        "mean": 127.5,
        "std": 127.5,
    }.items() <= samples_of().items()


def strided(file: Path) -> Path:
    """A network of open height and width that takes multiples of 8: it halves thrice, and comes back."""
    random = np.random.default_rng(3)
    filters = random.normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32)
    weights = {
        "filters": filters,
        "down": random.normal(0, 0.5, (4, 4, 8, 8)).astype(np.float32),
        "up": random.normal(0, 0.5, (4, 4, 8, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["maps", "down"], ["small"], strides=[8, 8]),
        helper.make_node("ConvTranspose", ["small", "up"], ["large"], strides=[8, 8]),
        helper.make_node("Add", ["maps", "large"], ["scores"]),
    ]
    open_sides: Shape = ["n", 3, "height", "width"]
    taken = helper.make_tensor_value_info("image", TensorProto.FLOAT, open_sides)
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4, "height", "width"])
    return save(file, nodes, [taken], [given], weights)


@pytest.mark.parametrize(
    ("sides", "shape"),
    [
        ((72, 72), [1, 3, 72, 72]),
        ((70, 70), [1, 3, 96, 96]),  # the network does not run on 70, nor would it on 71
        ((70, 72), [1, 3, 224, 224]),  # they differ
        ((1400, 1400), [1, 3, 224, 224]),  # photographs
    ],
)
def test_open_height_and_width_are_those_of_the_pictures_where_these_agree(
    sides: tuple[int, int], shape: list[int], qpipe: Shell, tmp_path: Path
) -> None:
    strided(tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    for number in range(4):
        side = sides[number % 2]
        Image.new("RGB", (side, side), (number, 9, 9)).save(tmp_path / "data" / f"{number}.png")
    out, _ = qpipe("new net.onnx --samples images:data")
    assert written()["models"]["net"]["onnx"]["shapes"] == {"image": shape}
    assert "cannot be fed" not in out


def lengths(folder: Path) -> None:
    """Arrays of eight rows and of several lengths."""
    random = np.random.default_rng(1)
    for part in ("calibration", "evaluation"):
        (folder / part).mkdir(parents=True)
        for number, length in enumerate((20, 31, 25)):
            array = random.normal(size=(8, length)).astype(np.float32)
            np.savez(folder / part / f"{number}.npz", x=array)


def test_lengths_that_differ_by_sample_stay_open(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", ["n", 8, "time"], 5, name="x")
    lengths(tmp_path / "data")
    out, _ = qpipe("new net.onnx --samples npz:data")
    assert written()["models"]["net"]["onnx"]["shapes"] == {"x": [1, 8, "time"]}
    assert "pinned to [1, 8, time]" in out
    assert "8 bits      outputs at" in out


def test_a_first_axis_of_time_has_the_length_of_the_samples(qpipe: Shell, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[time, 1, 4] x) => (float[time, 1, 3] y) <float[4, 3] w = {WEIGHTS}> { y = MatMul (x, w) }"""
    weights = ", ".join(map(str, np.linspace(-1, 1, 12)))
    onnx.save(onnx.parser.parse_model(text.replace("WEIGHTS", weights)), tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    for name, count in (("calibration", 2), ("evaluation", 3)):
        arrays = np.random.default_rng(count).normal(size=(count, 7, 1, 4)).astype(np.float32)
        np.savez(tmp_path / "data" / f"{name}.npz", x=arrays)
    out, _ = qpipe("new net.onnx --samples npz:data")
    assert written()["models"]["net"]["onnx"]["shapes"] == {"x": [7, 1, 4]}
    assert "8 bits      outputs at" in out


def test_lengths_that_the_network_fixes_are_told_in_a_line(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", ["n", 8, 20], 5, name="x")
    lengths(tmp_path / "data")
    out, _ = qpipe("new net.onnx --samples npz:data")
    assert (
        "cannot be fed with the samples yet: the samples differ in size: sample '1.npz' gives "
        in out
    )


# ---- what is seen


def test_it_tells_what_it_saw(qpipe: Shell, tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", ["batch", 3, 8, 8], 1000, last="Softmax")
    pictures(tmp_path / "data", 6)
    out, _ = qpipe("new net.onnx --samples images:data")
    told = {line.partition(" ")[0]: line for line in out.splitlines()}
    size = (tmp_path / "net.onnx").stat().st_size
    assert told["file"].split() == f"file net.onnx: {size / 1e6:.2f} MB".split()
    assert told["versions"].split() == ["versions", "opset", "17,", "IR", "8"]
    assert (
        told["input"].partition(" ")[2].strip() == "image float32 [batch, 3, 8, 8], images as NCHW"
    )
    assert told["parameters"].split()[1] == f"{4 * 3 * 3 * 3 + 4 * 1000:,}"
    assert "a classifier of 1000 classes, as ImageNet's, giving probabilities" in out
    assert "1 Conv" in told["operators"]
    assert "1 Conv" in told["integer"]
    assert "Softmax" in told["float"]
    assert "\nint8 work   100 % of the multiplications" in out
    assert "times as long as float on this machine" in told["int8"]


@pytest.mark.parametrize(
    ("outputs", "size", "name", "postprocess"),
    [
        ({"y": (1, 10)}, (32, 32), "classifier", {}),
        ({"y": (1, 10, 1, 1)}, (32, 32), "classifier", {}),
        ({"b": (1, 70, 4), "s": (1, 70, 9)}, (64, 64), "ssd",
         {"ssd_boxes": {"size": 64, "boxes": "b", "scores": "s"}}),
        ({"y": (1, 84, 8400)}, (640, 640), "yolo", {"yolo_boxes": {"version": "v8", "output": "y"}}),
        ({"y": (1, 25200, 85)}, (640, 640), "yolo", {"yolo_boxes": {"version": "v5", "output": "y"}}),
        ({"y": (1, 6300, 85)}, (320, 320), "yolo", {"yolo_boxes": {"version": "v5", "output": "y"}}),
        ({"y": (1, 300, 6)}, (640, 640), "yolo", {"yolo_boxes": {"version": "v10", "output": "y"}}),
        # a row for each cell of the strides 8, 16 and 32: offsets, not corners
        ({"y": (1, 3549, 6)}, (416, 416), "unknown", {}),
        ({"y": (1, 189, 6)}, (96, 96), "unknown", {}),
        ({"y": (1, 8400, 85)}, (640, 640), "unknown", {}),
        ({"y": (1, 1000, 6)}, (640, 640), "sequence", {}),
        ({"y": (1, 26, 37)}, (32, 100), "sequence", {}),
        ({"y": (1, 19, 32, 32)}, (64, 64), "maps", {}),
        ({"y": (1, 3, 5, 7, 2)}, (64, 64), "unknown", {}),
        ({"y": ("?", 4), "s": ("?",)}, (64, 64), "detections", {}),
    ],
)  # fmt: skip
def test_families_are_told_by_the_shapes_of_outputs(
    outputs: dict[str, Any], size: tuple[int, int], name: str, postprocess: dict[str, Any]
) -> None:
    tensors = [Tensor(each, "float32", shape) for each, shape in outputs.items()]
    found = guess_family([Tensor("x", "float32", (1, 3, *size))], tensors, {}, size)
    assert (found.name, found.postprocess) == (name, postprocess)


def test_three_raw_heads_are_yolo_with_anchors() -> None:
    heads = [
        Tensor(f"h{stride}", "float32", (1, 3 * 85, 640 // stride, 640 // stride))
        for stride in (8, 16, 32)
    ]
    found = guess_family([Tensor("x", "float32", (1, 3, 640, 640))], heads, {}, (640, 640))
    (options,) = found.postprocess.values()
    assert (found.classes, len(options["anchors"])) == (80, 3)


def test_a_network_that_is_quantized_already_is_told_so(qpipe: Shell, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["back"]),
        helper.make_node("Relu", ["back"], ["y"]),
    ]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6]) for name in "xy"]
    weights = {"step": np.array(0.1, np.float32), "zero": np.array(0, np.uint8)}
    save(tmp_path / "net.onnx", nodes, given[:1], given[1:], weights)
    (tmp_path / "data").mkdir()
    for name, seed in (("calibration", 0), ("evaluation", 1)):
        np.savez(
            tmp_path / "data" / f"{name}.npz",
            x=np.random.default_rng(seed).normal(size=(3, 6)).astype(np.float32),
        )
    out, _ = qpipe("new net.onnx --samples npz:data")
    assert "quantized   already" in out


def test_weights_beside_the_file_count_to_its_size(tmp_path: Path) -> None:
    file = network(tmp_path / "net.onnx", classes=1000)
    onnx.save(
        onnx.load(file), file, save_as_external_data=True, location="net.data", size_threshold=0
    )
    seen = read_network(file)
    assert seen.size == file.stat().st_size + (tmp_path / "net.data").stat().st_size
    assert seen.parameters == 4 * 3 * 3 * 3 + 4 * 1000


# ---- what must not happen


def test_names_of_files_and_tensors_stay_names(qpipe: Shell, tmp_path: Path) -> None:
    evil = "x\nmodels: {}\n# ' \" {"
    network(tmp_path / "..a b'c: {d}.onnx", ["n", 3, "h", "w"], name=evil)
    pictures(tmp_path / "p #1", 6)
    qpipe("""new "..a b'c: {d}.onnx" --samples "images:p #1" --size 8""")
    content = written()
    assert content["name"] == "a_b_c_d"
    assert content["models"]["a_b_c_d"]["onnx"]["shapes"] == {evil: [1, 3, 8, 8]}
    assert samples_of()["evaluation"] == "p #1"
    qpipe("plan recipe.yaml")


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "a b",
        "-x",
        "yes",
        "1",
        "",
        ": #",
        "a\nb",
        "\x85\u2028",
        "'\"",
        "\U0001f600",
        [1, "x"],
        None,
    ],
)
def test_a_value_in_a_recipe_reads_back_as_it_was(value: Any) -> None:
    text = yaml_value(value)
    assert "\n" not in text
    assert yaml.safe_load(f"a: {{b: {text}}}") == {"a": {"b": value}} or yaml.safe_load(
        f"a: {text}"
    ) == {"a": value}


def test_an_old_recipe_is_replaced_only_by_force_and_only_by_one_that_is_whole(
    qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx")
    pictures(tmp_path / "data", 6)
    (tmp_path / "recipe.yaml").write_text("mine", encoding="utf-8")
    _, err = qpipe("new net.onnx --samples images:data", 2)
    assert (
        err == "qpipe: recipe.yaml: exists already; give another --out, or --force to replace it\n"
    )
    qpipe("new net.onnx --samples images:data --force --device ../x", 2)
    (tmp_path / "data" / "0.png").write_bytes(b"")
    qpipe("new net.onnx --samples images:data --force", 1)
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == "mine"
    (tmp_path / "data" / "0.png").unlink()
    before = everything(tmp_path)
    qpipe("new net.onnx --samples images:data --force")
    assert written()["name"] == "net"
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("net.onnx", "--samples is missing; give the samples to calibrate and evaluate on: images:PATH, coco:PATH, npz:PATH, "
         "wav:PATH"),
        ("no.onnx --samples images:data", "no.onnx: no such file; give an ONNX file"),
        ("data/0.png --samples images:data", "data/0.png: not an ONNX file, or cut short; export or copy it again"),
        ("net.onnx --samples data", "--samples data: no kind of samples; write one of images:PATH, coco:PATH, "
         "npz:PATH, wav:PATH"),
        ("net.onnx --samples images:no", "--samples images:no: no such file or folder; give the path of your samples"),
        ("net.onnx --samples images:net.onnx", "--samples images:net.onnx: a file; give the folder of your images"),
        ("net.onnx --samples wav:data", "--samples wav:data: no wav in data; put some there"),
        ("net.onnx --samples npz:data", "--samples npz:data: which are for calibration, which for evaluation? give a "
         "folder with calibration.npz and evaluation.npz, or with folders of these names that hold one .npz a sample"),
        ("net.onnx --samples coco:data", "--samples coco:data: no annotations; put instances_val.json there, or give "
         "its path"),
        ("net.onnx --samples coco:data/0.png", "--samples coco:data/0.png: no COCO annotations; give COCO's instances "
         "as JSON, with images, annotations, categories"),
        ("net.onnx --samples images:data --labels no.csv", "--labels no.csv: no such file; give a CSV with the columns "
         "file,label"),
        ("net.onnx --samples images:data --size 9", "--size 9x9: the network takes 8x8; leave --size out"),
        ("net.onnx --samples images:data --size big", "--size big: not a size; give pixels, or HEIGHTxWIDTH, such as 224 or "
         "320x640"),
        ("net.onnx --samples images:data --std 0", "--std 0: not a valid std; give one number, or three such as 123.7,116.3,103.5"),
        ("net.onnx --samples images:data --out no/r.yaml", "--out no/r.yaml: there is no folder no; give the path of a "
         "new file in a folder that exists"),
        ("net.onnx --samples images:data --out data", "--out data: is a folder; give the path of a new file in a "
         "folder that exists"),
        ("net.onnx --samples images:data --device a/b", "--device: device name 'a/b' is not allowed; use letters, "
         "digits, '.', '_' and '-'"),
        ("vector.onnx --samples images:data", "--samples images: the network takes x float32 [1, 6], which are no "
         "pictures; give --samples npz:DIR with arrays as the network takes them"),
        ("'${x}.onnx' --samples images:data", "${x}.onnx: '${' begins a variable in a recipe; rename it"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    line: str, message: str, qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx")
    network(tmp_path / "${x}.onnx")
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6]) for name in "xy"]
    save(
        tmp_path / "vector.onnx", [helper.make_node("Relu", ["x"], ["y"])], given[:1], given[1:], {}
    )
    pictures(tmp_path / "data", 4)
    before = everything(tmp_path)
    out, err = qpipe(f"new {line}", 2)
    assert (out, err) == ("", f"qpipe: {message}\n")
    assert everything(tmp_path) == before


def test_samples_that_do_not_fit_yet_are_told_and_the_recipe_is_there_to_mend(
    qpipe: Shell, tmp_path: Path
) -> None:
    network(tmp_path / "net.onnx", [1, 4, 8, 8])
    pictures(tmp_path / "data", 6)
    out, _ = qpipe("new net.onnx --samples images:data")
    assert (
        "cannot be fed with the samples yet: the samples give float32 [1, 3, 8, 8], input 'image' of "
        in out
    )
    assert samples_of()["size"] == 8


# ---- the demo


def test_without_a_network_the_demo_is_unpacked(qpipe: Shell, tmp_path: Path) -> None:
    out, _ = qpipe("new")
    assert "qpipe run qpipe-demo/mobilenet_ssd.yaml" in out
    assert {"mobilenet_ssd.yaml", "models/mobilenet_ssd.onnx"} <= everything(
        tmp_path / "qpipe-demo"
    )
    for name in everything(tmp_path / "qpipe-demo"):
        if (ROOT / "recipes" / name).is_file():
            assert (tmp_path / "qpipe-demo" / name).read_bytes() == (
                ROOT / "recipes" / name
            ).read_bytes()
    recipe.load(Path("qpipe-demo/mobilenet_ssd.yaml"))
    _, err = qpipe("new", 2)
    assert (
        err
        == "qpipe: qpipe-demo: exists already; give another --out, or --force to write into it\n"
    )
    (tmp_path / "qpipe-demo" / "mobilenet_ssd.yaml").write_text("", encoding="utf-8")
    qpipe("new --force")
    recipe.load(Path("qpipe-demo/mobilenet_ssd.yaml"))
    qpipe("new --out elsewhere/there")
    assert everything(tmp_path / "elsewhere" / "there") == everything(tmp_path / "qpipe-demo")
    assert everything(tmp_path / "elsewhere") - {"there"} == {
        f"there/{n}" for n in everything(tmp_path / "qpipe-demo")
    }


def test_recipes_are_found_in_a_clone_and_in_a_package(tmp_path: Path) -> None:
    assert Path(str(demo.recipes())) == ROOT / "recipes"
    (tmp_path / "qpipe" / "recipes").mkdir(parents=True)
    assert Path(str(demo.recipes(tmp_path / "qpipe"))) == tmp_path / "qpipe" / "recipes"


@pytest.mark.slow
def test_a_wheel_brings_the_demo(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.argv = ['qpipe', 'new']; "
    )
    code += "import qpipe; assert 'site' in qpipe.__file__; from qpipe.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert {"mobilenet_ssd.yaml", "models/mobilenet_ssd.onnx"} <= everything(
        tmp_path / "qpipe-demo"
    )


# ---- 8 bits


def test_layers_that_8_bits_ruin_are_named_and_a_scheme_keeps_them_float(
    tmp_path: Path, qpipe: Shell
) -> None:
    onnx.save(networks.log_mel(), tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    for name, count in (("calibration", 24), ("evaluation", 16)):
        arrays = np.concatenate(networks.sounds(count, seed=count))
        np.savez(tmp_path / "data" / f"{name}.npz", sound=arrays)
    shown, _ = qpipe("new net.onnx --samples npz:data")
    assert "8 bits      too few: outputs at " in shown
    assert "lost by Log 'log_" in shown
    loaded, _ = recipe.load(tmp_path / "recipe.yaml")
    quantizer = loaded.schemes["int8-floor"][0]
    assert quantizer.name == "mixed"
    assert quantizer.options["sqnr"] == 30
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "# CHECK: 8 bits are too few for all layers: outputs at " in text


def test_a_network_that_bears_8_bits_is_told_so(tmp_path: Path, qpipe: Shell) -> None:
    network(tmp_path / "net.onnx")
    pictures(tmp_path / "data", 6)
    shown, _ = qpipe("new net.onnx --samples images:data")
    assert "8 bits      outputs at " in shown
    assert "int8-floor" not in (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
