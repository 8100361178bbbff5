"""How training went: the scores on held-out samples of each scheme that was trained."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.report import chart_style as style
from qpipe.report.chart_style import Spec
from qpipe.report.ladder_chart import HEIGHT, SCHEME_COLOURS
from qpipe.storage.rows import TrainingRow

TRAINING = "training"
HOW_TO_READ = (
    "How near the outputs on held-out calibration samples are to float's, as training goes on. The "
    "best state of all is what was built; a stage that trains says how it compares outputs."
)


def training_chart(rows: Sequence[TrainingRow], title: str) -> Spec:
    """Return the specification: a line for each step that trained, with a point for each score."""
    values = [score for row in rows for score in _scores(row)]
    label: Spec = {
        "field": "scheme",
        "type": "nominal",
        "sort": [_label(row) for row in rows],
        "scale": {"range": list(SCHEME_COLOURS)},
        "legend": {"title": None, "orient": "top"},
    }
    step = {
        "field": "step",
        "type": "quantitative",
        "axis": {"title": "step of training", "tickMinStep": 1, "grid": False, "format": "d"},
        "scale": {"nice": False, "padding": 10},
    }
    tooltip = [
        {"field": "scheme", "type": "nominal"},
        {"field": "step", "type": "quantitative"},
        {"field": "score", "type": "quantitative", "title": "dB", "format": style.NUMBER},
        {"field": "loss", "type": "quantitative", "format": style.NUMBER},
    ]
    parts = {
        "height": HEIGHT,
        "data": {"values": values},
        "encoding": {"x": step, "y": style.quantity("score", "dB"), "color": label},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5}},
            {
                "mark": {"type": "point", "filled": True, "size": 40, "opacity": 1},
                "encoding": {"tooltip": tooltip},
            },
        ],
    }
    return style.chart(
        parts, title=f"{title}: training", subtitle="outputs on held-out samples against float, dB"
    )


def trained_steps(rows: Sequence[TrainingRow], model: str) -> list[TrainingRow]:
    """Return the steps that trained a model.

    A network carries its curve along, so stages behind the one that trained it have it, too.
    """
    steps: list[TrainingRow] = []
    for row in rows:
        is_carried = any(
            row["curve"] == step["curve"] and row["scheme"] == step["scheme"] for step in steps
        )
        if row["model"] == model and row["curve"] and not is_carried:
            steps.append(row)
    return steps


def _label(row: TrainingRow) -> str:
    """Return a step's name without that of its model."""
    return row["step"].removeprefix(f"{row['model']}/")


def _scores(row: TrainingRow) -> list[Spec]:
    return [
        {"scheme": _label(row), "step": step, "loss": loss, "score": decibels}
        for step, loss, decibels in row["curve"]
    ]
