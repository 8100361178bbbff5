"""The devices of a lab at the beginning of a night: which are there, and whose canary has moved."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from qpipe.engine.device_health import Health
from qpipe.errors import DeviceError
from qpipe.nightly.baseline import Baseline, baseline, is_gone
from qpipe.nightly.canary import CanaryResult, has_runtime, measure_canary
from qpipe.nightly.change_points import (
    Change,
    is_beyond_doubt,
    newest_change,
    nightly_noise,
)
from qpipe.nightly.findings import FindingBook, percent
from qpipe.recipe import inventory
from qpipe.recipe.stage_call import Call
from qpipe.storage.nights import NightStore
from qpipe.storage.rows import CanaryRow, FindingRow

STEP = "canary"  # what a device is held for


@dataclass
class BoardWatch:
    """Asks each device for its canary, at most once a night, all devices at the same time."""

    lab: str
    night: str
    store: NightStore
    health: Health
    book: FindingBook
    lost: dict[str, str] = field(default_factory=dict)  # device -> why it cannot be used
    noises: dict[str, float] = field(default_factory=dict)  # device -> of its canary, relative
    boards: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def ask(self, devices: Mapping[str, Call]) -> None:
        """Measure the canary of each device that was not asked tonight, and record what it says."""
        answered = {
            row["device"] for row in self.store.canaries(self.lab) if row["night"] == self.night
        }
        devices_to_ask = {name: call for name, call in devices.items() if name not in answered}
        for name, call in devices_to_ask.items():
            self.health.add(name, inventory.open_device(name, call))
        with ThreadPoolExecutor(max_workers=max(1, len(devices_to_ask))) as pool:
            try:
                list(pool.map(self._ask_device, devices_to_ask))
            except BaseException:
                self.health.stop.set()  # whoever waits for a device stops waiting
                raise
        for name in devices:
            self._note_noise(name)

    def _ask_device(self, name: str) -> None:
        self.health.notify(f"{name}: asking its canary")
        try:
            capabilities = self.health.first_contact(name)
            if not has_runtime(capabilities):
                return
            with self.boards[self.health.board_of(name)]:  # of two names of a board, one at a time
                self._measure(name)
        except DeviceError as error:
            self.lost[name] = str(error)
        finally:
            self.health.drop(name)

    def _measure(self, name: str) -> None:
        if not self.health.take_lease(name, STEP):
            raise DeviceError(self.health.busy[name])
        try:
            self._judge(name, measure_canary(self.health.devices[name]))
        finally:
            self.health.give_back(name)

    # ---- whether it has moved

    def _judge(self, name: str, result: CanaryResult) -> None:
        findings = self.book.of("board", name)
        current = self.book.current("board", name)
        if result.value is None:
            self._record(name, result, moved=True)
            self._report_problem(name, current, result.problem)
        elif result.problem:
            self._record(name, result, moved=False)
        elif current is not None:
            self._follow(name, current, result)
        else:
            self._look_for_change(name, findings, result)

    def _follow(self, name: str, finding: FindingRow, result: CanaryResult) -> None:
        """Say of a canary that had moved whether it is back."""
        assert result.value is not None
        if finding["after"] is None or is_gone(finding, result.value):
            self.book.recover(finding)
            self._record(name, result, moved=False)
        else:
            self.book.sustain(finding)
            self._record(name, result, moved=finding["status"] == "open")

    def _look_for_change(
        self, name: str, findings: Sequence[FindingRow], result: CanaryResult
    ) -> None:
        assert result.value is not None
        change = self._change(name, findings, result.value)
        if change is None:
            self._record(name, result, moved=False)
            return
        again = measure_canary(self.health.devices[name])
        if again.value is None or not is_beyond_doubt(change, again.value):
            self._record(name, again if again.value else result, moved=False)
            return
        self._record(name, result, moved=True)
        rows = self.store.canaries(self.lab, name)
        changed = _changed_environment(rows)
        self.book.report(
            kind="board",
            subject=name,
            device=name,
            is_regression=change.after > change.before,
            start=self.night,
            before=change.before,
            after=result.value,
            unit="ms",
            text=f"{name}: the canary is {percent(result.value / change.before)}, "
            f"{change.before:.4g} to {result.value:.4g} ms: the board moved, not the models",
            evidence=f"measured twice: {result.value:.4g} and {again.value:.4g} ms; "
            f"it varies by {100 * change.noise:.2g} % from night to night",
            beside=changed,
            command=f"qpipe devices check {name}",
        )

    def _report_problem(self, name: str, current: FindingRow | None, problem: str) -> None:
        if current is not None:
            self.book.sustain(current)
            return
        self.book.report(
            kind="board",
            subject=name,
            device=name,
            is_regression=True,
            start=self.night,
            text=f"{name}: {problem}",
            command=f"qpipe devices check {name}",
        )

    def _change(self, name: str, findings: Sequence[FindingRow], value: float) -> Change | None:
        values = self._normal_values(name, baseline(findings, self.book.nights))
        return newest_change([*values, value])

    def _normal_values(self, name: str, normal: Baseline) -> list[float]:
        return [
            row["value"]
            for row in self.store.canaries(self.lab, name)
            if row["value"] and not row["problem"] and not row["moved"]
            if row["night"] != self.night and normal.admits(row["night"])
        ]

    def _note_noise(self, name: str) -> None:
        values = self._normal_values(name, Baseline())
        self.noises[name] = nightly_noise_of(values)

    def _record(self, name: str, result: CanaryResult, *, moved: bool) -> None:
        row: CanaryRow = {
            "lab": self.lab,
            "night": self.night,
            "device": name,
            "value": result.value,
            "problem": result.problem or None,
            "moved": moved,
            "environment": dict(result.environment),
        }
        self.store.record_canary(row)


def nightly_noise_of(values: Sequence[float]) -> float:
    """Return the relative standard deviation from night to night of positive values."""
    import numpy as np

    return nightly_noise(np.log(np.asarray(values, np.float64))) if len(values) > 1 else 0.0


def _changed_environment(rows: Sequence[CanaryRow]) -> list[str]:
    """Return what differs between the environments of the two newest nights of a canary."""
    if len(rows) < 2:
        return []
    old = rows[-2]["environment"]
    new = rows[-1]["environment"]
    lines = []
    for name in ("kernel", "firmware", "governor", "boot_id"):
        if name in old and name in new and old[name] != new[name]:
            lines.append(f"{name} was {old[name]}, now {new[name]}")
    return lines
