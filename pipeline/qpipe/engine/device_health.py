"""Whether a device can be trusted with the next step: good; unknown, once it or the line failed, until a check passes;
bad, once a check failed, until a human clears it."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from qpipe.errors import BusyError, DeviceError, Failure, QpipeError
from qpipe.storage.results import Row, Store
from qpipe.types import Capabilities, Device, Power

State = Literal["good", "unknown", "bad"]
Say = Callable[[str], None]
Pause = Callable[[float], Any]

PATIENCE_S = 3600.0  # a run waits so long for a device that another is at
RECOVERY_S = 60.0  # what restarts by itself, or whose line comes back, answers again by then
TOLD_S = 60.0  # who waits says so as often
LEAVING_S = 30.0  # a device without current, and what stands between, is silent by then
OFF_S = 3.0  # capacitors hold what was there for a while
POLL_S = 1.0
# failures that may be the device's or the line's, whatever was run there
INFRASTRUCTURE: frozenset[Failure] = frozenset({"unreachable", "died", "timeout"})


class Health:
    """The devices of a run. Each is used by one thread; what becomes of it is written to the store, as an audit trail.

    Once `stop` is set, whoever waits here gets KeyboardInterrupt.
    """

    def __init__(self, store: Store | None = None, say: Say = lambda _: None) -> None:
        self.store = store
        self.say = say
        self.run: str | None = None  # its id, once it has one
        self.devices: dict[str, Device] = {}
        self.powers: dict[str, Power] = {}
        self.known: dict[str, Capabilities] = {}  # what each was when the run began
        self.states: dict[str, State] = {}
        self.bad: dict[str, str] = {}  # device -> why nothing more is done there
        self.stop = threading.Event()

    def add(self, name: str, device: Device, power: Power | None = None) -> None:
        """A device that was not asked yet."""
        self.devices[name] = device
        if power:
            self.powers[name] = power

    def drop(self, name: str) -> None:
        """Let go of a device that cannot be used."""
        _let_go(self.devices.pop(name))

    def meet(self, name: str) -> Capabilities:
        """The first contact of a run, which is the check of an unknown device; DeviceError where it cannot be used.

        One that merely does not answer stays unknown: somebody may have switched it off. It is bad where it was lost in
        the middle of a run, or does not come back when its power does.
        """
        before = self.store.health(name) if self.store else None
        if before:
            self.states[name] = before["health"]
        if before and before["health"] == "bad":
            raise DeviceError(
                f"{name}: bad since {before['since'][:16]}Z: {before['why']}; {_clear(name)}"
            )
        try:
            self.known[name] = reach(self.devices[name], self.say, pause=self.pause)
        except BusyError:
            raise
        except DeviceError as error:
            if not is_infrastructure(error):
                raise
            lost = _lost_in_a_run(before)
            if not lost:
                self.doubt(name, error)
            if not (lost or name in self.powers):
                raise
            if not self.ready(name):
                raise DeviceError(self.bad[name], failure=error.failure) from error
            self.known[name] = self.devices[name].capabilities()
        self._became(name, "good", "it answered")
        return self.known[name]

    def doubt(self, name: str, error: QpipeError, step: str | None = None) -> None:
        """The device or the line failed: nothing more is done there before a check passes."""
        self._became(name, "unknown", _reason(name, error), step)

    def ready(self, name: str) -> bool:
        """Whether the next step may go there. An unknown device is checked, for as long as a restart takes, and again
        after its power was switched; BusyError where another run has it meanwhile."""
        if self.states.get(name) == "unknown":
            try:
                self._cure(name)
            except BusyError:
                raise
            except DeviceError as error:
                why = _reason(name, error)
                self.bad[name] = f"{name} is bad: {why}; {_clear(name)}"
                self._became(name, "bad", why)
                self.say(self.bad[name])
            else:
                self._became(name, "good", "the check passed")
        return name not in self.bad

    def pause(self, seconds: float) -> None:
        """Wait, or end with the run."""
        if self.stop.wait(seconds):
            raise KeyboardInterrupt

    # ---- the check

    def _cure(self, name: str) -> None:
        self.say(f"{name}: checking its health")
        try:
            self._check_for(name, RECOVERY_S)
        except DeviceError as error:
            if (
                isinstance(error, BusyError)
                or not is_infrastructure(error)
                or name not in self.powers
            ):
                raise
            self.say(f"{error}; switching its power off and on")
            before = self.known[name].boot_id if name in self.known else None
            cycle(
                name,
                self.devices[name],
                self.powers[name],
                self.pause,
                partial(self._switched, name),
                before,
            )
            self._check(name)

    def _check_for(self, name: str, seconds: float) -> None:
        """Check it until that passes, or it cannot any more."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self._check(name)
            except DeviceError as error:
                hopeless = isinstance(error, BusyError) or not is_infrastructure(error)
                if hopeless or time.monotonic() > end:
                    raise
            self.pause(POLL_S)

    def _check(self, name: str) -> None:
        """Over a new connection: it is the same machine as before, and takes a file."""
        self.pause(0)
        device = self.devices[name]
        before = self.known.get(name)
        _let_go(device)
        found = reach(device, self.say, pause=self.pause)
        if before and found.fingerprint != before.fingerprint:
            names = [f.name for f in fields(found) if f.name != "boot_id"]
            changed = [name for name in names if getattr(found, name) != getattr(before, name)]
            what = f"it was changed in the middle of the run ({', '.join(changed)})"
            raise DeviceError(f"{name}: {what}; run afresh with --new", failure="configuration")
        self.known[name] = found
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "check").write_bytes(secrets.token_bytes(64))
            device.store(Path(folder), _unseen)

    # ---- the audit trail

    def _became(self, name: str, now: State, why: str, step: str | None = None) -> None:
        was = self.states.get(name)
        self.states[name] = now
        if self.store and was != now:
            self.store.record_event(
                name, event="health", was=was, now=now, why=why, during=self.run, step=step
            )

    def _switched(self, name: str, now: str) -> None:
        if self.store:
            why = "it did not answer any more"
            self.store.record_event(name, event="power", now=now, why=why, during=self.run)


