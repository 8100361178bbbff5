"""`qpipe new` with labels: which feeding of pictures it takes, how sure it says it is, and the samples it scores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from shell import Shell

SIDE = 8
RED, GREEN, BLUE = range(3)
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
NEW = "new net.onnx --samples images:data"


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """The command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def levels(classes: int) -> np.ndarray:
    """The level of each class, as a network sees it that was trained on pixels of -1 to 1."""
    return np.linspace(-0.8, 0.8, classes)


def network(classes: int, channel: int = RED, *, background: int | None = None) -> None:
    """A network whose answer is the class with the level nearest to the mean of a channel.

    With a background there is one more score, at that place, which is never the highest.
    """
    weights = np.zeros((3, classes))
    weights[channel] = 80 * levels(classes)
    biases = -40 * levels(classes) ** 2
    if background is not None:
        weights = np.insert(weights, background, 0, axis=1)
        biases = np.insert(biases, background, -1000)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "biases"], ["scores"]),
    ]
    save(nodes, {"weights": weights, "biases": biases}, [1, len(biases)])


def save(
    nodes: list[Any],
    weights: dict[str, np.ndarray],
    output: Sequence[int],
    side: int = SIDE,
    channels: int = 3,
    dtype: int = TensorProto.FLOAT,
) -> None:
    tensors = [
        numpy_helper.from_array(a if a.dtype == np.int64 else a.astype(np.float32), name)
        for name, a in weights.items()
    ]
    taken = helper.make_tensor_value_info("image", dtype, [1, channels, side, side])
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, output)
    graph = helper.make_graph(nodes, "net", [taken], [given], tensors)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), "net.onnx")


def picture(level: float, channel: int, random: np.random.Generator) -> np.ndarray:
    """A picture whose channel has a level of -1 to 1, and whose other channels have any."""
    pixels = np.empty((SIDE, SIDE, 3))
    pixels[:] = random.uniform(0, 255, 3)
    pixels[:, :, channel] = 127.5 * (1 + level)
    return np.clip(pixels + random.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def pictures(
    names: Sequence[str],
    make: Callable[[int, np.random.Generator], np.ndarray],
    count: int = 4,
) -> None:
    """Folders of classes; `make` gives a picture of the class of a number."""
    random = np.random.default_rng(5)
    for part, in_part in (("calibration", 1), ("evaluation", count)):
        for number, name in enumerate(names):
            folder = Path("data") / part / name
            folder.mkdir(parents=True)
            for index in range(in_part):
                Image.fromarray(make(number, random)).save(folder / f"{index}.png")


def of_channel(channel: int, classes: int) -> Callable[[int, np.random.Generator], np.ndarray]:
    return lambda number, random: picture(levels(classes)[number], channel, random)


def samples_of(file: str = "recipe.yaml") -> dict[str, Any]:
    ((_, options),) = recipe(file)["samples"].items()
    return dict(options)


def recipe(file: str = "recipe.yaml") -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return content


def table(out: str) -> dict[str, float]:
    """The scores of the table of feedings, in its order."""
    rows = re.findall(r"^(\S.*?)  +(\d\.\d{3})  +\d\.\d{3} to", out, re.MULTILINE)
    return {words: float(score) for words, score in rows}


def comments(file: str = "recipe.yaml") -> str:
    """The comments of a recipe as one text."""
    lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))


# ---- the feeding


@pytest.mark.parametrize(("channel", "color_order"), [(RED, "RGB"), (BLUE, "BGR")])
def test_the_feeding_that_the_network_was_made_for_wins_and_is_clear(
    channel: int, color_order: str, qpipe: Shell
) -> None:
    network(6, RED)
    pictures("abcdef", of_channel(channel, 6), count=8)
    out, _ = qpipe(NEW)
    best = f"-1 to 1, {color_order}, crop center"
    assert next(iter(table(out).items())) == (best, 1.0)
    assert f"on these 48 samples {best} is shown to be better than the 9 others (top1 1.000)" in out
    expected = {"mean": 127.5, "std": 127.5, "color_order": color_order}
    assert expected.items() <= samples_of().items()
    assert "CHECK:" not in comments()
    assert "recipe.yaml is written\n" in out


