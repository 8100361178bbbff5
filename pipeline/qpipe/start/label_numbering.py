"""How labels may be numbered beside the scores of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpipe.start.network_family import IMAGENET_CLASSES_WITH_BACKGROUND
from qpipe.start.sample_sources import Labels

FROM_ONE = -1  # the place of label 0 among the scores where labels count from 1
BACKGROUND = 1  # that where score 0 is that of a background


@dataclass(frozen=True)
class LabelNumbering:
    """The place of label 0 among the scores, and the order in which named classes are numbered."""

    first: int = 0
    class_order: str = "number"

    @property
    def metric(self) -> Mapping[str, Any] | str:
        """The metric that scores labels numbered like this, as a recipe has it."""
        return {"topk": {"first": self.first}} if self.first else "topk"

    @property
    def words(self) -> str:
        """What is special about it; empty for the usual one."""
        parts = []
        if self.first == FROM_ONE:
            parts.append("labels from 1")
        if self.first == BACKGROUND:
            parts.append("labels after a background")
        if self.class_order == "name":
            parts.append("classes by name")
        return ", ".join(parts)


def plausible_numberings(labels: Labels, classes: int) -> list[LabelNumbering]:
    """Return the numberings that fit as many scores, the usual one first; none where none fits."""
    if labels.names:
        places = _places_of_names(labels.names, classes)
    else:
        places = _places_of_numbers(labels, classes)
    orders = ("number", "name") if labels.has_two_orders else ("number",)
    return [LabelNumbering(place, order) for place in places for order in orders]


def _places_of_names(count: int, classes: int) -> Sequence[int]:
    if count == classes:
        return [0]
    return _usual_first([0, BACKGROUND], classes) if count == classes - 1 else []


def _places_of_numbers(labels: Labels, classes: int) -> Sequence[int]:
    highest = labels.highest or 0
    lowest = labels.lowest or 0
    places = [0] if highest < classes else []
    if lowest >= 1 and highest <= classes:
        places.append(FROM_ONE)
    may_have_background = classes in (IMAGENET_CLASSES_WITH_BACKGROUND, highest + 2)
    if may_have_background and highest + BACKGROUND < classes:
        places.append(BACKGROUND)
    return _usual_first(places, classes)


def _usual_first(places: Sequence[int], classes: int) -> list[int]:
    """Return the places in the order in which they are to be assumed."""
    has_background = classes == IMAGENET_CLASSES_WITH_BACKGROUND
    return sorted(places, key=lambda place: place != (BACKGROUND if has_background else 0))


def renumbered(target: int, numbering: LabelNumbering, classes: Sequence[str]) -> int:
    """Return the number that a class has under a numbering; `classes` are in numeric order."""
    if numbering.class_order == "number":
        return target
    return sorted(classes).index(classes[target])
