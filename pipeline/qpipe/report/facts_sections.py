"""What stands behind the numbers of a report: devices and their state, failures, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qpipe.report.page_template import bullets, escape, facts, paragraphs, table
from qpipe.report.run_content import RunContent
from qpipe.storage.rows import MeasurementRow, StepRow

DIGESTS = ("model_digest", "build_digest", "evaluation_digest", "metric_digest", "fingerprint")
# of the state around a round: what says nothing of its conditions
UNTOLD = frozenset({"boot_id", "uptime_s", "switches"})


def environment_section(content: RunContent) -> str:
    """Return what each device was, and in which state it measured."""
    parts = ['<h2 id="environment">Devices</h2>']
    for device, reported in content.capabilities.items():
        runtimes = ", ".join(f"{name} {version}" for name, version in reported.runtimes.items())
        pairs = [
            ("processor", f"{reported.cpu}, {reported.cores} cores, {reported.arch}"),
            ("features", ", ".join(reported.features) or "-"),
            ("memory", f"{reported.memory_mb:.0f} MB"),
            ("system", reported.system),
            ("runtimes", runtimes or "-"),
            ("Python, numpy", f"{reported.python}, {reported.numpy}"),
            ("fingerprint", reported.fingerprint),
            *_states(content, device),
        ]
        parts += [f"<h3>{escape(device)}</h3>", facts(pairs)]
    return "\n".join(parts)


def _states(content: RunContent, device: str) -> list[tuple[str, str]]:
    """Return the states that were seen around the rounds of a device, each with its range."""
    seen: dict[str, list[Any]] = {}
    for place in content.places:
        if place.where[1] == device:
            for judged in place.judged:
                for measurement in judged.candidate.metrics.values():
                    for condition in measurement.conditions:
                        for snapshot in condition.get("environment", {}).values():
                            _collect(seen, snapshot)
    return [(name, _range(values)) for name, values in seen.items()]


def _collect(seen: dict[str, list[Any]], value: Any, name: str = "") -> None:
    """Add the values of a snapshot, by the names of the keys that lead to them."""
    if isinstance(value, Mapping):
        for key, element in value.items():
            if key not in UNTOLD:
                _collect(seen, element, f"{name} {key}".strip())
    elif isinstance(value, list):
        _collect(seen, value[0] if value else None, name)
    elif name and value is not None:
        seen.setdefault(name, []).append(value)


def _range(values: list[Any]) -> str:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low = min(values)
        high = max(values)
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return ", ".join(dict.fromkeys(str(value) for value in values))


def failures_section(content: RunContent) -> str:
    """Return what did not end well, each with its reason, which says what to do."""
    failed = [step for step in content.steps if step["state"] == "failed"]
    skipped = [step["step"] for step in content.steps if step["state"] == "skipped"]
    if not (failed or skipped or content.unreachable):
        return '<h2 id="failures">Failures</h2>\n<p>None: every step ended well.</p>'
    parts = ['<h2 id="failures">Failures</h2>']
    parts.append(paragraphs(content.unreachable.values(), style="warning"))
    if failed:
        rows = [_failure(step) for step in failed]
        parts.append(table(("step", "type", "attempts", "what, and what to do"), rows))
    if skipped:
        parts.append(f"<p>{len(skipped)} steps that depend on these were skipped.</p>")
        parts.append(_folded("skipped steps", bullets(skipped)))
    return "\n".join(parts)


def _failure(step: StepRow) -> tuple[str, str, int, str]:
    failure = (step["failure"] or "bug").replace(" ", "\N{NO-BREAK SPACE}")
    return step["step"], failure, step["attempts"] or 1, step["error"] or ""


def provenance_section(content: RunContent) -> str:
    """Return the run, every version and digest, and the recipe itself."""
    run = content.results.run
    request = ", ".join(
        f"{name}: {_option_text(value)}" for name, value in run["request"].items() if value
    )
    pairs = [
        ("run", run["id"]),
        ("tags", ", ".join(content.tags) or "-"),
        ("state", run["state"]),
        ("started", _time(run["started"])),
        ("finished", _time(run["finished"]) if run["finished"] else "-"),
        ("host", run["host"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
        ("options", request or "-"),
        ("recipe", run["recipe_path"]),
        ("digest of the recipe", run["recipe_digest"]),
    ]
    recipe = f'<pre class="source">{escape(run["recipe_text"])}</pre>'
    digests = table(("model", "scheme", "build", "device", "digest", "of"), _digests(content))
    return (
        f'<h2 id="provenance">Provenance</h2>\n{facts(pairs)}\n'
        f"{_folded('digests of networks, samples, metrics and devices', digests)}\n"
        f"{_folded('the recipe', recipe)}"
    )


def _time(text: str) -> str:
    """Return a time in ISO 8601 to the second."""
    return f"{text[:19].replace('T', ' ')} UTC"


def _option_text(value: Any) -> str:
    """Return the value of an option as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_option_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def _digests(content: RunContent) -> Iterable[tuple[str, ...]]:
    """Return the digests of each row, once each."""
    rows = [_row_digests(row) for row in content.measurements]
    return dict.fromkeys(digest for digests in rows for digest in digests)


def _row_digests(row: MeasurementRow) -> list[tuple[str, ...]]:
    place = (row["model"], row["scheme"], row["build"], row["device"])
    columns: Mapping[str, Any] = row
    return [
        (*place, str(columns[name]), name.removesuffix("_digest"))
        for name in DIGESTS
        if columns[name]
    ]


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>"
