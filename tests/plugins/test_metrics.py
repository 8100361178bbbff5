"""The metrics, against numpy, arithmetic by hand, and pycocotools from end to end."""

from __future__ import annotations

import contextlib
import io
import math
import time
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import qpipe
from qpipe.compare import intervals
from qpipe.stages import registry
from qpipe_plugins.metric.agreement import agreement
from qpipe_plugins.metric.coco_map import coco_map
from qpipe_plugins.metric.sqnr import sqnr
from qpipe_plugins.metric.topk import topk
from qpipe_plugins.postprocess.softmax import softmax

LABELS = 6
Detections = dict[str, Any]


def score(metric: qpipe.Metric, pairs: list[tuple[Any, Any]]) -> float:
    return metric.reduce([metric.contribution(*pair) for pair in pairs])


def logits(*values: float) -> dict[str, np.ndarray]:
    return {"logits": np.array([values], np.float32)}


def detections(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    """Rows of x1, y1, x2, y2, label, score."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return {
        "boxes": table[:, :4].astype(np.float32),
        "labels": table[:, 4].astype(np.int64),
        "scores": table[:, 5],
    }


def test_the_metrics_are_registered() -> None:
    names = {name for kind, name in registry.load().stages if kind == "metric"}
    assert {"topk", "f1", "agreement", "sqnr", "coco_map", "voc_map", "wer"} <= names


# ---- topk


def test_topk_counts_labels_among_the_highest_scores() -> None:
    pairs = [(logits(0.1, 0.7, 0.2), 1), (logits(0.1, 0.7, 0.2), 2), (logits(0.1, 0.7, 0.2), 0)]
    assert score(topk(), pairs) == pytest.approx(1 / 3)
    assert score(topk(k=2), pairs) == pytest.approx(2 / 3)
    assert (topk().name, topk(k=5).name, topk().against) == ("top1", "top5", "target")


def test_of_equal_scores_the_first_wins_as_argmax_has_it() -> None:
    tied = np.array([[3.0, 5.0, 5.0, 1.0]])
    assert topk().contribution(tied, int(np.argmax(tied))) == 1.0
    assert topk().contribution(tied, 2) == 0.0


def test_scores_that_are_no_numbers_are_no_answer() -> None:
    assert topk().contribution(logits(math.nan, 1.0), 1) == 0.0
    assert agreement().contribution(logits(math.nan, 1.0), logits(2.0, 1.0)) == 0.0


@pytest.mark.parametrize("target", [None, "cat", -1, {"boxes": []}, True, 1.0])
def test_a_target_that_is_no_label_is_named(target: object) -> None:
    with pytest.raises(
        qpipe.StageError, match=r"^metric topk: target .* is no label; it is a whole number from 0$"
    ):
        topk().contribution(logits(0.1, 0.2, 0.3), target)


def test_a_label_without_a_score_says_how_labels_count() -> None:
    message = "metric topk: label 3, but the network gives 3 scores; labels count from 0, so the last is 2"
    with pytest.raises(qpipe.StageError, match=f"^{message}$"):
        topk().contribution(logits(0.1, 0.2, 0.3), 3)
    message = "metric topk: label 2, but the network gives 3 scores; labels count from 0 after the first 1, so the last is 1"
    with pytest.raises(qpipe.StageError, match=f"^{message}$"):
        topk(first=1).contribution(logits(0.1, 0.2, 0.3), 2)


def test_the_background_can_come_first() -> None:
    scores = np.arange(1001, dtype=np.float32)
    pairs = [(scores, 999), (scores, 998), (scores[::-1], 0)]
    assert [topk(first=1).contribution(*pair) for pair in pairs] == [1.0, 0.0, 0.0], (
        "the background is an answer too"
    )
    assert [topk(k=2, first=1).contribution(*pair) for pair in pairs] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 4, 1, 1), (1, 1, 1, 4)])
def test_scores_may_have_any_shape_with_one_long_axis(shape: tuple[int, ...]) -> None:
    assert topk().contribution({"y": np.array([0.1, 0.2, 0.9, 0.3]).reshape(shape)}, 2) == 1.0


@pytest.mark.parametrize("prediction", [np.zeros((1, 3, 4)), np.zeros((0,)), "cat"])
def test_what_is_no_row_of_scores_is_named(prediction: Any) -> None:
    message = r"^metric topk: output 'y' is (\[1, 3, 4\]|\[0\]|str); it needs one score a class, such as \[1, 1000\]"
    with pytest.raises(qpipe.StageError, match=message):
        topk().contribution({"y": prediction}, 0)


def test_probabilities_rank_as_logits_do() -> None:
    for seed in range(5):
        scores = {"y": np.random.default_rng(seed).normal(0, 30, (1, 10)).astype(np.float32)}
        right = int(scores["y"].argmax())
        assert (
            topk().contribution(softmax(scores), right) == topk().contribution(scores, right) == 1.0
        )
        assert agreement().contribution(softmax(scores), scores) == 1.0


# ---- agreement


def test_classifiers_agree_where_their_highest_scores_are_the_same() -> None:
    pairs = [(logits(1, 2), logits(5, 6)), (logits(2, 1), logits(5, 6))]
    assert score(agreement(), pairs) == 0.5
    assert agreement().against == "float"


def test_detections_agree_one_to_one_by_label_and_overlap() -> None:
    float_found = detections(
        (0, 0, 10, 10, 1, 0.9), (20, 20, 30, 30, 2, 0.8), (50, 50, 60, 60, 3, 0.4)
    )
    found = detections(
        (0, 0, 10, 9, 1, 0.9),  # overlaps by 0.9
        (0, 0, 10, 10, 1, 0.7),  # the better match of the first box
        (20, 20, 30, 30, 1, 0.8),  # another label
        (50, 50, 60, 60, 3, 0.3),  # unsure
    )
    # one pair agrees; of the sure boxes three of one and two of the other make a union of four
    assert agreement().contribution(found, float_found) == 1 / 4
    assert agreement(score=0.2).contribution(found, float_found) == 2 / 5
    assert agreement().contribution(float_found, float_found) == 1.0


def test_the_overlap_that_is_asked_for_counts() -> None:
    one, other = detections((0, 0, 10, 10, 0, 1.0)), detections((0, 0, 10, 6, 0, 1.0))
    assert agreement(iou=0.6).contribution(one, other) == 1.0
    assert agreement(iou=0.61).contribution(one, other) == 0.0


def test_two_networks_that_find_nothing_agree() -> None:
    nothing = detections()
    assert agreement().contribution(nothing, nothing) == 1.0
    assert agreement().contribution(nothing, detections((0, 0, 1, 1, 0, 0.9))) == 0.0


def test_every_pixel_of_a_map_of_classes_is_an_answer() -> None:
    rng = np.random.default_rng(2)
    one, other = (rng.normal(size=(1, 3, 8, 9)).astype(np.float32) for _ in range(2))
    expected = np.mean(
        [
            [np.argmax(one[0, :, y, x]) == np.argmax(other[0, :, y, x]) for x in range(9)]
            for y in range(8)
        ]
    )
    assert agreement().contribution({"y": one}, {"y": other}) == expected
    last = {"y": np.moveaxis(one, 1, -1)}, {"y": np.moveaxis(other, 1, -1)}
    assert agreement(axis=-1).contribution(*last) == expected
    with pytest.raises(
        qpipe.StageError,
        match=r"which axis of output 'y' \[1, 8, 9, 3\] is that of the classes\? set axis",
    ):
        agreement().contribution(*last)


def test_of_several_outputs_the_share_is_the_mean_and_single_numbers_do_not_count() -> None:
    one = {
        "kind": np.float32([[1, 2, 3]]),
        "colour": np.float32([[9, 1]]),
        "age": np.float32([[31.0]]),
    }
    other = {
        "kind": np.float32([[1, 2, 5]]),
        "colour": np.float32([[1, 9]]),
        "age": np.float32([[33.0]]),
    }
    assert agreement().contribution(one, other) == 0.5


def test_whole_numbers_and_texts_are_answers() -> None:
    assert (
        agreement().contribution(
            {"ids": np.array([[1, 2, 3, 4]])}, {"ids": np.array([[1, 2, 0, 4]])}
        )
        == 0.75
    )
    assert (
        agreement().contribution({"ids": np.array([[1, 2]])}, {"ids": np.array([[1, 2, 3]])}) == 0.0
    )
    assert agreement().contribution({"class": np.array([7])}, {"class": np.array([7])}) == 1.0
    assert agreement().contribution({"text": "so"}, {"text": "so"}) == 1.0
    assert agreement().contribution("so it", "so") == 0.0


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((1,), "no highest score in y [1]"), ((1, 1), "no highest score in y [1, 1]"),
     ((1, 50, 29), "which axis of output 'y' [1, 50, 29] is that of the classes? set axis, or postprocess"),
     ((1, 1, 8, 8), "which axis of output 'y' [1, 1, 8, 8] is that of the classes? set axis, or postprocess"),
     ((1, 8, 8, 8), "which axis of output 'y' [1, 8, 8, 8] is that of the classes? set axis, or postprocess")],
)  # fmt: skip
def test_outputs_without_a_clear_answer_say_what_to_use_instead(
    shape: tuple[int, ...], reason: str
) -> None:
    output = {"y": np.zeros(shape, np.float32)}
    message = (
        f"metric agreement: {reason}; sqnr compares numbers (leave agreement out by always: [sqnr])"
    )
    with pytest.raises(qpipe.StageError) as raised:
        agreement().contribution(output, output)
    assert str(raised.value) == message


# ---- sqnr


def test_sqnr_is_that_of_numpy_over_all_samples_of_the_worst_output() -> None:
    rng = np.random.default_rng(0)
    references = [{"a": rng.normal(size=(1, 9)), "b": rng.normal(size=(1, 4, 2))} for _ in range(5)]
    outputs = [{name: array + rng.normal(0, 0.1 if name == "a" else 0.3, array.shape) for name, array in each.items()}
               for each in references]  # fmt: skip
    signal = np.concatenate([each["b"].ravel() for each in references])
    noise = np.concatenate([each["b"].ravel() for each in outputs]) - signal
    expected = 10 * np.log10(np.sum(signal**2) / np.sum(noise**2))
    assert score(sqnr(), list(zip(outputs, references, strict=True))) == pytest.approx(
        expected, rel=1e-12
    )
    assert (sqnr().unit, sqnr().against) == ("dB", "float_outputs")


@pytest.mark.parametrize(
    ("output", "reference", "decibels"),
    [([1.0, 2.0], [1.0, 2.0], 200), ([0.0], [0.0], 200), ([1.0], [0.0], -200), ([math.nan], [1.0], -200),
     ([math.inf], [1.0], -200), ([1e30], [1e-30], -200)],
)  # fmt: skip
def test_sqnr_is_always_a_number(
    output: list[float], reference: list[float], decibels: float
) -> None:
    assert score(sqnr(), [({"y": np.array(output)}, {"y": np.array(reference)})]) == decibels


def test_a_missing_output_is_named() -> None:
    with pytest.raises(
        qpipe.StageError,
        match=r"^metric sqnr: output 'scores' of float is missing; there is boxes$",
    ):
        sqnr().contribution({"boxes": np.zeros(1)}, {"boxes": np.zeros(1), "scores": np.zeros(1)})


def test_infinities_of_a_mask_are_no_noise_where_they_agree() -> None:
    masked = np.array([-math.inf, 3.0, 4.0])
    assert score(sqnr(), [({"y": masked}, {"y": masked})]) == 200
    assert score(
        sqnr(), [({"y": np.array([-math.inf, 3.0, 4.5])}, {"y": masked})]
    ) == pytest.approx(20)  # 25 over 0.25
    assert score(sqnr(), [({"y": -masked}, {"y": masked})]) == -200


def test_outputs_of_another_shape_are_no_noise_but_an_error() -> None:
    with pytest.raises(
        qpipe.StageError,
        match=r"^metric sqnr: output 'y' is \[1, 6\], that of float \[4, 6\]; leave sqnr",
    ):
        sqnr().contribution({"y": np.zeros((1, 6))}, {"y": np.zeros((4, 6))})


# ---- coco_map


def scenes(count: int, seed: int, most: int = 30) -> list[tuple[Detections, Detections]]:
    """Noisy detections of random boxes, with tied scores, empty images, and labels without any box."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        wanted, found = int(rng.integers(0, 6)), int(rng.integers(0, most))
        corner, size = rng.uniform(0, 150, (wanted, 2)), rng.uniform(8, 60, (wanted, 2))
        boxes, labels = np.hstack([corner, corner + size]), rng.integers(0, LABELS - 1, wanted)
        if wanted:
            near = rng.integers(0, wanted, found)
            guesses = boxes[near] + rng.normal(0, 4, (found, 4))
            guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
            guessed = np.where(
                rng.random(found) < 0.8, labels[near], rng.integers(0, LABELS, found)
            )
        else:
            guesses, guessed = (
                np.tile([0.0, 0.0, 9.0, 9.0], (found, 1)),
                rng.integers(0, LABELS, found),
            )
        crowds = (rng.random(wanted) < 0.1).astype(int)
        target = {"boxes": boxes.tolist(), "labels": labels.tolist(), "iscrowd": crowds.tolist()}
        pairs.append(
            (
                {"boxes": guesses, "labels": guessed, "scores": np.round(rng.random(found), 2)},
                target,
            )
        )
    return pairs


def straight(pairs: list[tuple[Detections, Detections]]) -> tuple[float, float]:
    """Average precision over 0.50:0.95 and at 0.50 by pycocotools alone."""
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, (prediction, target) in enumerate(pairs):
        for (x1, y1, x2, y2), label, crowd in zip(
            target["boxes"], target["labels"], target["iscrowd"], strict=True
        ):
            place = {
                "id": len(truths) + 1,
                "image_id": image,
                "category_id": label,
                "iscrowd": crowd,
            }
            truths.append(
                {**place, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            )
        rows = zip(
            *(prediction[name].tolist() for name in ("boxes", "labels", "scores")), strict=True
        )
        found += [
            {
                "image_id": image,
                "category_id": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), label, score in rows
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = [{"id": label} for label in range(LABELS)]
        images = [{"id": image} for image in range(len(pairs))]
        coco.dataset = {"images": images, "categories": categories, "annotations": truths}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


@pytest.mark.parametrize("seed", range(4))
def test_mean_average_precision_is_exactly_that_of_pycocotools(seed: int) -> None:
    pairs = scenes(40, seed)
    # the mean of the same numbers, added in another order: a few units in the last place
    scores = score(coco_map(iou="0.50:0.95"), pairs), score(coco_map(), pairs)
    assert scores == pytest.approx(straight(pairs), rel=1e-14)


def test_a_resample_scores_as_if_the_samples_had_been_there_twice() -> None:
    pairs = scenes(20, 9)
    metric = coco_map()
    contributions = [metric.contribution(*pair) for pair in pairs]
    draw = np.random.default_rng(3).integers(0, 20, 20)
    resampled = metric.reduce([contributions[i] for i in draw])
    assert resampled == pytest.approx(straight([pairs[i] for i in draw])[1], rel=1e-14)


def test_mean_average_precision_is_1_for_the_truth_and_0_for_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = {"boxes": [[10, 10, 30, 40], [50, 50, 90, 80]], "labels": [0, 3]}
    truth = detections((10, 10, 30, 40, 0, 0.9), (50, 50, 90, 80, 3, 0.8))
    assert score(coco_map(), [(truth, target)]) == pytest.approx(1.0)
    assert score(coco_map(), [(detections(), target)]) == 0.0
    assert score(coco_map(), [(truth, {"boxes": [], "labels": []})]) == 0.0
    assert capsys.readouterr().out == ""


def test_the_name_says_the_overlap() -> None:
    assert [coco_map(iou=iou).name for iou in (0.5, 0.75, "0.50:0.95")] == ["map50", "map75", "map"]  # type: ignore[arg-type]


def test_outputs_without_postprocess_are_named() -> None:
    message = r"^metric coco_map: a prediction has boxes, scores; it has boxes, labels, scores \(set postprocess\)$"
    with pytest.raises(qpipe.StageError, match=message):
        coco_map().contribution(
            {"boxes": np.zeros((1, 4)), "scores": np.zeros(1)}, {"boxes": [], "labels": []}
        )
    with pytest.raises(qpipe.StageError, match="a target has int"):
        coco_map().contribution(detections(), 3)  # type: ignore[arg-type]


def test_lengths_that_differ_are_named() -> None:
    with pytest.raises(qpipe.StageError, match=r"a target has 1 boxes, but labels is \[2\]"):
        coco_map().contribution(detections(), {"boxes": [[0, 0, 1, 1]], "labels": [1, 2]})


@pytest.mark.slow
def test_the_interval_of_500_images_takes_seconds() -> None:
    pairs = scenes(500, 1, most=100)
    metric = coco_map()
    contributions = [metric.contribution(*pair) for pair in pairs]
    began = time.process_time()
    intervals.resample(contributions, metric.reduce, resamples=metric.resamples)
    assert time.process_time() - began < 5
