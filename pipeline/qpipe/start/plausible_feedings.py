"""The ways in which a network may have been fed with pictures when it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qpipe.start.network_facts import Network, Picture
from qpipe.start.network_family import Family, Size
from qpipe.start.scalings import Numbers, Preferences, Scaling, plausible_scalings

COLOR_ORDERS = ("RGB", "BGR")


class Fit(NamedTuple):
    """The option that brings a picture to the size of the network's input, and its value."""

    option: str
    value: str


@dataclass(frozen=True)
class Feeding:
    """One way of feeding pictures."""

    scaling: Scaling
    color_order: str
    fit: Fit

    @property
    def options(self) -> dict[str, Any]:
        """The options of the samples stage."""
        return {
            "mean": self._by_channel(self.scaling.mean),
            "std": self._by_channel(self.scaling.std),
            "color_order": self.color_order,
            self.fit.option: self.fit.value,
        }

    @property
    def words(self) -> str:
        """The feeding as a row of a table names it."""
        return f"{self.scaling.words}, {self.color_order}, {self.fit.option} {self.fit.value}"

    def _by_channel(self, numbers: Numbers) -> Numbers:
        """Return numbers by color in the order of the channels as they are fed."""
        if isinstance(numbers, list) and self.color_order == "BGR" and self.scaling.is_by_color:
            return numbers[::-1]
        return numbers


@dataclass(frozen=True)
class PlausibleFeedings:
    """What feedings are combined of; the usual choice comes first."""

    scalings: Sequence[Scaling]
    color_orders: Sequence[str]
    fits: Sequence[Fit]


def plausible_feedings(
    network: Network,
    picture: Picture,
    guess: Family,
    preferences: Preferences,
    fits: Sequence[Fit],
) -> PlausibleFeedings:
    """Return how a network may be fed with pictures that are fitted in one of these ways."""
    colors = ("grey",) if picture.channels == 1 else COLOR_ORDERS
    return PlausibleFeedings(plausible_scalings(network, picture, guess, preferences), colors, fits)


def plausible_fits(kind: str, guess: Family, size: Size) -> list[Fit]:
    """Return how pictures of a kind of samples may be brought to a size, the usual way first."""
    if kind == "coco":
        fits = [Fit("fit", "stretch"), Fit("fit", "letterbox")]
        return fits[::-1] if guess.name == "yolo" else fits
    height, width = size
    squeezed = Fit("crop", "none")
    can_be_cropped = guess.name == "classifier" and height == width
    return [Fit("crop", "center"), squeezed] if can_be_cropped else [squeezed]
