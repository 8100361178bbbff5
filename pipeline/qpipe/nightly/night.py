"""One night of a lab: canaries, runs, what changed, confirming reruns, findings."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from qpipe.engine.device_health import Health
from qpipe.engine.events import Listener, Notify
from qpipe.engine.request import Request, ResolvedRequest, resolve_request
from qpipe.engine.run import Finished
from qpipe.engine.run_lock import lock_run
from qpipe.errors import DeviceError, QpipeError
from qpipe.nightly.baseline import baseline
from qpipe.nightly.board_watch import BoardWatch
from qpipe.nightly.changes import ChangedSeries, find_change, state_of, was_reported
from qpipe.nightly.confirmation import ChangeVerdict, Confirmation
from qpipe.nightly.findings import FindingBook, in_lines, percent
from qpipe.nightly.lab_file import Lab, NightlyRecipe
from qpipe.nightly.recipe_runs import RecipeRuns
from qpipe.nightly.series import Series, read_series
from qpipe.storage.nights import NightStore
from qpipe.storage.rows import CanaryRow, FindingRow, FindingState, FindingStatus

Clock = Callable[[], datetime]

PATIENCE_S = 600.0  # for a device that others use, beside the runs
SAME_NIGHT = timedelta(hours=20)  # a night that was cut goes on for so long after its beginning
LONGEST_LIST = 3  # of steps in a line


@dataclass
class NightReport:
    """What a night did and found."""

    lab: str
    night: str
    started: datetime
    finished: datetime
    findings: Sequence[FindingRow]
    canaries: Sequence[CanaryRow]
    runs: dict[str, str]  # recipe -> run
    missed: Sequence[str]  # what was not done, and why
    measured: int  # numbers

    @property
    def regressions(self) -> list[FindingRow]:
        """Confirmed changes for the worse that nobody has acknowledged."""
        return [finding for finding in self._open("change", "board") if finding["is_regression"]]

    @property
    def failures(self) -> list[FindingRow]:
        """What could not be done because something failed."""
        return self._open("device", "failure")

    def _open(self, *kinds: str) -> list[FindingRow]:
        return [
            finding
            for finding in self.findings
            if finding["kind"] in kinds
            and finding["status"] == "open"
            and finding["state"] in ("new", "sustained")
        ]

    @property
    def status(self) -> int:
        """The exit status: 3 for regressions, 1 for failures or what was not done, 0 for none."""
        if self.regressions:
            return 3
        return 1 if self.failures or self.missed else 0


@dataclass
class Night:
    """Carries out one night of a lab."""

    lab: Lab
    store: NightStore
    cache: Path
    clock: Clock
    listen: Listener = lambda _: None
    notify: Notify = lambda _: None
    night: str = ""
    started: datetime = field(init=False)
    began: datetime = field(init=False)  # this process, which may go on with a night
    missed: list[str] = field(default_factory=list)
    measured_recipes: dict[str, ResolvedRequest] = field(default_factory=dict)  # by run
    lost: dict[str, str] = field(default_factory=dict)  # device -> why nothing was done there

    def run(self) -> NightReport:
        """Carry out the night, or what is left of it, and return its report."""
        folder = self.store.path.parent / "nights" / self.lab.name
        lock = lock_run(folder)
        if lock is None:
            raise QpipeError(f"{self.lab.name}: another process carries out this lab's night")
        with lock:
            self._open()
            book = self._book()
            requests = self._resolve(book)
            health = self._health()
            watch = BoardWatch(self.lab.name, self.night, self.store, health, book)
            watch.ask(
                {
                    name: call
                    for request in requests.values()
                    for name, call in request.all_candidates.items()
                }
            )
            self._run_recipes(requests, book)
            self._note_lost_devices(watch, book)
            self._find_changes(watch, book, health)
            self._finish()
            return self._report(book)

    # ---- begin and end

    def _open(self) -> None:
        """Begin a night, or go on with one that was cut or has left something."""
        now = self.clock()
        self.began = now
        nights = self.store.nights(self.lab.name)
        newest = nights[-1] if nights else None
        if newest is not None and (newest["finished"] is None or newest["missed"]):
            started = datetime.fromisoformat(newest["started"])
            if now - started < SAME_NIGHT:
                self.night = newest["night"]
                self.started = started
                self.notify(f"night {self.night} goes on")
                return
        date = f"{now.astimezone():%Y-%m-%d}"
        number = sum(1 for row in nights if row["night"].startswith(date))
        self.night = date if not number else f"{date}-{number + 1}"
        self.started = now
        self.store.start_night(self.lab.name, self.night, now)
        self.notify(f"night {self.night} begins")

    def _is_over(self) -> bool:
        deadline = self.lab.deadline(self.began.astimezone())
        return deadline is not None and self.clock() >= deadline

    def _finish(self) -> None:
        now = self.clock()
        if self.lab.keep_raw is not None:
            self.store.drop_raw_values(now - self.lab.keep_raw)
        self.store.finish_night(self.lab.name, self.night, self.missed, now)

    def _book(self) -> FindingBook:
        nights = [row["night"] for row in self.store.nights(self.lab.name)]
        return FindingBook(self.lab.name, self.night, nights, self.store)

    def _health(self) -> Health:
        health = Health(self.store, self.notify, PATIENCE_S)
        health.set_purpose(f"pid {os.getpid()}, night {self.night} of {self.lab.path.name}")
        return health

    def _report(self, book: FindingBook) -> NightReport:
        canaries = [row for row in self.store.canaries(self.lab.name) if row["night"] == self.night]
        return NightReport(
            self.lab.name,
            self.night,
            self.started,
            self.clock(),
            in_lines(book.tonight()),
            canaries,
            self._runs(),
            self.missed,
            len(self.store.night_measurements(self.lab.name, [self.night])),
        )

    def _runs(self) -> dict[str, str]:
        """Return tonight's runs by recipe, in the lab's order."""
        runs = self.store.night_runs(self.lab.name, self.night)
        names = [recipe.name for recipe in self.lab.recipes]
        return {name: runs[name] for name in names if name in runs}

    # ---- runs

    def _resolve(self, book: FindingBook) -> dict[str, ResolvedRequest]:
        """Return the requests of the recipes that can be read."""
        requests = {}
        for recipe in self.lab.recipes:
            try:
                requests[recipe.name] = resolve_request(self._request(recipe))
            except QpipeError as error:
                self._report_failure(book, recipe.name, str(error))
        return requests

    def _request(self, recipe: NightlyRecipe) -> Request:
        return Request(
            recipe.path,
            recipe.settings,
            recipe.devices,
            recipe.only,
            self.lab.inventory,
            self.store.path,
            self.cache,
            new=recipe.name not in self.store.night_runs(self.lab.name, self.night),
            cluster=self.lab.cluster,
        )

    def _run_recipes(self, requests: Mapping[str, ResolvedRequest], book: FindingBook) -> None:
        """Run all recipes at once, on one machine; note how they ended in the lab's order."""
        unfinished = {
            recipe: resolved
            for recipe, resolved in requests.items()
            if not self._is_done(recipe, resolved)
        }
        runs = RecipeRuns(self.listen, self.notify, self._is_over)
        ends = runs.carry_out(unfinished, self.store, self._record_run)
        for recipe, end in ends.items():
            run = self._run_of(recipe)
            if run is not None:
                self.measured_recipes[run] = unfinished[recipe]
            if isinstance(end, DeviceError):
                self.lost |= dict.fromkeys(unfinished[recipe].devices, str(end))
            elif isinstance(end, QpipeError):
                self._report_failure(book, recipe, str(end))
            elif end is None:
                self.missed.append(f"{recipe}: not run, the night was over")
            else:
                self._note_end(recipe, end, book)

    def _is_done(self, recipe: str, resolved: ResolvedRequest) -> bool:
        """Return whether a recipe was run tonight already; note its run then."""
        run = self._run_of(recipe)
        if run is None or self.store.run(run)["state"] != "done":
            return False
        self.measured_recipes[run] = resolved
        return True

    def _run_of(self, recipe: str) -> str | None:
        return self.store.night_runs(self.lab.name, self.night).get(recipe)

    def _record_run(self, recipe: str, run: str) -> None:
        self.store.record_night_run(self.lab.name, self.night, recipe, run)

    def _note_end(self, recipe: str, finished: Finished, book: FindingBook) -> None:
        lost = {**finished.unreachable, **finished.bad}
        self.lost |= lost
        if finished.cut:
            self.missed.append(f"{recipe}: cut when the night was over: {_shortened(finished.cut)}")
        if finished.late:
            names = _shortened(finished.late)
            self.missed.append(f"{recipe}: the night was over before {names}")
        outcome = finished.outcome
        failed = [step for step in outcome.failed if finished.plan.steps[step].device not in lost]
        if failed:
            first = failed[0]
            text = f"{len(failed)} steps failed, first {first}: {outcome.errors[first]}"
            self._report_failure(book, recipe, text)
        else:
            current = book.current("failure", recipe)
            if current is not None:
                book.recover(current)

    def _report_failure(self, book: FindingBook, recipe: str, text: str) -> None:
        current = book.current("failure", recipe)
        if current is not None:
            book.sustain(current)
            return
        book.report(
            kind="failure",
            subject=recipe,
            is_regression=True,
            start=self.night,
            text=f"{recipe}: {text}",
            command=shlex.join(["qpipe", "run", recipe]),
        )

    def _note_lost_devices(self, watch: BoardWatch, book: FindingBook) -> None:
        """Record which devices could not be used, and which of those of before are back."""
        rows = self.store.night_measurements(self.lab.name, [self.night])
        used = {row["device"] for row in rows}
        lost = {**self.lost}
        lost |= {name: reason for name, reason in watch.lost.items() if name not in used}
        for name, reason in lost.items():
            current = book.current("device", name)
            if current is not None:
                book.sustain(current)
                continue
            book.report(
                kind="device",
                subject=name,
                device=name,
                is_regression=True,
                start=self.night,
                text=reason if reason.startswith(name) else f"{name}: {reason}",
                command=f"qpipe devices check {name}",
            )
        for finding in self.store.findings(self.lab.name):
            name = finding["subject"]
            if finding["kind"] == "device" and name in used and name not in lost:
                current = book.current("device", name)
                if current is not None:
                    book.recover(current)

    # ---- changes

    def _find_changes(self, watch: BoardWatch, book: FindingBook, health: Health) -> None:
        candidates: list[ChangedSeries] = []
        for series in self._series(book):
            candidate = self._follow_or_find(series, watch, book)
            if candidate is not None:
                candidates.append(candidate)
        devices = {
            name: call
            for resolved in self.measured_recipes.values()
            for name, call in resolved.all_candidates.items()
        }
        confirmation = Confirmation(
            self.store, health, self.measured_recipes, devices, self._is_over
        )
        verdicts = confirmation.confirm(candidates)
        if len(verdicts) < len(candidates):
            count = len(candidates) - len(verdicts)
            self.missed.append(f"{count} changes were not run again; they are looked at tomorrow")
        self._record(verdicts, book)

    def _series(self, book: FindingBook) -> list[Series]:
        """Return the series of the recipes' objectives that have a number of tonight."""
        metrics: set[str] = set()
        for resolved in self.measured_recipes.values():
            metrics |= resolved.recipe.pareto.keys()
        series = read_series(self.store, self.lab.name, book.nights, metrics)
        return [one_series for one_series in series if one_series.newest.night == self.night]

    def _follow_or_find(
        self, series: Series, watch: BoardWatch, book: FindingBook
    ) -> ChangedSeries | None:
        """Say what became of a finding on a series, or return what seems to have changed."""
        key = series.key
        current = book.current("change", key.subject, key.metric)
        if current is not None:
            state = state_of(current, series)
            if state == "recovered":
                book.recover(current)
            elif state == "sustained":
                book.sustain(current)
            return None
        findings = book.of("change", key.subject, key.metric)
        boards = [
            finding
            for finding in book.of("board", key.device)
            if series.newest.row["raw"] == "rounds"
        ]
        normal = baseline([*findings, *boards], book.nights)
        noise = watch.noises.get(key.device, 0.0)
        return find_change(series, normal, self.store, canary_noise=noise)

    def _record(self, verdicts: Sequence[ChangeVerdict], book: FindingBook) -> None:
        """Record what was confirmed, and once what was not."""
        for verdict in verdicts:
            key = verdict.candidate.series.key
            earlier = book.of("change", key.subject, key.metric)
            if verdict.is_confirmed:
                _report_change(verdict, book, "new")
            elif not was_reported(earlier, book.nights):
                _report_change(verdict, book, "flaky")


