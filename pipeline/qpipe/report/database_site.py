"""What datasette shows beside the tables of a database: descriptions, facets and ready queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ABOUT = (
    "Results of qpipe. Smoke runs, whose numbers do not count, are marked by is_smoke. "
    "docs/reference/database.md describes tables and views."
)
# table or view -> what a row is, and the columns to narrow it by
TABLES: Mapping[str, tuple[str, Sequence[str]]] = {
    "pareto": (
        "A number of a verdict: whether its row is on the front, why not, each metric with its "
        "interval",
        ("model", "device", "scheme", "metric", "on_front", "is_smoke"),
    ),
    "latest": (
        "The newest number of each row of a recipe",
        ("recipe", "device", "scheme", "metric", "is_smoke"),
    ),
    "history": (
        "A number over the runs, with that of the run before",
        ("recipe", "device", "scheme", "metric", "is_smoke"),
    ),
    "runs": ("A run: one execution of a recipe", ("recipe", "state")),
    "steps": ("A step of a run", ("run", "kind", "state", "failure", "device")),
    "measurements": ("A number, with all that it depends on", ("device", "scheme", "metric")),
    "device_events": ("What happened to a device", ("device", "event", "now")),
}
# name -> (title, SQL); a parameter is a field of the page
QUERIES: Mapping[str, tuple[str, str]] = {
    "latency_over_runs": (
        "Latency of a scheme on a device over the last runs",
        """SELECT started, run, model, build, value, low, high, value_before,
       round(100.0 * (value / value_before - 1), 2) AS percent_more
FROM history
WHERE device = :device AND scheme = :scheme AND metric = 'latency_ms' AND NOT is_smoke
ORDER BY started DESC LIMIT 100""",
    ),
    "front_of_the_newest_run": (
        "What is on the front of the newest run",
        """SELECT model, device, scheme, build, metric, value, unit, low, high FROM pareto
WHERE run = (SELECT id FROM runs ORDER BY started DESC LIMIT 1) AND on_front
ORDER BY model, device, scheme, metric""",
    ),
    "schemes_side_by_side": (
        "A metric of each scheme on all devices, newest numbers",
        """SELECT recipe, model, scheme, build, device, value, low, high, unit FROM latest
WHERE metric = :metric AND NOT is_smoke ORDER BY recipe, model, device, value""",
    ),
    "what_moved": (
        "Numbers that moved by more than so many percent since the run before",
        """SELECT started, recipe, device, scheme, metric, value_before, value,
       round(100.0 * (value / value_before - 1), 2) AS percent
FROM history
WHERE NOT is_smoke AND value_before AND abs(value / value_before - 1) * 100 > cast(:percent AS real)
ORDER BY started DESC, abs(value / value_before - 1) DESC LIMIT 200""",
    ),
    "failures": (
        "Steps that failed, by type and device",
        """SELECT failure, device, count(*) AS steps, max(started) AS newest,
       max(error) AS an_error FROM steps
WHERE state = 'failed' GROUP BY failure, device ORDER BY steps DESC""",
    ),
    "health_of_devices": (
        "The health of each device now, and why",
        "SELECT device, health, since, why FROM device_health ORDER BY health, device",
    ),
}


def site_metadata(database: str) -> dict[str, Any]:
    """Return datasette's metadata for a database of that name."""
    tables = {
        name: {"description": description, "facets": list(facets)}
        for name, (description, facets) in TABLES.items()
    }
    queries = {name: {"title": title, "sql": sql} for name, (title, sql) in QUERIES.items()}
    return {
        "title": "qpipe",
        "description": ABOUT,
        "databases": {database: {"tables": tables, "queries": queries}},
    }
