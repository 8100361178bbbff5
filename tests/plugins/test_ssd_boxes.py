"""Default boxes, decoding and non-maximum suppression against numbers worked out by hand or by brute force."""

from __future__ import annotations

import numpy as np
import pytest

import qpipe
from qpipe_plugins.postprocess.non_max_suppression import non_maximum_suppression
from qpipe_plugins.postprocess.ssd_boxes import decode, default_boxes, ssd_boxes

# two cells a side at stride 8, one at stride 16; ratio 1 alone, so two boxes a cell
SMALL = {"size": 16, "strides": (8, 16), "scales": (0.25, 0.5, 1.0), "ratios": (1.0,)}


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(item[2] - item[0]) * (item[3] - item[1]) for item in (one, other)]
    return shared / (areas[0] + areas[1] - shared)


def suppressed_one_by_one(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for candidate in sorted(range(len(scores)), key=lambda index: -scores[index]):
        if all(overlap(boxes[candidate], boxes[better]) <= threshold for better in kept):
            kept.append(candidate)
    return kept


def network_outputs(logits: dict[int, list[float]]) -> dict[str, np.ndarray]:
    """Outputs for SMALL and two classes: background everywhere except at the default boxes given."""
    scores = np.tile(np.array([20, 0, 0], np.float32), (10, 1))
    for index, values in logits.items():
        scores[index] = values
    return {"boxes": np.zeros((1, 10, 4), np.float32), "scores": scores[None]}


def test_default_boxes_of_a_small_grid_are_the_hand_worked_ones() -> None:
    boxes = default_boxes(**SMALL)
    side = 16 * np.sqrt(0.25 * 0.5)
    assert boxes.dtype == np.float32
    assert boxes.shape == (10, 4)
    np.testing.assert_array_equal(boxes[0], np.float32([4, 4, 4, 4]))
    np.testing.assert_array_equal(boxes[1], np.float32([4, 4, side, side]))
    np.testing.assert_array_equal(boxes[2, :2], [12, 4])
    np.testing.assert_array_equal(boxes[4, :2], [4, 12])
    np.testing.assert_array_equal(boxes[8], [8, 8, 8, 8])


def test_ratio_is_width_over_height_and_keeps_the_area() -> None:
    boxes = default_boxes(64, (64,), (0.5, 0.5), (2.0, 0.5))
    np.testing.assert_array_equal(boxes[0, 2:], np.float32([32 * np.sqrt(2), 32 / np.sqrt(2)]))
    np.testing.assert_array_equal(boxes[1, 2:], boxes[0, [3, 2]])


def test_default_boxes_of_the_shipped_model_number_3060() -> None:
    assert default_boxes().shape == (4 * (24**2 + 12**2 + 6**2 + 3**2), 4)


def test_size_that_no_stride_divides_has_one_more_cell() -> None:
    assert len(default_boxes(17, (8,), (0.5, 0.5), ())) == 3 * 3


def test_too_few_scales_are_refused() -> None:
    with pytest.raises(qpipe.StageError, match="2 scales for 2 strides; give 3"):
        default_boxes(16, (8, 16), (0.25, 0.5))


def test_offsets_of_zero_decode_to_the_default_box_itself() -> None:
    boxes = decode(np.zeros((1, 4), np.float32), np.float32([[50, 40, 20, 10]]))
    np.testing.assert_array_equal(boxes, [[40, 35, 60, 45]])


def test_decode_moves_by_the_first_variance_and_scales_by_the_second() -> None:
    offsets = np.float32([[1, -2, np.log(2) / 0.2, np.log(0.5) / 0.2]])
    boxes = decode(offsets, np.float32([[50, 40, 20, 10]]), (0.1, 0.2))
    # centre 50 + 0.1 * 20 and 40 - 0.2 * 10, sides 40 and 5; a few float32 roundings of numbers below 128
    np.testing.assert_allclose(boxes, [[32, 35.5, 72, 40.5]], rtol=0, atol=8 * 128 * 2.0**-24)


def test_decode_of_a_huge_offset_stays_finite() -> None:
    assert np.isfinite(decode(np.float32([[0, 0, 1e6, 1e6]]), np.float32([[50, 40, 20, 10]]))).all()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
def test_suppression_keeps_what_brute_force_keeps(threshold: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        corners = rng.uniform(0, 60, (50, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (50, 2))], axis=1).astype(
            np.float32
        )
        scores = rng.uniform(0, 1, 50).astype(np.float32)
        kept = non_maximum_suppression(boxes, scores, threshold)
        assert kept.tolist() == suppressed_one_by_one(boxes.astype(np.float64), scores, threshold)


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = np.float32([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert non_maximum_suppression(boxes, np.float32([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_more_boxes_than_are_compared_at_once_are_suppressed_alike() -> None:
    rng = np.random.default_rng(4)
    corners = rng.uniform(0, 80, (700, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 60, (700, 2))], axis=1).astype(
        np.float32
    )
    scores = rng.uniform(0, 1, 700).astype(np.float32)
    expected = suppressed_one_by_one(boxes, scores, 0.5)
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == expected
    assert non_maximum_suppression(boxes, scores, 0.5, limit=7).tolist() == expected[:7]


def test_no_boxes_give_no_boxes() -> None:
    kept = non_maximum_suppression(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.5)
    assert kept.tolist() == []


def test_labels_count_from_the_first_class_after_the_background() -> None:
    answer = ssd_boxes(network_outputs({0: [0, 20, 0], 6: [0, 0, 20]}), **SMALL)
    assert sorted(answer["labels"].tolist()) == [0, 1]
    assert answer["labels"].dtype == np.int64


def test_background_is_no_detection() -> None:
    answer = ssd_boxes(network_outputs({}), **SMALL)
    assert {name: value.shape for name, value in answer.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }


def test_score_is_the_softmax_probability_and_boxes_are_pixels() -> None:
    answer = ssd_boxes(network_outputs({8: [0, np.log(3), -30]}), **SMALL)
    assert answer["scores"][0] == pytest.approx(0.75, abs=4 * 2.0**-24)
    np.testing.assert_array_equal(answer["boxes"], [[4, 4, 12, 12]])


def test_boxes_of_two_classes_do_not_suppress_each_other() -> None:
    answer = ssd_boxes(network_outputs({8: [-30, 2, 2]}), **SMALL)
    assert sorted(answer["labels"].tolist()) == [0, 1]


def test_boxes_are_clipped_to_the_image() -> None:
    outputs = network_outputs({9: [0, 20, 0]})
    outputs["boxes"][0, 9, 2:] = 20
    np.testing.assert_array_equal(ssd_boxes(outputs, **SMALL)["boxes"], [[0, 0, 16, 16]])


def test_no_more_than_max_detections_best_first() -> None:
    answer = ssd_boxes(
        network_outputs({0: [0, 3, 0], 2: [0, 5, 0], 4: [0, 4, 0]}), **SMALL, max_detections=2
    )
    np.testing.assert_array_equal(answer["boxes"][:, :2], [[10, 2], [2, 10]])
    assert answer["scores"][0] > answer["scores"][1]


def test_outputs_can_have_other_names() -> None:
    outputs = network_outputs({0: [0, 20, 0]})
    renamed = {"where": outputs["boxes"], "what": outputs["scores"]}
    assert len(ssd_boxes(renamed, **SMALL, boxes="where", scores="what")["boxes"]) == 1


def test_outputs_of_another_grid_are_refused_with_both_counts() -> None:
    with pytest.raises(qpipe.StageError, match=r"boxes is \[10, 4\] .* give 3060 default boxes"):
        ssd_boxes(network_outputs({}))