def test_each_feeding_has_the_score_that_numpy_computes(qpipe: Shell) -> None:
    network(6)
    pictures("abcdef", of_channel(RED, 6), count=8)
    scores = table(qpipe(NEW)[0])
    labels, pixels = [], []
    for file in sorted(Path("data/evaluation").rglob("*.png")):
        labels.append("abcdef".index(file.parent.name))
        pixels.append(np.asarray(Image.open(file)).astype(np.float64))
    scalings = {
        "0 to 1": (0, 255),
        "-1 to 1": (127.5, 127.5),
        "0 to 255": (0, 1),
        "as ImageNet's": IMAGENET,
    }
    for words, (mean, std) in scalings.items():
        for order, channel in (("RGB", RED), ("BGR", BLUE)):
            level = (np.mean(pixels, axis=(1, 2)) - mean) / std
            answers = np.abs(level[:, channel, None] - levels(6)).argmin(axis=1)
            assert scores[f"{words}, {order}, crop center"] == round(np.mean(answers == labels), 3)


def test_what_the_user_gave_is_in_every_feeding(qpipe: Shell) -> None:
    network(4)
    pictures("abcd", of_channel(RED, 4))
    out, _ = qpipe(f"{NEW} --mean 127.5 --std 127.5")
    assert list(table(out)) == [
        "mean 127.5, std 127.5, RGB, crop center", "mean 127.5, std 127.5, BGR, crop center",
    ]  # fmt: skip


@pytest.mark.parametrize("crop", ["center", "none"])
def test_pictures_are_cropped_or_squeezed_as_scores_better(crop: str, qpipe: Shell) -> None:
    """Pictures three times as wide as high, with the level in the centre, or all over."""
    network(5)

    def wide(number: int, random: np.random.Generator) -> np.ndarray:
        level = levels(5)[number]
        centre = picture(level, RED, random)
        # the rims are of any level, or make up for a centre that is
        shift = random.choice([-0.9, 0.9])
        if crop == "center":
            rims = [picture(shift, RED, random)] * 2
        else:
            centre = picture(level + 0.2 * shift, RED, random)
            rims = [picture(level - 0.1 * shift, RED, random)] * 2
        return np.concatenate([rims[0], centre, rims[1]], axis=1)

    pictures("abcde", wide, count=9)
    scores = table(qpipe(NEW)[0])
    assert next(iter(scores)) == f"-1 to 1, RGB, crop {crop}"
    assert samples_of().get("crop", "center") == crop


def test_what_a_network_does_not_take_is_not_tried(qpipe: Shell) -> None:
    """Neither scalings of a network that takes uint8, nor BGR of one that takes grey."""
    weights = {"weights": 80 * levels(4)[None], "biases": -40 * levels(4) ** 2}
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "middle"], ["centred"]),
        helper.make_node("Div", ["centred", "middle"], ["scaled"]),
        helper.make_node("GlobalAveragePool", ["scaled"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "biases"], ["scores"]),
    ]
    save(nodes, {**weights, "middle": np.array(127.5)}, [1, 4], channels=1, dtype=TensorProto.UINT8)

    def wide(number: int, random: np.random.Generator) -> np.ndarray:
        parts = [picture(levels(4)[number], RED, random)[..., :1] for _ in range(2)]
        return np.repeat(np.concatenate(parts, axis=1), 3, axis=2)

    pictures("abcd", wide)
    scores = table(qpipe(NEW)[0])
    assert scores == {"0 to 255, grey, crop center": 1.0, "0 to 255, grey, crop none": 1.0}


# ---- the numbering of labels


@pytest.mark.parametrize("class_order", ["number", "name"])
def test_folders_that_are_numbers_are_classes_in_the_order_that_scores_better(
    class_order: str, qpipe: Shell
) -> None:
    numbers = [str(number) for number in range(12)]
    names = numbers if class_order == "number" else sorted(numbers)
    network(12)
    pictures(names, of_channel(RED, 12))
    out, _ = qpipe(NEW)
    assert "12 classes named by numbers, which are taken in numeric order" in out
    assert next(iter(table(out).values())) == 1.0
    assert samples_of()["class_order"] == class_order
    assert "classes are numbered in the order of their names" not in comments()


@pytest.mark.parametrize(("background", "metric"), [(0, {"topk": {"first": 1}}), (5, "topk")])
def test_a_background_is_the_first_score_or_the_last_as_scores_better(
    background: int, metric: Any, qpipe: Shell
) -> None:
    network(5, background=background)
    pictures("abcde", of_channel(RED, 5))
    qpipe(NEW)
    assert recipe()["measure"][1] == {"accuracy": {"metric": [metric]}}