def is_infrastructure(error: QpipeError) -> bool:
    """Whether it may be the fault of the device or the line, whatever was run there; busy: another run has it now."""
    return isinstance(error, BusyError) or error.failure in INFRASTRUCTURE


def reach(
    device: Device,
    say: Say,
    patience_s: float = PATIENCE_S,
    pause: Pause = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Capabilities:
    """Ask a device what it is, waiting its turn where another run is at it; BusyError when patience ends."""
    began = clock()
    last_message_at: float | None = None
    while True:
        try:
            return device.capabilities()
        except BusyError as error:
            now = clock()
            if now - began > patience_s:
                raise
            if last_message_at is None:
                say(f"{error}; waiting")
                last_message_at = now
            elif now - last_message_at >= TOLD_S:
                say(f"{error}; waiting for {(now - began) / 60:.0f} min")
                last_message_at = now
        pause(1)


# ---- its current


def cycle(
    name: str,
    device: Device,
    power: Power,
    pause: Pause,
    switched: Callable[[str], None],
    before: str | None = None,
) -> None:
    """Take a device's current away, see it gone, give it back, see it answer. `switched` is told of each.

    `before` is its boot_id, where that is known: DeviceError where it is the same afterwards.
    """
    try:
        switch_off(name, device, power, pause, switched)
        pause(OFF_S)
    finally:  # whatever happens meanwhile: nothing is left dark
        power.on()
        switched("on")
    await_answer(name, device, power, pause)
    if before and boot_id(device) == before:
        what = "it did not start anew, its power switch is another device's"
        raise DeviceError(
            f"{name}: {what}; check 'power' in the inventory", failure="configuration"
        )


def boot_id(device: Device) -> str | None:
    """That of a device, which may be dead."""
    try:
        return device.capabilities().boot_id
    except DeviceError:
        return None


def switch_off(
    name: str, device: Device, power: Power, pause: Pause, switched: Callable[[str], None]
) -> None:
    """Take its current away; DeviceError where it goes on answering."""
    power.off()
    switched("off")
    end = time.monotonic() + LEAVING_S
    while _answers(device):
        if time.monotonic() > end:
            what = (
                f"its power switch does not switch it: it still answers {LEAVING_S:g} s after 'off'"
            )
            raise DeviceError(
                f"{name}: {what}; check 'power' in the inventory", failure="configuration"
            )
        pause(POLL_S)


def await_answer(name: str, device: Device, power: Power, pause: Pause) -> None:
    """Until a device whose current is back answers; DeviceError where it does not within its boot_s."""
    end = time.monotonic() + power.boot_s
    while not _answers(device):
        if time.monotonic() > end:
            what = f"it does not answer {power.boot_s:g} s after its current is back"
            raise DeviceError(f"{name}: {what}; look at it", failure="died")
        pause(POLL_S)


def _answers(device: Device) -> bool:
    """Whether anybody is there, by a new connection."""
    _let_go(device)
    try:
        device.capabilities()
    except DeviceError as error:
        return isinstance(error, BusyError) or not is_infrastructure(error)
    return True


def _let_go(device: Device) -> None:
    with suppress(DeviceError):
        device.close()


def _lost_in_a_run(before: Row | None) -> bool:
    return before is not None and before["health"] == "unknown" and before["step"] is not None


def _reason(name: str, error: QpipeError) -> str:
    """What an error says, without the device's name in front of it."""
    return str(error).removeprefix(f"{name}: ")


def _clear(name: str) -> str:
    return f"clear it with: qpipe devices clear {name}"


def _unseen(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that is not worth showing."""
