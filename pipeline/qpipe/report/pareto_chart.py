"""The Pareto chart of a model on a device: two metrics against each other, a third as area.

Its signals x, y and area name the metrics that are shown, so that a page can switch them. Charts of
several devices have the same axes while the signal `same` is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qpipe.report import chart_style as style
from qpipe.report.chart_rows import PlaceData
from qpipe.report.chart_style import Spec

Extents = Mapping[str, tuple[float, float]]  # by metric: the least and the most, as it is shown

HEIGHT = 400
HOW_TO_READ = (
    "Each mark is a scheme: its bars are 95 % intervals, its area is the third metric. The line "
    "joins the schemes of the front that nothing beats in the two metrics shown; dashes join "
    "schemes that are tied, orange dashes are limits. Grey ones are not on the front."
)
# a front is drawn from the best along x, towards the better along y
COST = "goals[x] == 'max' ? -datum.x : datum.x"
GAIN = "goals[y] == 'min' ? -datum.y : datum.y"
LINE_HEIGHT = 16  # of names, in pixels
NAMES_WIDTH = "clamp(width * 0.3, 118, 150)"
MOST_NAMES = 24  # of more rows, and of more on the front, only those that matter most have a name


def pareto_chart(place: PlaceData, extents: Extents | None = None) -> Spec:
    """Return the specification of the chart; `extents` of metrics are those of all devices."""
    keys = place.keys
    across, upward, area = place.default_axes
    parameters = {
        "x": keys[across],
        "y": keys[upward],
        "area": keys[area],
        "titles": place.titles,
        "goals": place.goals,
        "same": bool(extents),
        "extents": {key: (extents or {}).get(metric) for metric, key in keys.items()},
    }
    parts = {
        "height": HEIGHT,
        "params": [{"name": name, "value": value} for name, value in parameters.items()],
        "data": {"values": place.chart_rows()},
        "transform": _axes_transforms(),
        "encoding": {"x": _axis("x"), "y": _axis("y")},
        "layer": [
            *_limits(place),
            _front(),
            *_ties(place),
            _interval("x"),
            _interval("y"),
            *_names(),
            _marks(place),
        ],
    }
    area_title = place.titles[keys[area]]
    subtitle = f"bars: 95 % intervals; area: {area_title}; line: the Pareto front in these two"
    return style.chart(parts, title=place.title, subtitle=subtitle)


def common_extents(places: Sequence[PlaceData]) -> Extents | None:
    """Return the extents of each metric over several devices; None where there is only one."""
    if len(places) < 2:
        return None
    values: dict[str, list[float]] = {}
    for place in places:
        for row in place.rows:
            for metric, number in row["metrics"].items():
                ends = (number["value"], number["low"], number["high"])
                scale = place.scale(metric)
                values.setdefault(metric, []).extend(e * scale for e in ends if e is not None)
    return {metric: (min(numbers), max(numbers)) for metric, numbers in values.items()}


def _axes_transforms() -> list[Spec]:
    """Return the transforms that give a row the numbers of the axes, and drop rows without."""
    fields = {f"{axis}{end}": (source, axis) for axis in "xy" for end, source in _ENDS.items()}
    transforms: list[Spec] = [
        {"calculate": f"datum.{source}[{axis}]", "as": name}
        for name, (source, axis) in fields.items()
    ]
    transforms.append({"calculate": "datum.value[area]", "as": "area"})
    transforms.append({"filter": "isValid(datum.x) && isValid(datum.y)"})
    return transforms


_ENDS = {"": "value", "_low": "low", "_high": "high"}


def _axis(name: str) -> Spec:
    ends = {
        end: {"expr": f"same && extents[{name}] ? extents[{name}][{index}] : null"}
        for index, end in enumerate(("domainMin", "domainMax"))
    }
    scale: Spec = {"zero": False, "padding": 22, **ends}
    if name == "x":
        scale["range"] = [0, {"expr": f"width - {NAMES_WIDTH} - 12"}]
    return {
        "field": name,
        "type": "quantitative",
        "scale": scale,
        "axis": {"title": {"expr": f"titles[{name}]"}, "format": style.NUMBER, "grid": name == "y"},
    }


def _interval(axis: str) -> Spec:
    """Return the bars along an axis, of rows whose interval is known."""
    ends = {axis: {"field": f"{axis}_low"}, f"{axis}2": {"field": f"{axis}_high"}}
    ends[axis] |= {"type": "quantitative"}
    return {
        "transform": [{"filter": f"isValid(datum.{axis}_low) && isValid(datum.{axis}_high)"}],
        "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.45},
        "encoding": {**ends, "color": style.colour_by_state()},
    }


def _front() -> Spec:
    order = [{"field": "cost"}, {"field": "gain", "order": "descending"}]
    return {
        "transform": [
            {"filter": "datum.is_front"},
            {"calculate": COST, "as": "cost"},
            {"calculate": GAIN, "as": "gain"},
            {"window": [{"op": "max", "field": "gain", "as": "best"}], "sort": order},
            {"window": [{"op": "lag", "field": "best", "as": "best_before"}], "sort": order},
            {"filter": "!isValid(datum.best_before) || datum.gain > datum.best_before"},
        ],
        "mark": {
            "type": "line",
            "interpolate": "step-after",
            "color": style.FRONT,
            "strokeWidth": 1.5,
            "opacity": 0.6,
        },
        "encoding": {"order": {"field": "cost", "type": "quantitative"}},
    }


def _ties(place: PlaceData) -> list[Spec]:
    """Return dashes from each row to the next one that it is tied with."""
    rows = {row["name"]: row for row in place.chart_rows()}
    names = list(rows)
    ends = []
    for row in place.rows:
        following = names[names.index(row["name"]) + 1 :]
        tied = next((name for name in following if name in row["ties"]), None)
        if tied is not None:
            pair = row["name"]
            ends += [{**rows[pair], "pair": pair}, {**rows[tied], "pair": pair}]
    if not ends:
        return []
    dashes: Spec = {
        "data": {"values": ends},
        "transform": _axes_transforms(),
        "mark": {"type": "line", "strokeDash": [2, 4], "color": style.MUTED, "strokeWidth": 1.5},
        "encoding": {"detail": {"field": "pair", "type": "nominal"}},
    }
    return [dashes]


def _limits(place: PlaceData) -> list[Spec]:
    """Return a line for each limit, which shows where its metric is on an axis."""
    keys = place.keys
    limits = [
        {
            "metric": keys[metric],
            "bound": bound * place.scale(metric),
            "text": f"{metric} {comparison} {bound:g}",
        }
        for metric, (comparison, bound) in place.limits.items()
        if metric in keys
    ]
    if not limits:
        return []
    return [_limit_lines(limits, "x"), _limit_lines(limits, "y")]


def _limit_lines(limits: Sequence[Spec], axis: str) -> Spec:
    other = "y" if axis == "x" else "x"
    length = f"width - {NAMES_WIDTH}" if axis == "x" else "height"
    return {
        "data": {"values": limits},
        # in pixels, for a limit that is far off must not stretch the axis
        "transform": [
            {"filter": f"datum.metric == {axis}"},
            {"calculate": f"scale('{axis}', datum.bound)", "as": "at"},
            {"filter": f"0 <= datum.at && datum.at <= {length}"},
        ],
        "mark": {"type": "rule", "strokeDash": [6, 4], "color": style.SHIP, "strokeWidth": 1.5},
        "encoding": {
            axis: _pixels("at"),
            other: None,
            "tooltip": {"field": "text", "type": "nominal", "title": "limit"},
        },
    }


def _marks(place: PlaceData) -> Spec:
    """Return the rows themselves; the tooltip has all that was measured."""
    tooltips: list[Spec] = [
        {"field": "name", "type": "nominal", "title": "scheme"},
        {"field": "verdict", "type": "nominal", "title": "verdict"},
    ]
    tooltips += [
        {"field": f"text.{key}", "type": "nominal", "title": title}
        for key, title in place.titles.items()
    ]
    return {
        "mark": {"type": "point", "filled": True, "opacity": 1, "stroke": style.PAPER},
        "encoding": {
            "color": style.colour_by_state(),
            "shape": style.shape_by_state(),
            "size": {
                "field": "area",
                "type": "quantitative",
                "scale": {"range": [40, 460], "zero": True},
                "legend": None,
            },
            "tooltip": tooltips,
        },
    }


def _names() -> list[Spec]:
    """Return the names in a column at the right, with lines to their marks.

    From top to bottom each name is as high as its mark, or a line below the name above it: the
    running maximum of height less lines before gives that. Of many rows only some are named.
    """
    transforms: list[Spec] = [
        {"calculate": "datum.state == 'on the front' ? 1 : 0", "as": "is_of_front"},
        {
            "joinaggregate": [
                {"op": "count", "as": "count"},
                {"op": "sum", "field": "is_of_front", "as": "on_front"},
            ]
        },
        {
            "filter": f"datum.count <= {MOST_NAMES} || datum.state == 'to ship' "
            f"|| datum.state == 'float' || datum.is_of_front && datum.on_front <= {MOST_NAMES}"
        },
        {"calculate": "scale('x', datum.x)", "as": "mark_x"},
        {"calculate": "scale('y', datum.y)", "as": "mark_y"},
        {"window": [{"op": "row_number", "as": "line"}], "sort": [{"field": "mark_y"}]},
        {"calculate": f"datum.mark_y - datum.line * {LINE_HEIGHT}", "as": "raised"},
        {
            "window": [{"op": "max", "field": "raised", "as": "most_raised"}],
            "sort": [{"field": "mark_y"}],
        },
        {"calculate": f"datum.most_raised + datum.line * {LINE_HEIGHT}", "as": "name_y"},
        {"joinaggregate": [{"op": "max", "field": "name_y", "as": "lowest"}]},
        {"calculate": "datum.name_y - max(0, datum.lowest - height + 6)", "as": "name_y"},
        {"calculate": f"width - {NAMES_WIDTH}", "as": "name_x"},
        {"calculate": "datum.name_x - 6", "as": "line_end"},
        {"calculate": "datum.mark_x + 10", "as": "line_start"},
        {"calculate": "(datum.state == 'to ship' ? 'ship ' : '') + datum.name", "as": "label"},
    ]
    line: Spec = {
        "mark": {"type": "rule", "strokeWidth": 1, "strokeDash": [1, 4], "opacity": 0.7},
        "encoding": {
            "x": _pixels("line_start"),
            "x2": {"field": "line_end"},
            "y": _pixels("mark_y"),
            "y2": {"field": "name_y"},
            "color": style.colour_by_state(),
        },
    }
    name: Spec = {
        "mark": {
            "type": "text",
            "align": "left",
            "baseline": "middle",
            "limit": {"expr": NAMES_WIDTH},
        },
        "encoding": {
            "x": _pixels("name_x"),
            "y": _pixels("name_y"),
            "text": {"field": "label", "type": "nominal"},
            "color": {
                "condition": {"test": "datum.state == 'not on the front'", "value": style.MUTED},
                **style.colour_by_state(),
            },
        },
    }
    return [{"transform": transforms, "layer": [line, name]}]


def _pixels(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "scale": None}
