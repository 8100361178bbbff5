"""The charts of a model on a device, by the names of their files."""

from __future__ import annotations

from qpipe.compare.decision import latency_metric
from qpipe.compare.formatting import RATIO
from qpipe.report.chart_rows import PlaceData
from qpipe.report.chart_style import Spec
from qpipe.report.metric_chart import metric_chart
from qpipe.report.pareto_chart import Extents, pareto_chart
from qpipe.report.timing_charts import course_chart, distribution_chart, has_times

PARETO = "pareto"
COURSE = "rounds"
DISTRIBUTION = "distribution"
# further metrics that have a chart of their own, where they were measured: metric -> name
METRIC_CHARTS = {
    RATIO: "time-against-float",
    "memory_mb": "memory",
    "energy_mj": "energy",
    "sustained_ms": "sustained",
}


def place_charts(place: PlaceData, extents: Extents | None = None) -> dict[str, Spec]:
    """Return the specification of each chart that there are numbers for.

    `extents` of metrics are those of all devices, for axes that are the same.
    """
    if not place.metrics:
        return {}
    charts = {PARETO: pareto_chart(place, extents)}
    for metric, name in METRIC_CHARTS.items():
        if metric in place.metrics:
            charts[name] = metric_chart(place, metric)
    times = timed_metric(place)
    if times:
        charts[DISTRIBUTION] = distribution_chart(place, times)
        charts[COURSE] = course_chart(place, times)
    return charts


def timed_metric(place: PlaceData) -> str:
    """Return the latency whose raw times were kept; empty where there is none."""
    group = [judged.candidate for judged in place.judged]
    metric = latency_metric(group, place.objectives)
    return metric if metric is not None and has_times(place, metric) else ""
