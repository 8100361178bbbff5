"""What a run leaves in the store: each step as it ends, each number with the digests of all it depends on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qpipe.engine import cache_keys, stage_results, step_log
from qpipe.engine.events import Event
from qpipe.engine.plan import Plan, Step
from qpipe.errors import PluginError
from qpipe.storage.cache import Cache
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Measurement


class Recorder:
    """Listens to one run."""

    def __init__(
        self,
        store: Store,
        run: str,
        plan: Plan,
        cache: Cache,
        devices: Mapping[str, Capabilities],
        workdir: Path,
    ) -> None:
        self.store = store
        self.run = run
        self.plan = plan
        self.cache = cache
        self.devices = devices
        self.workdir = workdir
        self.attempts = {
            row["step"]: row["attempts"] or 0 for row in store.steps(run)
        }  # made so far, in all sessions
        self.current: dict[
            str, int
        ] = {}  # step -> the attempt that is made of it, or was the last, in this session

    def begin(self, failed: Collection[str] = ()) -> None:
        """Record every step of the plan as pending, but for those that this run is through with already, and those
        that have just failed."""
        before = {row["step"]: row for row in self.store.steps(self.run)}
        # what a step gives under another key is of something else; under the same, its numbers hold until it gives new
        changed = [
            step.id
            for step in self.plan.steps.values()
            if before.get(step.id, {}).get("key") != step.key
        ]
        self.store.forget_measurements(self.run, [step for step in changed if step in before])
        through = {
            step: row["key"] for step, row in before.items() if row["state"] in ("done", "cached")
        }
        blank = dict.fromkeys(("started", "finished", "seconds", "error", "failure"))
        steps = [
            step
            for step in self.plan.steps.values()
            if through.get(step.id) != step.key and step.id not in failed
        ]
        self.store.record_steps(
            self.run, [{**self._row(step, "pending"), **blank} for step in steps]
        )

    def event(self, event: Event) -> None:
        """Record the state of a step."""
        if event.what in ("progress", "notice"):
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = self._row(
            self.plan.steps[event.step],
            "running" if event.what in ("started", "retry") else event.what,
        )
        if event.what == "started":
            row |= {"started": now, "finished": None, "error": None, "failure": None}
        else:
            row |= {
                "finished": now,
                "seconds": round(event.seconds, 3),
                "error": event.message or None,
            }
            row |= {"failure": event.failure}
        self.store.record_steps(self.run, [row])
        self._attempt(event, now)

    def _attempt(self, event: Event, now: str) -> None:
        """Each attempt at a step is a row of its own."""
        step = event.step
        if event.what == "started":
            self.attempts[step] = self.current[step] = self.attempts.get(step, 0) + 1
            self.store.record_attempt(
                self.run, step, self.current[step], state="running", started=now
            )
        elif step in self.current:
            state = "failed" if event.what == "retry" else event.what
            said = {"failure": event.failure, "error": event.message or None}
            self.store.record_attempt(
                self.run, step, self.current[step], state=state, finished=now, **said
            )

    def _row(self, step: Step, state: str) -> dict[str, Any]:
        """What is known of a step before it runs, as columns of the store."""
        return {
            "step": step.id,
            "kind": step.kind,
            "stage": step.call.name if step.call else step.kind,
            "state": state,
            "key": step.key,
            "key_fields": dict(step.fields),
            "device": step.device,
            **{name: step.coordinates.get(name) for name in ("model", "scheme", "build")},
            "log": str(step_log.folder_of(self.workdir, step.id) / step_log.NAME),
        }

    def measured(self, step: Step, measurements: Sequence[Measurement]) -> None:
        """Record a measuring step's numbers under the row each belongs to, in place of those of an attempt before;
        PluginError for a row that is not there."""
        rows: dict[str, list[Measurement]] = {}
        for measurement in measurements:
            # what came from the cache may bear the name that the row had when it was measured
            rows.setdefault(measurement.deployed if step.fan_in else step.label, []).append(
                measurement
            )
        measured = []
        for label, own in rows.items():
            deploy = self.plan.steps.get(f"{label}@{step.device}")
            if deploy is None:
                what = f"it gave a number of '{label}'; give those of what was deployed, by name"
                raise PluginError(f"{step.id}: {what}", failure="bug")
            measured.append((deploy.coordinates, own, self._facts(step, deploy)))
        self.store.replace_measurements(self.run, step.id, measured)

    def _facts(self, step: Step, deploy: Step) -> dict[str, Any]:
        model = deploy.coordinates["model"]
        compiled = self.plan.steps[deploy.needs["build"]]
        build = self._folder(compiled)
        origin = self._folder(self.plan.steps[self.plan.imported[model]])
        samples = self._folder(self.plan.steps[self.plan.samples[model]])
        asked = {"target": deploy.target, "platform": deploy.platform}
        runtime = compiled.call.name if compiled.call else ""
        if build.is_dir():  # it may have left the cache, while the measurement is still there
            runtime = str(stage_results.read("compile", build).manifest["runtime"])
        return {
            "attempt": self.current.get(step.id),  # None of what came from the cache
            "runtime": runtime,
            "is_float": deploy.is_float,
            "model_digest": cache_keys.digest(origin) if origin.is_dir() else None,
            "build_digest": cache_keys.digest(build) if build.is_dir() else None,
            "evaluation_digest": stage_results.sample_digests(samples)["evaluation"],
            "metric_digest": cache_keys.key(cache_keys.of_call(step.call)) if step.call else None,
            "target": {name: asdict(own) for name, own in asked.items() if own is not None},
            "fingerprint": self.devices[str(deploy.device)].fingerprint,
            "emulated": self.devices[str(deploy.device)].emulated,
        }

    def _folder(self, step: Step) -> Path:
        return self.cache.folder(step.kind, step.key) / "value"
