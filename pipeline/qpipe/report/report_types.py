"""The shape of samples.json, which the page shows too."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

ViewKind = Literal["picture", "sound", "heat map", "numbers"]


class PreprocessingReport(TypedDict):
    """How an input was converted from its source type."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    dtype: str


class ChannelStatistics(TypedDict):
    """Statistics of one channel of an input, or of all its values; None where nothing is finite."""

    input: str
    part: str  # calibration or evaluation
    channel: int | None  # None for all values
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    not_finite: int
    clipped: float | None  # share of the pixels at 0 or 255; None where it is not an image


class InputReport(TypedDict):
    """One input of a sample and the files that show it."""

    input: str
    shape: list[int]
    dtype: str
    shown_as: ViewKind
    note: str
    text: str
    files: list[str]


class SampleReport(TypedDict):
    """One sample: what the network was fed and what it predicted."""

    id: str
    part: str
    inputs: list[InputReport]
    files: list[str]
    target: Any
    prediction: Any
    lines: list[str]
    reason: str


class CorrectLabels(TypedDict):
    """In how many of the labelled samples the label has the highest score."""

    labels: int
    of: int


class ScoreReport(TypedDict):
    """A score of the float network against targets, with its interval."""

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int


class ModelReport(TypedDict):
    """A network with its samples."""

    model: str
    classes: list[str]
    counts: dict[str, int]
    decoded: bool
    preprocessing: dict[str, PreprocessingReport]
    statistics: list[ChannelStatistics]
    warnings: list[str]
    right: CorrectLabels | None  # of the evaluation samples
    scores: list[ScoreReport]  # of the evaluation samples
    samples: list[SampleReport]


class SamplesReport(TypedDict):
    """The content of samples.json."""

    recipe: str
    models: list[ModelReport]
