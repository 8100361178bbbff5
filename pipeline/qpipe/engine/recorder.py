"""What a run leaves in the store: each step as it goes, each number with what it depends on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qpipe.engine import cache_keys, stage_results
from qpipe.engine.code_digest import CodeDigests
from qpipe.engine.events import Event
from qpipe.engine.plan import Plan, Step
from qpipe.errors import PluginError
from qpipe.recipe.stage_call import Call
from qpipe.storage.cache import Cache
from qpipe.storage.results import MeasuredRow, Store
from qpipe.storage.rows import AttemptState, MeasurementFacts, StepState
from qpipe.types import Capabilities, Measurement


class Recorder:
    """Writes the steps of one run, their attempts and their numbers to the store."""

    def __init__(
        self,
        store: Store,
        run: str,
        plan: Plan,
        *,
        cache: Cache,
        capabilities: Mapping[str, Capabilities],  # by device
    ) -> None:
        self.store = store
        self.run = run
        self.plan = plan
        self.cache = cache
        self.capabilities = capabilities
        # the number of attempts at each step so far, also in earlier parts of the run
        self.attempts = {row["step"]: row["attempts"] or 0 for row in store.steps(run)}
        # the newest attempt at each step in this part of the run
        self.current_attempts: dict[str, int] = {}
        self.code = CodeDigests()
        # digests that many numbers share
        self.result_digests: dict[str, str | None] = {}  # by step
        self.sample_digests: dict[str, str] = {}  # of evaluation samples, by step
        self.metric_digests: dict[int, str] = {}  # by the call of a measuring stage

    def record_plan(self, failed: Collection[str] = ()) -> None:
        """Record every step as pending, but those that this run has done, or that just failed.

        Numbers of a step that has another key now are dropped: they are of something else. Under
        the same key they hold until the step gives new ones.
        """
        recorded = {row["step"]: row for row in self.store.steps(self.run)}
        changed: list[str] = []
        pending: list[dict[str, object]] = []
        for step in self.plan.steps.values():
            row = recorded.get(step.id)
            has_same_key = row is not None and row["key"] == step.key
            if row is not None and not has_same_key:
                changed.append(step.id)
            is_done = row is not None and has_same_key and row["state"] in ("done", "cached")
            if not is_done and step.id not in failed:
                blank = dict.fromkeys(("started", "finished", "seconds", "error", "failure"))
                pending.append({**self._step_columns(step, "pending"), **blank})
        self.store.forget_measurements(self.run, changed)
        self.store.record_steps(self.run, pending)

    def record_event(self, event: Event) -> None:
        """Record the state of a step, and that of its attempt."""
        if event.what == "planned" or event.what == "progress" or event.what == "notice":
            return
        now = _now()
        if event.what == "started":
            self._record_start(event.step, now)
        elif event.what == "retry":
            self._record_step(event.step, "running", **_end_columns(event, now))
            self._record_attempt_end(event, "failed", now)
        else:
            self._record_step(event.step, event.what, **_end_columns(event, now))
            self._record_attempt_end(event, event.what, now)
            if event.what in ("done", "cached"):
                self._record_training(self.plan.steps[event.step])

    def _record_start(self, step: str, now: str) -> None:
        self._record_step(step, "running", started=now, finished=None, error=None, failure=None)
        attempt = self.attempts.get(step, 0) + 1
        self.attempts[step] = attempt
        self.current_attempts[step] = attempt
        self.store.record_attempt(self.run, step, attempt, state="running", started=now)

    def _record_step(self, step: str, state: StepState, **columns: object) -> None:
        row = self._step_columns(self.plan.steps[step], state)
        self.store.record_steps(self.run, [{**row, **columns}])

    def _record_attempt_end(self, event: Event, state: AttemptState, now: str) -> None:
        attempt = self.current_attempts.get(event.step)
        if attempt is not None:
            self.store.record_attempt(
                self.run,
                event.step,
                attempt,
                state=state,
                finished=now,
                failure=event.failure,
                error=event.message or None,
            )

    def _record_training(self, step: Step) -> None:
        if step.kind == "quantize":
            curve = stage_results.training_curve(step.result_folder(self.cache))
            self.store.record_training(self.run, step.id, curve)

    def _step_columns(self, step: Step, state: StepState) -> dict[str, object]:
        """Return what is known of a step before it runs, as columns of the store."""
        return {
            "step": step.id,
            "kind": step.kind,
            "stage": step.stage_name,
            "state": state,
            "key": step.key,
            "key_fields": dict(step.fields),
            "device": step.device,
            "model": step.coordinates.get("model"),
            "scheme": step.coordinates.get("scheme"),
            "build": step.coordinates.get("build"),
        }

    # ---- numbers

    def record_measurements(self, step: Step, measurements: Sequence[Measurement]) -> None:
        """Record a measuring step's numbers, in place of those of an attempt before.

        Each goes to the row that it belongs to; raise PluginError for a row that is not there.
        """
        by_row: dict[str, list[Measurement]] = {}
        for measurement in measurements:
            # numbers from the cache may bear the name that the row had when they were measured
            label = measurement.deployed if step.fan_in else step.label
            by_row.setdefault(label, []).append(measurement)
        rows: list[MeasuredRow] = []
        for label, of_row in by_row.items():
            deploy = self.plan.steps.get(f"{label}@{step.device}")
            if deploy is None:
                raise PluginError(
                    f"{step.id}: it gave a number of '{label}'; "
                    "give numbers of what was deployed, by name",
                    failure="bug",
                )
            rows.append((deploy.coordinates, of_row, self._facts(step, deploy)))
        self.store.replace_measurements(self.run, step.id, rows)

    def _facts(self, step: Step, deploy: Step) -> MeasurementFacts:
        model = deploy.coordinates["model"]
        compiled = self.plan.steps[deploy.needs["build"]]
        build = compiled.result_folder(self.cache)
        network = self.plan.steps[self.plan.imported[model]]
        samples = self.plan.steps[self.plan.samples[model]]
        target: dict[str, dict[str, Any]] = {}
        if deploy.target is not None:
            target["target"] = asdict(deploy.target)
        if deploy.platform is not None:
            target["platform"] = asdict(deploy.platform)
        capabilities = self.capabilities[str(deploy.device)]
        return {
            "attempt": self.current_attempts.get(step.id),  # None where they are from the cache
            "runtime": _runtime(compiled, build),
            "is_float": deploy.is_float,
            "model_digest": self._result_digest(network),
            "build_digest": self._result_digest(compiled),
            "evaluation_digest": self._evaluation_digest(samples),
            "metric_digest": self._metric_digest(step.call) if step.call else None,
            "target": target,
            "fingerprint": capabilities.fingerprint,
            "emulated": capabilities.emulated,
        }

    def _result_digest(self, step: Step) -> str | None:
        """Return the digest of a result; None where it has left the cache."""
        if self.result_digests.get(step.id) is None:
            folder = step.result_folder(self.cache)
            self.result_digests[step.id] = cache_keys.digest(folder) if folder.is_dir() else None
        return self.result_digests[step.id]

    def _evaluation_digest(self, step: Step) -> str:
        if step.id not in self.sample_digests:
            folder = step.result_folder(self.cache)
            self.sample_digests[step.id] = stage_results.sample_digests(folder)["evaluation"]
        return self.sample_digests[step.id]

    def _metric_digest(self, call: Call) -> str:
        if id(call) not in self.metric_digests:
            fields = cache_keys.of_call(call, self.code)
            self.metric_digests[id(call)] = cache_keys.key(fields)
        return self.metric_digests[id(call)]


def _runtime(compiled: Step, build: Path) -> str:
    """Return the runtime of a build, which may have left the cache since it was measured."""
    if build.is_dir():
        return str(stage_results.read(compiled.kind, build).manifest["runtime"])
    return compiled.stage_name


def _end_columns(event: Event, now: str) -> dict[str, object]:
    """Return the columns of a step that an attempt's end sets."""
    return {
        "finished": now,
        "seconds": round(event.seconds, 3),
        "error": event.message or None,
        "failure": event.failure,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