def _shortened(steps: Sequence[str]) -> str:
    """Return the first of these steps, and how many more there are."""
    names = ", ".join(steps[:LONGEST_LIST])
    more = len(steps) - LONGEST_LIST
    return f"{names} and {more} more" if more > 0 else names


def _report_change(verdict: ChangeVerdict, book: FindingBook, state: FindingState) -> None:
    closed: FindingStatus = "acknowledged" if state == "new" else "closed"
    candidate = verdict.candidate
    key = candidate.series.key
    row = candidate.series.newest.row
    change = candidate.change
    now = row["value"] if state == "new" and change.nights_after == 1 else change.after
    ratio = percent(now / change.before) if change.before > 0 else "changed"
    numbers = f"{change.before:.4g} to {now:.4g} {row['unit']}".rstrip()
    book.report(
        kind="change",
        subject=key.subject,
        metric=key.metric,
        device=key.device,
        state=state,
        status="open" if candidate.is_regression and state == "new" else closed,
        is_regression=candidate.is_regression,
        start=candidate.start.night,
        before=change.before,
        after=now,
        unit=row["unit"],
        text=f"{key.subject}: {key.metric} is {ratio}, {numbers}",
        evidence=verdict.evidence,
        beside=list(verdict.beside),
        command=f"qpipe compare {candidate.old.row['run']} {row['run']} "
        f"--device {key.device} --metric {key.metric}",
    )
