"""The drawn scenes: the same everywhere, with boxes that fit, in splits that do not share a scene."""

from __future__ import annotations

import hashlib
from itertools import combinations, pairwise

import numpy as np
import pytest

from qpipe_plugins.samples.scene_drawing import (
    CLASSES,
    SPLIT_SIZE,
    SPLITS,
    Box,
    DrawnObject,
    Scene,
    bounding_box,
    draw_scene,
    overlap,
    paint_shape,
    place_shape,
    scene_index,
    visible_objects,
)
from qpipe_plugins.samples.shape_distances import SHAPES


def checksum(scene: Scene) -> str:
    return hashlib.sha256(
        scene.image.tobytes() + scene.boxes.tobytes() + scene.labels.tobytes()
    ).hexdigest()


def test_same_numbers_draw_the_same_scene() -> None:
    assert checksum(draw_scene(1, 5)) == checksum(draw_scene(1, 5))


@pytest.mark.parametrize("other", [(2, 5), (1, 6)], ids=["seed", "index"])
def test_another_seed_or_index_draws_another_scene(other: tuple[int, int]) -> None:
    assert not np.array_equal(draw_scene(1, 5).image, draw_scene(*other).image)


def test_scenes_are_those_the_shipped_model_was_trained_on() -> None:
    assert checksum(draw_scene(0, 0))[:16] == "249f922e0f14d30c"


@pytest.mark.parametrize("size", [64, 192, 250])
def test_image_boxes_and_labels_have_the_promised_types_and_ranges(size: int) -> None:
    for index in range(10):
        scene = draw_scene(0, index, size)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.boxes.dtype == np.float32
        assert scene.labels.dtype == np.int64
        assert scene.boxes.shape == (len(scene.labels), 4)
        assert ((scene.boxes >= 0) & (scene.boxes <= size)).all()
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
        assert ((scene.labels >= 0) & (scene.labels < len(CLASSES))).all()


def test_every_class_appears() -> None:
    seen = {label for index in range(60) for label in draw_scene(0, index).labels.tolist()}
    assert seen == set(range(len(CLASSES)))


@pytest.mark.parametrize("name", CLASSES)
def test_box_fits_what_is_painted(name: str) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        canvas = np.full((3, 192, 192), 100, np.float32)
        window = place_shape(rng, 192, smallest=14, largest=120)
        distance = SHAPES[name](window.u, window.v)
        box = bounding_box(distance <= 0, window)
        assert box is not None
        paint_shape(rng, canvas, window, distance)
        rows, columns = np.nonzero((canvas != 100).any(axis=0))
        # at the sharpest tip, a stretched star's of 11 degrees either side, the soft rim reaches 2.1 pixels ahead, and
        # the last 2.5 are narrower than a pixel
        assert box[0] - 5 <= columns.min() <= box[0]
        assert box[1] - 5 <= rows.min() <= box[1]
        assert box[2] <= columns.max() + 1 <= box[2] + 5
        assert box[3] <= rows.max() + 1 <= box[3] + 5


def test_box_is_in_pixels_of_the_image_with_exclusive_ends() -> None:
    window = place_shape(np.random.default_rng(0), 192, smallest=40, largest=40)
    inside = np.zeros(window.u.shape, np.bool_)
    inside[2:7, 3:12] = True
    left, top = window.columns.start, window.rows.start
    assert bounding_box(inside, window) == (left + 3, top + 2, left + 12, top + 7)


def test_an_object_mostly_covered_by_others_is_dropped() -> None:
    owner = np.zeros((4, 4), np.uint8)
    owner[0] = 1
    owner[1:] = 2
    box = Box(0, 0, 4, 4)
    half_covered = DrawnObject(box, label=0, area=8)
    mostly_covered = DrawnObject(box, label=0, area=9)
    uncovered = DrawnObject(box, label=1, area=12)
    assert visible_objects(owner, [half_covered, uncovered]) == [half_covered, uncovered]
    assert visible_objects(owner, [mostly_covered, uncovered]) == [uncovered]


def test_boxes_overlap_by_less_than_a_third_of_the_smaller() -> None:
    for index in range(20):
        boxes = [Box(*map(int, box)) for box in draw_scene(0, index).boxes]
        assert all(overlap(one, other) <= 0.3 for one, other in combinations(boxes, 2))


def test_splits_do_not_share_an_index() -> None:
    starts = sorted(scene_index(split, 0) for split in SPLITS)
    assert all(later - earlier >= SPLIT_SIZE for earlier, later in pairwise(starts))


@pytest.mark.parametrize("number", [-1, SPLIT_SIZE])
def test_a_scene_beyond_its_split_is_refused(number: int) -> None:
    with pytest.raises(
        ValueError, match=rf"scene {number} of 'calibrate' does not exist; a split has 0 to 999999"
    ):
        scene_index("calibrate", number)
