"""How pixels of 0 to 255 are scaled for a network: the usual ways, and which is usual where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from qpipe.start.network_facts import Network, Picture
from qpipe.start.network_family import IMAGENET_CLASSES_WITH_BACKGROUND, Family, Size

Numbers = float | list[float]


@dataclass(frozen=True)
class Preferences:
    """The preprocessing that the user asked for."""

    size: Size | None = None
    mean: Numbers | None = None
    std: Numbers | None = None


@dataclass(frozen=True)
class Scaling:
    """The network gets (pixel - mean) / std; a list has a number for each channel."""

    mean: Numbers
    std: Numbers
    words: str
    is_by_color: bool = True  # whether lists are in the order R, G, B, or as the channels are fed


ZERO_TO_ONE = Scaling(0, 255, "0 to 1")
AROUND_ZERO = Scaling(127.5, 127.5, "-1 to 1")
PIXELS = Scaling(0, 1, "0 to 255")
IMAGENET = Scaling([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "as ImageNet's")
CENTERED_PIXELS = Scaling(IMAGENET.mean, 1, "0 to 255 less ImageNet's mean, as Caffe's")
OF_ONE_CHANNEL = (ZERO_TO_ONE, AROUND_ZERO, PIXELS)
OF_COLORS = (*OF_ONE_CHANNEL, IMAGENET, CENTERED_PIXELS)


class UsualScaling(NamedTuple):
    """The scaling that is the commonest for a network, and what makes it so."""

    scaling: Scaling
    reason: str


def usual_scaling(network: Network, picture: Picture, guess: Family) -> UsualScaling:
    """Return the scaling to assume where nothing tells which is right."""
    if picture.dtype == "uint8":
        return UsualScaling(PIXELS, "for networks that take pixels as they are")
    if network.scales_itself:
        reason = "for networks that shift or scale their input themselves, as this one does"
        return UsualScaling(PIXELS, reason)
    if guess.name == "yolo":
        return UsualScaling(ZERO_TO_ONE, "the commonest of such networks")
    if picture.channels == 1:
        return UsualScaling(ZERO_TO_ONE, "the commonest of grey pictures")
    has_background = guess.classes == IMAGENET_CLASSES_WITH_BACKGROUND
    is_tensorflow = "tf2onnx" in network.producer or has_background
    if is_tensorflow or picture.layout == "NHWC" or guess.name == "ssd":
        return UsualScaling(AROUND_ZERO, "the commonest of networks from TensorFlow, and of SSD")
    return UsualScaling(IMAGENET, "the commonest of networks from PyTorch")


def plausible_scalings(
    network: Network, picture: Picture, guess: Family, preferences: Preferences
) -> list[Scaling]:
    """Return the scalings that the network may have been trained with, the usual one first.

    What the user asked for holds in all of them.
    """
    usual = usual_scaling(network, picture, guess).scaling
    if picture.dtype == "uint8":
        return [usual]
    others = OF_ONE_CHANNEL if picture.channels == 1 else OF_COLORS
    return list(_distinct(preferred(scaling, preferences) for scaling in (usual, *others)))


def preferred(scaling: Scaling, preferences: Preferences) -> Scaling:
    """Return a scaling with the mean and std that the user asked for."""
    if preferences.mean is None and preferences.std is None:
        return scaling
    mean = scaling.mean if preferences.mean is None else preferences.mean
    std = scaling.std if preferences.std is None else preferences.std
    words = f"mean {mean}, std {std}"
    return replace(scaling, mean=mean, std=std, words=words, is_by_color=False)


def _distinct(scalings: Iterable[Scaling]) -> Iterator[Scaling]:
    seen: list[Scaling] = []
    for scaling in scalings:
        if scaling not in seen:
            seen.append(scaling)
            yield scaling
