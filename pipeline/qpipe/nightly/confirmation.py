"""Confirming reruns of the changes that the series of a night seem to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qpipe.compare.device_changes import differing_environments
from qpipe.engine import cache_keys, stage_results
from qpipe.engine.device_health import Health
from qpipe.engine.request import ResolvedRequest
from qpipe.errors import DeviceError, QpipeError
from qpipe.nightly.changes import ChangedSeries
from qpipe.nightly.findings import SAME_BUILD
from qpipe.nightly.rerun import Pair, Rerun, is_confirmed, rerun
from qpipe.recipe import inventory
from qpipe.recipe.recipe import Recipe, metrics_of
from qpipe.recipe.stage_call import Call
from qpipe.stages.options import needs
from qpipe.storage.cache import Cache
from qpipe.storage.nights import NightStore
from qpipe.storage.rows import MeasurementRow

MOST_PAIRS = 8  # of one device in one session: the largest changes; others come tomorrow
STEP = "confirming rerun"
ENOUGH_NIGHTS = 3  # on a new level that show it where nothing can be run again


@dataclass(frozen=True)
class ChangeVerdict:
    """What a rerun, or the lack of one, says of a candidate."""

    candidate: ChangedSeries
    is_confirmed: bool
    evidence: str
    beside: Sequence[str]


@dataclass(frozen=True)
class Confirmation:
    """Runs the builds of candidates again, device by device."""

    store: NightStore
    health: Health
    requests: Mapping[str, ResolvedRequest]  # by run of tonight
    devices: Mapping[str, Call]
    is_over: Callable[[], bool]

    def confirm(self, candidates: Sequence[ChangedSeries]) -> list[ChangeVerdict]:
        """Return a verdict on each candidate, where there is time and room for it tonight."""
        verdicts = [self._immediate(candidate) for candidate in candidates if candidate.evidence]
        timed = [candidate for candidate in candidates if not candidate.evidence]
        for group in _groups(timed, self.requests):
            if self.is_over():
                break
            verdicts += self._confirm_group(group)
        return verdicts

    def _immediate(self, candidate: ChangedSeries) -> ChangeVerdict:
        return ChangeVerdict(candidate, True, candidate.evidence, self.beside(candidate))

    def _confirm_group(self, group: _Group) -> list[ChangeVerdict]:
        """Run the pairs of one device and stage again, and judge by what that gives."""
        pairs = [self._pair(candidate) for candidate in group.candidates]
        present = [pair for pair in pairs if pair is not None]
        results: dict[Pair, Rerun] = {}
        problem = "the builds have left the cache"
        if present and group.call is not None:
            try:
                results = self._run(group, group.call, present)
            except (DeviceError, QpipeError) as error:
                problem = str(error)
        return [
            self._verdict(candidate, pair, results.get(pair) if pair else None, problem)
            for candidate, pair in zip(group.candidates, pairs, strict=True)
        ]

    def _run(self, group: _Group, call: Call, pairs: Sequence[Pair]) -> dict[Pair, Rerun]:
        name = group.device
        self.health.notify(f"{name}: running {len(pairs)} again, to confirm that they changed")
        self.health.add(name, inventory.open_device(name, self.devices[name]))
        try:
            if not self.health.take_lease(name, STEP):
                raise DeviceError(self.health.busy[name])
            samples = self._samples(group.candidates[0].series.newest.row)
            device = self.health.devices[name]
            return rerun(device, call, samples, pairs, _ignore_progress)
        finally:
            self.health.give_back(name)
            self.health.drop(name)

    def _verdict(
        self, candidate: ChangedSeries, pair: Pair | None, result: Rerun | None, problem: str
    ) -> ChangeVerdict:
        beside = self.beside(candidate)
        if pair is None or result is None:
            nights = candidate.change.nights_after
            evidence = f"not run again: {problem}; {nights} nights on the new level"
            return ChangeVerdict(candidate, nights >= ENOUGH_NIGHTS, evidence, beside)
        return ChangeVerdict(
            candidate,
            is_confirmed(candidate.change, result),
            _evidence(result, candidate.series.newest.row["unit"]),
            beside,
        )

    # ---- what the builds and samples were

    def _pair(self, candidate: ChangedSeries) -> Pair | None:
        """Return the builds of before and of now; None where one of them is gone."""
        old_row = candidate.old.row
        new_row = candidate.series.newest.row
        cache = self.requests[new_row["run"]].cache
        new = self._build(new_row, cache)
        is_same = old_row["build_digest"] == new_row["build_digest"]
        old = None if is_same else self._build(old_row, cache)
        if new is None or (old is None and not is_same):
            return None
        return Pair(candidate.series.key.subject, new_row["metric"], new, old)

    def _build(self, row: MeasurementRow, cache: Cache) -> Path | None:
        """Return the build of a row from the cache, by its digest; None where it is gone."""
        for step in self.store.steps(row["run"]):
            if step["kind"] != "compile" or step["model"] != row["model"]:
                continue
            folder = cache.value_folder("compile", step["key"])
            if folder.is_dir() and cache_keys.digest(folder) == row["build_digest"]:
                return folder
        return None

    def _samples(self, row: MeasurementRow) -> Path:
        steps = {step["step"]: step for step in self.store.steps(row["run"])}
        step = steps.get(f"{row['model']}/samples") or steps["samples"]
        cache = self.requests[row["run"]].cache
        folder = cache.value_folder("samples", step["key"])
        samples: Path = stage_results.read_part("samples", "evaluation_samples", folder).folder
        return samples

    def beside(self, candidate: ChangedSeries) -> list[str]:
        """Return what else changed between the newest night of the old level and the new one."""
        old = candidate.old.row
        new = candidate.start.row
        lines = []
        for column, words in (("model_digest", "the model's bytes"), ("build_digest", "the build")):
            if old[column] != new[column]:  # type: ignore[literal-required]
                lines.append(f"{words} changed")
        before = self.store.run(old["run"])
        after = self.store.run(new["run"])
        if before["recipe_text"] != after["recipe_text"]:
            lines.append("the recipe changed")
        for tool, version in after["versions"].items():
            earlier = before["versions"].get(tool, "missing")
            if earlier != version:
                lines.append(f"{tool} was {earlier}, now {version}")
        prefix = f"{new['device']}: "
        for line in differing_environments(self.store, old["run"], new["run"]):
            if line.startswith(prefix):
                lines.append(line.removeprefix(prefix))
        return lines


@dataclass(frozen=True)
class _Group:
    """Candidates that one call of a measuring stage can run again."""

    device: str
    call: Call | None
    candidates: Sequence[ChangedSeries]


def _groups(
    candidates: Sequence[ChangedSeries], requests: Mapping[str, ResolvedRequest]
) -> list[_Group]:
    """Return candidates by device, model and measuring stage, the largest changes first."""
    members: dict[tuple[str, str, str, str], list[ChangedSeries]] = {}
    for candidate in sorted(candidates, key=lambda candidate: -abs(candidate.change.logarithm)):
        row = candidate.series.newest.row
        call = _measuring_call(requests[row["run"]].recipe, row["metric"])
        key = (row["device"], row["run"], row["model"], call.name if call else row["metric"])
        members.setdefault(key, []).append(candidate)
    groups = []
    for (device, run, _, _), group in members.items():
        call = _measuring_call(requests[run].recipe, group[0].series.key.metric)
        groups.append(_Group(device, call, group[:MOST_PAIRS]))
    return groups


def _measuring_call(recipe: Recipe, metric: str) -> Call | None:
    """Return the stage that measures several builds in turn and gives this metric."""
    for call in recipe.measure:
        gives = {*call.stage.gives, *metrics_of(call)}
        if metric in gives and "deployments" in needs(call.stage.function):
            return call
    return None


def _evidence(result: Rerun, unit: str) -> str:
    if result.ratio is None or result.low is None or result.high is None:
        return f"{SAME_BUILD}: {result.new:.4g} {unit}"
    low, high = (100 * (bound - 1) for bound in (result.low, result.high))
    return (
        f"run again, old and new in turn: {result.old:.4g} and {result.new:.4g} {unit}, "
        f"by {low:+.1f} to {high:+.1f} % (99.9 %)"
    )


def _ignore_progress(done: float, total: float | None = None, unit: str = "") -> None:
    """Ignore the progress of a rerun."""
