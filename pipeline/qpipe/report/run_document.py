"""What `--json` prints of runs and comparisons: objects with a version, for scripts and CI.

A field may be added to a version; where one goes or changes its meaning, the version rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NotRequired, cast

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from qpipe.compare.json_rows import DESCRIBED, ComparedRow, ParetoRow, Place
from qpipe.compare.row_phrases import keeps
from qpipe.errors import Failure
from qpipe.report.run_results import RunResults
from qpipe.storage.results import Store
from qpipe.storage.rows import Goal, RunState, StepRow

if TYPE_CHECKING:
    from qpipe.report.two_runs import TwoRuns

RUN_SCHEMA: Literal["qpipe.run/1"] = "qpipe.run/1"
COMPARISON_SCHEMA: Literal["qpipe.comparison/1"] = "qpipe.comparison/1"
RunSchema = Literal["qpipe.run/1"]
ComparisonSchema = Literal["qpipe.comparison/1"]
DeviceState = Literal["measured", "unreachable", "bad"]


@with_config(DESCRIBED)
class DeviceDocument(TypedDict):
    """A device of a run."""

    name: str
    state: DeviceState
    """What became of it in this run: bad if its health is, unreachable if the run left it out."""
    health: Literal["good", "unknown", "bad"]
    """Its health now."""
    reason: str
    """Why it is not good, or was not reached; empty otherwise."""
    capabilities: dict[str, Any] | None
    """What it reported of itself; null where it was not reached."""


@with_config(DESCRIBED)
class FailureDocument(TypedDict):
    """A step that failed."""

    step: str
    device: str | None
    failure: Failure
    """The type of its failure."""
    error: str
    """One line: where, what is wrong, what would be right."""
    attempts: int


@with_config(DESCRIBED)
class RecommendationDocument(TypedDict):
    """What to ship of a model on a device."""

    model: str
    device: str
    scheme: str | None
    """The scheme to ship; null where nothing is recommended."""
    build: str | None
    reasons: list[str]
    """Clauses: what is recommended, or that nothing is; then why, and what would settle it."""


@with_config(DESCRIBED)
class ResultDocument(ParetoRow):
    """A row of `rows`: a deployed build with its metrics and its verdict."""

    within_limits: NotRequired[bool]
    """Whether it keeps the limits, where there are any."""


@with_config(DESCRIBED)
class RunDocument(TypedDict):
    """What `qpipe run --json` and `qpipe pareto --json` print."""

    schema: RunSchema
    run: str
    recipe: str
    state: RunState
    is_smoke: bool
    """Whether it had a handful of samples: its numbers are then no basis for a decision."""
    started: str
    finished: str | None
    tags: list[str]
    objectives: dict[str, Goal]
    devices: list[DeviceDocument]
    failures: list[FailureDocument]
    recommendations: list[RecommendationDocument]
    rows: list[ResultDocument]


@with_config(DESCRIBED)
class ComparisonDocument(TypedDict):
    """What `qpipe compare --json` prints."""

    schema: ComparisonSchema
    before: str
    after: str
    environment: list[str]
    """What differs between the devices of the two runs."""
    unreachable: dict[str, dict[str, str]]
    """By run and device: why it was left out."""
    rows: list[ComparedRow]


def run_document(store: Store, results: RunResults) -> RunDocument:
    """Return a run as an object: state, devices, failures, recommendations and rows."""
    run = results.run
    return {
        "schema": RUN_SCHEMA,
        "run": run["id"],
        "recipe": run["recipe"],
        "state": run["state"],
        "is_smoke": results.is_smoke,
        "started": run["started"],
        "finished": run["finished"],
        "tags": store.tags().get(run["id"], []),
        "objectives": run["objectives"],
        "devices": _devices(store, results),
        "failures": [_failure(row) for row in store.steps(run["id"]) if row["state"] == "failed"],
        "recommendations": _recommendations(results),
        "rows": _rows(results),
    }


def comparison_document(runs: TwoRuns) -> ComparisonDocument:
    """Return two compared runs as an object."""
    return {
        "schema": COMPARISON_SCHEMA,
        "before": runs.before["id"],
        "after": runs.after["id"],
        "environment": [*runs.environment],
        "unreachable": {run: {**reasons} for run, reasons in runs.unreachable.items()},
        "rows": [*runs.rows],
    }


def _devices(store: Store, results: RunResults) -> list[DeviceDocument]:
    reported = store.capabilities(results.run["id"])
    rows: list[DeviceDocument] = []
    for name in dict.fromkeys([*reported, *results.unreachable]):
        row = store.health(name)
        health = row["health"] if row else "unknown"
        reason = results.unreachable.get(name, "")
        if not reason and row and health != "good":
            reason = row["why"]
        capabilities = asdict(reported[name]) if name in reported else None
        rows.append(
            {
                "name": name,
                "state": _device_state(name, health, results.unreachable),
                "health": health,
                "reason": reason,
                "capabilities": capabilities,
            }
        )
    return rows


def _device_state(name: str, health: str, unreachable: Mapping[str, str]) -> DeviceState:
    if name in unreachable:
        return "unreachable"
    return "bad" if health == "bad" else "measured"


def _failure(row: StepRow) -> FailureDocument:
    return {
        "step": row["step"],
        "device": row["device"],
        "failure": _as_failure(row["failure"]),
        "error": row["error"] or "",
        "attempts": row["attempts"] or 1,
    }


def _as_failure(text: str | None) -> Failure:
    return TypeAdapter[Failure](Failure).validate_python(text or "bug")


def _recommendations(results: RunResults) -> list[RecommendationDocument]:
    rows: list[RecommendationDocument] = []
    for model, device in results.places:
        row = results.recommended_row((model, device))
        rows.append(
            {
                "model": model,
                "device": device,
                "scheme": row["scheme"] if row else None,
                "build": row["build"] if row else None,
                "reasons": _reasons(results, (model, device)),
            }
        )
    return rows


def _reasons(results: RunResults, where: Place) -> list[str]:
    return results.recommendation(where) if results.is_knee else list(results.advice(where))


def _rows(results: RunResults) -> list[ResultDocument]:
    documents = []
    for row in results.rows:
        document = cast("ResultDocument", dict(row))
        if results.limits:
            document["within_limits"] = keeps(row, results.limits)
        documents.append(document)
    return documents
