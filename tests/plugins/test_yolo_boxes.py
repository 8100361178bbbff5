"""YOLO's outputs to boxes, against numbers worked out by hand and a straight program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import qpipe
from qpipe.stages import options as stage_options
from qpipe_plugins.postprocess.yolo_boxes import yolo_boxes

Row = tuple[float, ...]


def v5(*rows: Row, boxes: int = 63) -> dict[str, np.ndarray]:
    """Rows of cx, cy, w, h, objectness and two class scores among boxes of nothing."""
    table = np.zeros((1, boxes, 7), np.float32)
    table[0, 5 : 5 + len(rows)] = rows
    return {"output0": table}


def v8(*rows: Row, boxes: int = 21) -> dict[str, np.ndarray]:
    """Rows of cx, cy, w, h and two class scores."""
    table = np.zeros((1, boxes, 6), np.float32)
    table[0, 5 : 5 + len(rows)] = rows
    return {"output0": np.moveaxis(table, 1, 2)}


def rows_of(found: Any) -> list[list[float]]:
    """x1, y1, x2, y2, label, score."""
    table = zip(
        found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
    )
    return [[*box, label, round(score, 5)] for box, label, score in table]


def test_objectness_times_class_score_is_the_score_of_v5() -> None:
    found = yolo_boxes(v5((50, 40, 20, 10, 0.8, 0.1, 0.5)), score_threshold=0.1)
    assert rows_of(found) == [[40, 35, 60, 45, 1, 0.4]]
    assert [found[name].dtype for name in ("boxes", "scores", "labels")] == [
        np.float32,
        np.float32,
        np.int64,
    ]


def test_v8_has_a_column_a_box_and_no_objectness() -> None:
    found = yolo_boxes(v8((50, 40, 20, 10, 0.1, 0.5)), score_threshold=0.2)
    assert rows_of(found) == [[40, 35, 60, 45, 1, 0.5]]


def test_v10_has_rows_of_detections_that_do_not_suppress_each_other() -> None:
    rows = [[10, 20, 30, 40, 0.3, 7], [10, 20, 30, 40, 0.9, 7.02], [10, 20, 30, 40, 0.0, 3]]
    found = yolo_boxes({"output0": np.float32([rows])}, version="v10", score_threshold=0.1)
    assert rows_of(found) == [[10, 20, 30, 40, 7, 0.9], [10, 20, 30, 40, 7, 0.3]]


def test_every_class_above_the_threshold_is_a_detection() -> None:
    found = yolo_boxes(v8((50, 40, 20, 10, 0.4, 0.5)))
    assert [row[4:] for row in rows_of(found)] == [[1, 0.5], [0, 0.4]]


OVERLAPPING = ((50, 50, 20, 20, 0.9, 0.0), (51, 50, 20, 20, 0.0, 0.8), (52, 50, 20, 20, 0.7, 0.0))


def test_boxes_suppress_those_of_their_class_or_all() -> None:
    assert yolo_boxes(v8(*OVERLAPPING))["labels"].tolist() == [0, 1]
    assert yolo_boxes(v8(*OVERLAPPING), by_label=False)["labels"].tolist() == [0]
    assert yolo_boxes(v8(*OVERLAPPING), iou_threshold=0.9)["labels"].tolist() == [0, 1, 0]


def test_no_more_than_max_detections_best_first() -> None:
    rows = [(30.0 * i, 20, 10, 10, 0.1 * i, 0) for i in range(1, 6)]
    found = yolo_boxes(v8(*rows), max_detections=2)
    assert found["boxes"][:, 0].tolist() == [145, 115]


def test_corners_are_taken_as_they_are_and_cut_at_the_border() -> None:
    found = yolo_boxes(v8((-5, 10, 50, 70, 0.9, 0)), box_format="xyxy", size=(64, 32))
    assert found["boxes"].tolist() == [[0, 10, 32, 64]]


def test_nothing_above_the_threshold_is_no_detection() -> None:
    found = yolo_boxes(v8((5, 5, 1, 1, 0.0, 0.0)))
    assert {name: array.shape for name, array in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


@pytest.mark.parametrize("version", ["v5", "v8"])
def test_what_is_left_is_what_a_straight_program_leaves(version: str) -> None:
    rng = np.random.default_rng(11)
    boxes = np.hstack([rng.uniform(0, 100, (252, 2)), rng.uniform(10, 60, (252, 2))]).astype(
        np.float32
    )
    objectness, classes = (
        rng.random((252, 1)).astype(np.float32),
        rng.random((252, 3)).astype(np.float32),
    )
    table = np.hstack([boxes, objectness, classes] if version == "v5" else [boxes, classes])
    scores = classes * objectness if version == "v5" else classes
    left = []
    for score, box, label in sorted(
        ((scores[i, c], i, c) for i in range(252) for c in range(3)), reverse=True
    ):
        x, y, w, h = boxes[box]
        corners = np.float32([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        if score > 0.25 and not any(
            label == of and overlap(corners, kept) > 0.5 for kept, of, _ in left
        ):
            left.append((corners, label, score))
    output = table[None] if version == "v5" else table.T[None]
    found = yolo_boxes({"y": output}, score_threshold=0.25, iou_threshold=0.5, max_detections=756)
    np.testing.assert_array_equal(found["boxes"], [corners for corners, _, _ in left])
    np.testing.assert_array_equal(found["labels"], [label for _, label, _ in left])
    np.testing.assert_array_equal(found["scores"], [score for _, _, score in left])


# ---- which version


@pytest.mark.parametrize(
    ("shape", "version"),
    [((1, 25200, 85), "v5"), ((1, 8400, 85), None), ((1, 84, 8400), "v8"), ((1, 5, 2100), "v8"), ((1, 6300, 6), "v5"),
     ((1, 300, 6), None), ((1, 8400, 84), None), ((1, 84, 84), None), ((1, 65, 3549), "v8"), ((1, 100, 4), None)],
)  # fmt: skip
def test_the_version_is_found_by_the_shape_or_asked_for(
    shape: tuple[int, ...], version: str | None
) -> None:
    output = {"y": np.zeros(shape, np.float32)}
    if version:
        marked = output["y"][0] if version == "v5" else output["y"][0].T
        marked[3] = [50, 40, 20, 10, *[1.0] * (marked.shape[1] - 4)]
        found = yolo_boxes(output)
        assert len(found["labels"]) == marked.shape[1] - (5 if version == "v5" else 4)
        return
    with pytest.raises(qpipe.StageError) as raised:
        yolo_boxes(output)
    assert str(raised.value) == (
        f"postprocess yolo_boxes: the version is not clear from output 'y' {list(shape)}; set version: "
        "v5 for [1, boxes, 5 + classes], v8 for [1, 4 + classes, boxes], v10 for [1, boxes, 6]"
    )


@pytest.mark.parametrize(
    ("version", "shape", "right"),
    [("v8", (1, 8400, 84), "v8 is [1, 4 + classes, boxes]; set another version"),
     ("v5", (1, 84, 8400), "v5 is [1, boxes, 5 + classes]; set another version"),
     ("v10", (1, 300, 7), "v10 is [1, boxes, 6]; set another version"), ("v3", (1, 300, 85), "give anchors")],
)  # fmt: skip
def test_an_output_that_the_version_does_not_have_is_named(
    version: Any, shape: tuple[int, ...], right: str
) -> None:
    with pytest.raises(qpipe.StageError) as raised:
        yolo_boxes({"y": np.zeros(shape, np.float32)}, version=version)
    assert str(raised.value) == f"postprocess yolo_boxes: output 'y' is {list(shape)}; {right}"


def test_of_several_outputs_the_one_of_three_axes_is_taken_or_named() -> None:
    raw = np.zeros((1, 3, 2, 2, 7), np.float32)
    assert len(yolo_boxes({"raw": raw, **v5((5, 4, 2, 1, 1, 1, 1))})["scores"]) == 2
    two = {**v5((5, 4, 2, 1, 1, 1, 1)), "proto": np.zeros((1, 63, 7), np.float32)}
    assert len(yolo_boxes(two, output="output0")["scores"]) == 2
    message = (
        r"which output\? there is output0 \[1, 63, 7\], proto \[1, 63, 7\]; set output to the one"
    )
    with pytest.raises(qpipe.StageError, match=message):
        yolo_boxes(two)


# ---- raw heads

ANCHORS = [[10, 13, 16, 30], [30, 61, 62, 45], [116, 90, 156, 198]]


def heads(seed: int, classes: int = 2, size: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"stride{stride}": rng.normal(
            0, 1, (1, 2, size // stride, size // stride, 5 + classes)
        ).astype(np.float32)
        for stride in (8, 16, 32)
    }


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def decoded(outputs: dict[str, np.ndarray], version: str) -> list[list[float]]:
    """Every box and its best class, one by one: cx, cy, w, h, label, score."""
    rows = []
    for stride, anchors in zip((8, 16, 32), ANCHORS, strict=True):
        table = outputs[f"stride{stride}"][0]
        for a, y, x in np.ndindex(*table.shape[:3]):
            t, anchor = table[a, y, x].astype(np.float64).tolist(), anchors[2 * a : 2 * a + 2]
            if version == "v5":
                cx, cy = ((2 * sigmoid(t[i]) - 0.5 + cell) * stride for i, cell in ((0, x), (1, y)))
                w, h = ((2 * sigmoid(t[2 + i])) ** 2 * anchor[i] for i in range(2))
            else:
                cx, cy = ((sigmoid(t[i]) + cell) * stride for i, cell in ((0, x), (1, y)))
                w, h = (math.exp(t[2 + i]) * anchor[i] for i in range(2))
            rows += [
                [cx, cy, w, h, label, sigmoid(t[4]) * sigmoid(t[5 + label])]
                for label in range(len(t) - 5)
            ]
    return sorted(rows, key=lambda row: -row[5])


@pytest.mark.parametrize("version", ["v5", "v3"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_raw_heads_decode_as_the_formula_says(version: Any, channels_first: bool) -> None:
    outputs = heads(1)
    expected = decoded(outputs, version)
    if channels_first:  # as the last convolution gives them
        outputs = {
            name: np.moveaxis(array, -1, 2).reshape(1, -1, *array.shape[2:4])
            for name, array in outputs.items()
        }
    shuffled = dict(reversed(list(outputs.items())))
    found = yolo_boxes(
        shuffled,
        version=version,
        anchors=ANCHORS,
        score_threshold=0.0,
        iou_threshold=1.0,
        max_detections=2000,
    )
    table = np.array(expected)
    assert found["labels"].tolist() == table[:, 4].astype(int).tolist()
    # float32, a dozen roundings of numbers up to the size of the largest box
    bound = 16 * 2.0**-24 * max(1, np.abs(table[:, :4]).max())
    np.testing.assert_allclose(found["scores"], table[:, 5], rtol=1e-5)
    np.testing.assert_allclose(
        (found["boxes"][:, :2] + found["boxes"][:, 2:]) / 2, table[:, :2], rtol=0, atol=bound
    )
    np.testing.assert_allclose(
        found["boxes"][:, 2:] - found["boxes"][:, :2], table[:, 2:4], rtol=1e-5, atol=bound
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"anchors": ANCHORS[:2]},
            "3 outputs, anchors for 2 and 3 strides; give a list of anchors and a stride for each",
        ),
        ({"anchors": [[1, 2, 3]] * 3}, "anchors are pairs; give w, h, w, h ... for each stride"),
        (
            {"anchors": [[1, 2]] * 3},
            "output 'stride8' is [1, 2, 8, 8, 7]; a head of 1 anchors is [1, 1 * (5 + classes)",
        ),
        (
            {"anchors": ANCHORS, "version": "v8"},
            "anchors are not for version v8; leave them out, or set version v5 or v3",
        ),
    ],
)
def test_anchors_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qpipe.StageError) as raised:
        yolo_boxes(heads(0), **options)
    assert str(raised.value).startswith(f"postprocess yolo_boxes: {message}")


def test_options_are_what_a_recipe_can_say() -> None:
    given = {
        "size": [640, 480],
        "anchors": ANCHORS,
        "strides": [8, 16, 32],
        "box_format": "xyxy",
        "version": "v5",
    }
    checked = stage_options.check(yolo_boxes, given, "here")
    assert (checked["size"], [list(own) for own in checked["anchors"]]) == ((640, 480), ANCHORS)
