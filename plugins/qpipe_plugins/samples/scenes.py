"""Drawn scenes with boxes, as samples."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from qpipe.types import Dataset, Preprocessing, Sample
from qpipe_plugins.samples.picture_decoding import decode_picture
from qpipe_plugins.samples.scene_drawing import CLASSES, draw_scene, scene_index


def scenes(
    *,
    calibration_count: int = 256,
    evaluation_count: int = 500,
    size: int = 192,
    seed: int = 0,
) -> Dataset:
    """Draw scenes of simple shapes with boxes: a detection data set that needs no download.

    The same seed gives the same pixels on every machine; calibration, evaluation and training
    have no scene in common.
    """
    preprocessing = Preprocessing((127.5,), (127.5,), "NCHW")
    return Dataset(
        _draw_split("calibrate", calibration_count, size=size, seed=seed),
        _draw_split("evaluate", evaluation_count, size=size, seed=seed),
        {"image": preprocessing},
        CLASSES,
        # for other pictures: those of scenes have the size already
        partial(decode_picture, size=(size, size), fit="stretch"),
    )


def _draw_split(split: str, count: int, *, size: int, seed: int) -> Iterator[Sample]:
    for number in range(count):
        scene = draw_scene(seed, scene_index(split, number), size)
        target = {"boxes": scene.boxes.tolist(), "labels": scene.labels.tolist()}
        yield Sample(f"{split}-{number}", {"image": scene.image}, target)
