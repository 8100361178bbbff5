"""How every chart looks: colours, type, and the states of rows that they tell apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Spec = dict[str, Any]  # a specification of Vega-Lite, or a part of one, as JSON

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
State = Literal["to ship", "on the front", "not on the front", "float"]

# the variables of the style sheet, so that a page's charts follow light, dark and paper
INK = "var(--ink)"
MUTED = "var(--muted)"
RULE = "var(--rule)"
DIM = "var(--dim)"
FRONT = "var(--front)"
SHIP = "var(--ship)"
PAPER = "var(--paper)"
# what they are in a picture, which has no style sheet
PICTURE_COLOURS = {
    INK: "#1c2126",
    MUTED: "#5a646e",
    RULE: "#dfe0db",
    DIM: "#a7adb3",
    FRONT: "#0072b2",
    SHIP: "#d55e00",
    PAPER: "#ffffff",
}
ROW_HEIGHT = 24  # of a scheme in a chart of all, in pixels
NUMBER = ",.4~r"  # at most four digits, without an exponent
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, DejaVu Sans, sans-serif"

COLOURS: Mapping[State, str] = {
    "to ship": SHIP,
    "on the front": FRONT,
    "not on the front": DIM,
    "float": INK,
}
# told apart without colours, too
SHAPES: Mapping[State, str] = {
    "to ship": "diamond",
    "on the front": "circle",
    "not on the front": "circle",
    "float": "square",
}
STATE_LEGEND: Spec = {"title": None, "orient": "top", "values": list(COLOURS)}


def chart(parts: Spec, *, title: str, subtitle: str = "") -> Spec:
    """Return a whole specification in the common style."""
    return {
        "$schema": SCHEMA,
        "title": {"text": title, "subtitle": subtitle},
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": None,
        "config": _config(),
        **parts,
    }


def colour_by_state() -> Spec:
    """Return the encoding of a row's state as its colour."""
    scale = {"domain": list(COLOURS), "range": list(COLOURS.values())}
    return {"field": "state", "type": "nominal", "scale": scale, "legend": STATE_LEGEND}


def shape_by_state() -> Spec:
    """Return the encoding of a row's state as the shape of its mark."""
    scale = {"domain": list(SHAPES), "range": list(SHAPES.values())}
    return {"field": "state", "type": "nominal", "scale": scale}


def quantity(field: str, title: str) -> Spec:
    """Return the encoding of a number along an axis that need not begin at zero."""
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"zero": False, "padding": 12},
        "axis": {"title": title or None, "format": NUMBER},
    }


def schemes(names: Sequence[str], longest: int = 170) -> Spec:
    """Return the encoding of rows one below the other; names end after `longest` pixels."""
    axis = {"title": None, "grid": True, "labelColor": INK, "labelLimit": longest}
    return {"field": "name", "type": "nominal", "sort": list(names), "axis": axis}


def line_at_one(title: str) -> Spec:
    """Return a line where a ratio says that there is no difference; all layers name the axis."""
    return {
        "data": {"values": [{"one": 1}]},
        "mark": {"type": "rule", "color": INK, "strokeDash": [4, 4]},
        "encoding": {"x": quantity("one", title), "y": None},
    }


def for_picture(spec: Spec, *, width: int) -> Spec:
    """Return a specification of fixed width, with colours in place of the style sheet's."""
    text = json.dumps({**spec, "width": width, "autosize": "pad", "background": PAPER})
    for variable, colour in PICTURE_COLOURS.items():
        text = text.replace(json.dumps(variable), json.dumps(colour))
    fixed: Spec = json.loads(text)
    return fixed


def for_page(spec: Spec) -> Spec:
    """Return a specification for a page, which has the title and the key of states in its text."""
    untitled = {name: value for name, value in spec.items() if name != "title"}
    text = json.dumps(untitled).replace(json.dumps(STATE_LEGEND), "null")
    plain: Spec = json.loads(text)
    return plain


def _config() -> Spec:
    axis = {
        "domain": False,
        "gridColor": RULE,
        "labelColor": MUTED,
        "labelFlush": False,
        "labelFont": FONT,
        "labelFontSize": 12,
        "labelPadding": 8,
        "ticks": False,
        "titleColor": INK,
        "titleFont": FONT,
        "titleFontSize": 13,
        "titleFontWeight": 500,
        "titlePadding": 12,
    }
    legend = {
        "labelColor": MUTED,
        "labelFont": FONT,
        "labelFontSize": 12,
        "titleColor": MUTED,
        "titleFont": FONT,
        "titleFontSize": 12,
        "titleFontWeight": 400,
        "columnPadding": 18,
        "symbolOpacity": 1,
    }
    title = {
        "anchor": "start",
        "color": INK,
        "font": FONT,
        "fontSize": 17,
        "fontWeight": 650,
        "offset": 14,
        "subtitleColor": MUTED,
        "subtitleFont": FONT,
        "subtitleFontSize": 12.5,
        "subtitlePadding": 6,
    }
    return {
        "axis": axis,
        "axisY": {"tickCount": 6},
        "axisQuantitative": {"tickCount": 6},
        "legend": legend,
        "title": title,
        "text": {"font": FONT, "fontSize": 12, "color": INK},
        "view": {"stroke": None},
        "rule": {"strokeCap": "round"},
        "mark": {"invalid": "filter"},
    }