def test_labels_of_a_list_may_count_from_one(qpipe: Shell) -> None:
    network(5)
    pictures("abcde", of_channel(RED, 5))
    files = sorted(
        file.relative_to("data/evaluation") for file in Path("data/evaluation").rglob("*.png")
    )
    rows = [f"{file},{'abcde'.index(file.parent.name) + 1}" for file in files]
    Path("labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    out, _ = qpipe(f"{NEW} --labels labels.csv")
    assert next(iter(table(out))) == "-1 to 1, RGB, crop center, labels from 1"
    assert recipe()["measure"][1] == {"accuracy": {"metric": [{"topk": {"first": -1}}]}}


# ---- what is not clear


def test_what_the_samples_cannot_tell_apart_is_to_be_checked(qpipe: Shell) -> None:
    network(6)

    def grey(number: int, random: np.random.Generator) -> np.ndarray:
        red = picture(levels(6)[number], RED, random)[:, :, :1]
        return np.repeat(red, 3, axis=2)

    pictures("abcdef", grey, count=8)
    out, _ = qpipe(NEW)
    undecided = (
        "on these 48 samples -1 to 1, RGB, crop center (top1 1.000) is not shown to be better than "
        "-1 to 1, BGR, crop center (1.000)"
    )
    assert undecided in out
    assert f"CHECK: {undecided}" in comments()
    assert (
        "CHECK: BGR may be as good, see above\n    color_order: RGB"
        in Path("recipe.yaml").read_text()
    )
    assert "marked CHECK: color_order\n" in out


def test_where_nothing_scores_above_chance_nothing_fits(qpipe: Shell) -> None:
    network(5)
    pictures("abcde", lambda _, random: random.integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    out, _ = qpipe(NEW)
    assert "nothing fits: on these 20 samples even " in out
    assert ", by chance 0.200); check labels, their numbering, and pictures" in out
    assert samples_of()["mean"] == IMAGENET[0], "the usual feeding stays"
    assert "marked CHECK: mean, color_order\n" in out


def test_without_labels_it_says_that_it_cannot_know(qpipe: Shell) -> None:
    network(5)
    pictures([""], of_channel(RED, 5), count=9)
    out, _ = qpipe(NEW)
    assert "without labels nothing tells whether the pictures are fed as in training" in out
    assert not table(out)


# ---- boxes


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_boxes_tell_whether_pictures_are_letterboxed_or_stretched(fit: str, qpipe: Shell) -> None:
    """A network that always detects the middle third of a picture three times as wide as high."""
    height = 32 / 3 if fit == "letterbox" else 32
    cells = 16 + 4 + 1  # of an input of 32 pixels, at strides 8, 16 and 32
    boxes = np.zeros((1, 5, cells))
    boxes[0, :, 0] = (16, 16, 32 / 3, height, 0.9)  # centre, size, score
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "boxes"], ["scores"]),
    ]
    save(nodes, {"nothing": np.zeros(1), "boxes": boxes}, [1, 5, cells], side=32)
    Path("data").mkdir()
    for number in range(16):
        Image.new("RGB", (96, 32), (number, 0, 0)).save(f"data/{number}.png")
    names = [f"{number}.png" for number in range(16)]
    annotations = {
        "images": [{"id": n, "file_name": name, "width": 96, "height": 32} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [32, 0, 32, 32], "area": 1024, "iscrowd": 0}
            for n in range(16)
        ],
    }  # fmt: skip
    Path("data/instances.json").write_text(json.dumps(annotations), encoding="utf-8")
    out, _ = qpipe("new net.onnx --samples coco:data")
    assert next(iter(table(out))).endswith(f"RGB, fit {fit}")
    assert samples_of()["fit"] == fit
    assert "CHECK: on these 11 samples" in comments(), "any scaling is as good for such a network"


# ---- the same samples


def test_samples_scores_what_new_scored(qpipe: Shell) -> None:
    """Of 60 pictures the recipe takes 55, and of these 48 are scored."""
    network(6)

    def noisy(number: int, random: np.random.Generator) -> np.ndarray:
        return picture(levels(6)[number] + random.normal(0, 0.2), RED, random)

    pictures("abcdef", noisy, count=10)
    best = next(iter(table(qpipe(f"{NEW} --evaluation-count 55")[0]).values()))
    assert 0.3 < best < 0.9
    (model,) = json.loads(qpipe("samples recipe.yaml --json")[0])["models"]
    (score,) = model["scores"]
    assert (score["metric"], score["n"], round(score["value"], 3)) == ("top1", 48, best)
    out, _ = qpipe("samples recipe.yaml")
    assert f"float scores top1 {best:.3f} on these 48 evaluation samples\n" in out
