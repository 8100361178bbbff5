"""Whether a device can be trusted with the next step, and the checks that tell.

A device is good; unknown, once it or its connection failed, until a check passes; bad, once a check
failed, until a person clears it.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from qpipe.engine.events import Notify
from qpipe.errors import BusyError, DeviceError, Failure, QpipeError
from qpipe.storage.results import Store
from qpipe.storage.rows import HealthRow
from qpipe.types import Capabilities, Device, Leased, Power

HealthState = Literal["good", "unknown", "bad"]
PowerState = Literal["on", "off"]
Pause = Callable[[float], Any]  # waits for so many seconds

PATIENCE_S = 3600.0  # a run waits so long for a device that another run uses
RECOVERY_S = 60.0  # a device that restarts, or whose connection comes back, answers again by then
NOTICE_S = 60.0  # a run that waits says so this often
IDLE_S = 10.0  # a lease is given back where its device has had nothing to do for so long
TENURE_S = 60.0  # a lease that others wait for is given back between steps after so long
SILENCE_S = 30.0  # a device without power, and what stands between, has stopped answering by then
OFF_S = 3.0  # the power stays off for so long, because capacitors hold it for a while
POLL_S = 1.0
# failures that may be the fault of the device or its connection, whatever ran there
INFRASTRUCTURE: frozenset[Failure] = frozenset({"unreachable", "died", "timeout"})


@dataclass
class Tenure:
    """A lease that the run has."""

    since: float  # by the monotonic clock
    used: float  # the end of the newest step
    steps: int = 0  # that were begun


class Health:
    """The devices of a run, each used by one thread, their leases, and the health of each.

    Every change is recorded in the store, as an audit trail. Once `stop` is set, whoever waits in
    one of the methods gets KeyboardInterrupt.
    """

    def __init__(
        self,
        store: Store | None = None,
        notify: Notify = lambda _: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.store = store
        self.notify = notify
        self.patience_s = patience_s  # for a device that another run uses
        self.run: str | None = None  # the id of the run, once it has one
        self.purpose = ""  # process, run and recipe, for others who wait for a device
        self.devices: dict[str, Device] = {}
        self.powers: dict[str, Power] = {}
        self.capabilities: dict[str, Capabilities] = {}  # at the last check that passed
        self.states: dict[str, HealthState] = {}
        self.bad: dict[str, str] = {}  # device -> why nothing more is done there
        self.busy: dict[str, str] = {}  # device that others had for too long -> who
        self.tenures: dict[str, Tenure] = {}  # device -> its lease, while the run has it
        self.boards: dict[str, str] = {}  # device -> the board that it said it is
        self.views: dict[str, str] = {}  # board -> the device as which it was used last
        self.stop = threading.Event()

    def add(self, name: str, device: Device, power: Power | None = None) -> None:
        """Add a device that was not contacted yet."""
        self.devices[name] = device
        if power:
            self.powers[name] = power

    def drop(self, name: str) -> None:
        """Close a device and forget it."""
        self.give_back(name)
        _close(self.devices.pop(name))

    def close(self) -> None:
        """Close all devices."""
        for name in list(self.devices):
            self.drop(name)

    def first_contact(self, name: str) -> Capabilities:
        """Ask a device what it is, which is also the check of an unknown device.

        A device that others have is not waited for, unless there is to be no waiting at all: then
        raise BusyError. Raise DeviceError where it cannot be used. A device that merely does not
        answer stays unknown: somebody may have switched it off. It becomes bad where it was lost in
        the middle of a run, or does not answer after its power was switched off and on.
        """
        recorded = self.store.health(name) if self.store else None
        if recorded:
            self.states[name] = recorded["health"]
            if recorded["health"] == "bad":
                since = f"{recorded['since'][:16]}Z"
                raise DeviceError(
                    f"{name}: bad since {since}: {recorded['why']}; {_how_to_clear(name)}"
                )
        try:
            capabilities = self._first_answer(name)
        except BusyError:
            raise
        except DeviceError as error:
            if not is_infrastructure(error):
                raise
            self._recover_first_contact(name, error, was_lost=_was_lost_in_run(recorded))
            capabilities = self._first_answer(name)
            _close(self.devices[name])  # the check has taken its lease
        self.capabilities[name] = capabilities
        self._note_board(name, capabilities)
        self._set_state(name, "good", "it answered")
        return capabilities

    def _first_answer(self, name: str) -> Capabilities:
        device = self.devices[name]
        if not isinstance(device, Leased):
            return self._wait_for_turn(device)
        look = device.look()
        if look.holder and not self.patience_s:
            raise BusyError(f"{name}: busy: held by {look.holder}")
        return look.capabilities

    # ---- leases

    def take_lease(self, name: str, step: str) -> bool:
        """Have the lease of a device for a step, waiting for it; return whether it is there.

        It is not where others have had the device for longer than this run waits.
        """
        device = self.devices[name]
        self.take_turn(name)
        if not isinstance(device, Leased):
            return True
        device.purpose = f"{self.purpose}, {step}"
        if name not in self.tenures:
            try:
                capabilities = self._wait_for_turn(device)
            except BusyError as error:
                self.busy[name] = str(error)
                return False
            if name in self.capabilities:
                _check_unchanged(name, self.capabilities[name], capabilities)
            now = time.monotonic()
            self.tenures[name] = Tenure(now, now)
        self.tenures[name].steps += 1
        if self.store and self.run:
            self.store.record_lease(self.run, name, step)
        return True

    def is_new_lease(self, name: str) -> bool:
        """Return whether a step is the first of a lease: what was sent before may be gone."""
        return name in self.tenures and self.tenures[name].steps == 1

    def note_use(self, name: str) -> None:
        """Note that a step on a device has ended."""
        if name in self.tenures:
            self.tenures[name].used = time.monotonic()

    def give_back(self, name: str) -> None:
        """Give back the lease of a device, where the run has it."""
        if self.tenures.pop(name, None) is None:
            return
        _close(self.devices[name])
        if self.store and self.run:
            self.store.end_lease(self.run, name)

    def should_give_back(self, name: str, *, is_needed: bool) -> bool:
        """Return whether a lease should go back, between two steps.

        `is_needed` is whether a step could start on the device now.
        """
        device = self.devices[name]
        tenure = self.tenures[name]
        others_wait = isinstance(device, Leased) and device.others_wait
        now = time.monotonic()
        if is_needed:
            return others_wait and now - tenure.since > TENURE_S
        return others_wait or now - tenure.used > IDLE_S

    def lost_reason(self, name: str) -> str | None:
        """Return why nothing more is done on a device; None where it can be used."""
        return self.bad.get(name) or self.busy.get(name)

    def _note_board(self, name: str, capabilities: Capabilities) -> None:
        """Note which board a device is: what booted at the same moment is the same machine."""
        board = capabilities.boot_id or name
        if board in self.views:
            self.notify(f"{name}: the same board as {self.views[board]}; they take turns")
        self.boards[name] = board
        self.views[board] = name

    def board_of(self, name: str) -> str:
        """Return the board that a device is; several names may lead to it."""
        return self.boards.get(name, name)

    def is_in_turn(self, name: str) -> bool:
        """Return whether a device is the one as which its board was used last."""
        return self.views.get(self.board_of(name), name) == name

    def take_turn(self, name: str) -> None:
        """Use a board as this device: give back the lease that it has as another one."""
        board = self.board_of(name)
        other = self.views.get(board, name)
        if other != name and other in self.devices:
            self.give_back(other)
            _close(self.devices[other])
        self.views[board] = name

    def set_purpose(self, purpose: str) -> None:
        """Have the devices tell others what they are used for."""
        self.purpose = purpose
        for device in self.devices.values():
            if isinstance(device, Leased):
                device.purpose = purpose

    def _wait_for_turn(self, device: Device) -> Capabilities:
        return wait_for_turn(device, self.notify, self.patience_s, pause=self.pause)

    def _recover_first_contact(self, name: str, error: DeviceError, *, was_lost: bool) -> None:
        """Bring back a device that does not answer; raise DeviceError where that fails."""
        if not was_lost:
            self.doubt(name, error)
            if name not in self.powers:
                raise error
        if not self.make_ready(name):
            raise DeviceError(self.bad[name], failure=error.failure) from error

    def doubt(self, name: str, error: QpipeError, step: str | None = None) -> None:
        """Note that the device or its connection failed: its next step waits for a check."""
        self._set_state(name, "unknown", _reason(name, error), step)

    def make_ready(self, name: str) -> bool:
        """Check an unknown device; return whether the next step may go there.

        The check is repeated for as long as a restart takes, and again after the device's power was
        switched off and on. Raise BusyError where another run uses the device meanwhile.
        """
        if self.states.get(name) == "unknown":
            try:
                self._check_and_recover(name)
            except BusyError:
                raise
            except DeviceError as error:
                reason = _reason(name, error)
                self.bad[name] = f"{name} is bad: {reason}; {_how_to_clear(name)}"
                self._set_state(name, "bad", reason)
                self.notify(self.bad[name])
            else:
                self._set_state(name, "good", "the check passed")
        return name not in self.bad

    def pause(self, seconds: float) -> None:
        """Wait; raise KeyboardInterrupt once the run ends."""
        if self.stop.wait(seconds):
            raise KeyboardInterrupt

    # ---- the check

    def _check_and_recover(self, name: str) -> None:
        self.notify(f"{name}: checking its health")
        try:
            self._check_until_answered(name)
        except DeviceError as error:
            if name not in self.powers or _is_final(error):
                raise
            self.notify(f"{error}; switching its power off and on")
            self._cycle_power(name)
            self._check(name)

    def _check_until_answered(self, name: str) -> None:
        """Repeat the check until it passes, or fails for good."""
        deadline = time.monotonic() + RECOVERY_S
        while True:
            try:
                return self._check(name)
            except DeviceError as error:
                if _is_final(error) or time.monotonic() > deadline:
                    raise
            self.pause(POLL_S)

    def _check(self, name: str) -> None:
        """Check over a new connection that it is the same machine and takes a file."""
        self.pause(0)
        device = self.devices[name]
        _close(device)
        capabilities = self._wait_for_turn(device)
        if name in self.capabilities:
            _check_unchanged(name, self.capabilities[name], capabilities)
        self.capabilities[name] = capabilities
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "check").write_bytes(secrets.token_bytes(64))
            device.store(Path(folder), _ignore_progress)

    def _cycle_power(self, name: str) -> None:
        boot_id = None
        if name in self.capabilities:
            boot_id = self.capabilities[name].boot_id

        def record(state: PowerState) -> None:
            if self.store:
                reason = "it did not answer any more"
                self.store.record_event(name, event="power", now=state, why=reason, during=self.run)

        switch = PowerSwitch(name, self.devices[name], self.powers[name], self.pause, record)
        switch.cycle(boot_id)

    # ---- the audit trail

    def _set_state(
        self, name: str, state: HealthState, reason: str, step: str | None = None
    ) -> None:
        previous = self.states.get(name)
        self.states[name] = state
        if self.store and state != previous:
            self.store.record_event(
                name,
                event="health",
                was=previous,
                now=state,
                why=reason,
                during=self.run,
                step=step,
            )


def is_infrastructure(error: QpipeError) -> bool:
    """Return whether an error may be the fault of the device or its connection.

    A device that is busy counts: another run uses it meanwhile.
    """
    return isinstance(error, BusyError) or error.failure in INFRASTRUCTURE


def wait_for_turn(
    device: Device,
    notify: Notify,
    patience_s: float = PATIENCE_S,
    *,
    pause: Pause = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Capabilities:
    """Ask a device what it is, waiting while another run uses it.

    Raise BusyError where it is still in use after `patience_s`.
    """
    start = clock()
    noticed_at: float | None = None
    while True:
        try:
            capabilities = device.capabilities()
            _set_waits(device, waits=False)
            return capabilities
        except BusyError as error:
            _set_waits(device, waits=True)
            now = clock()
            waited_s = now - start
            if waited_s >= patience_s:
                raise BusyError(f"{error}; waited {_minutes(waited_s)}") from error
            if noticed_at is None:
                notify(f"{error}; waiting")
                noticed_at = now
            elif now - noticed_at >= NOTICE_S:
                notify(f"{error}; waiting for {_minutes(waited_s)}")
                noticed_at = now
        pause(1)


def _set_waits(device: Device, *, waits: bool) -> None:
    if isinstance(device, Leased):
        device.waits = waits


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


# ---- power


@dataclass(frozen=True)
class PowerSwitch:
    """A device with its power switch; that it goes off and comes back is verified."""

    name: str
    device: Device
    power: Power
    pause: Pause
    record: Callable[[PowerState], None]  # called with each new state

    def cycle(self, boot_id: str | None = None) -> None:
        """Switch the device off and on, and wait until it answers.

        `boot_id` is that of before, where it is known: raise DeviceError where it is the same
        afterwards.
        """
        try:
            self.switch_off()
            self.pause(OFF_S)
        finally:  # whatever happens meanwhile: no device is left without power
            self.power.on()
            self.record("on")
        self.await_answer()
        if boot_id and boot_id_of(self.device) == boot_id:
            raise self._wrong_switch("it did not start anew, its power switch is another device's")

    def switch_off(self) -> None:
        """Switch the device off; raise DeviceError where it keeps answering."""
        self.power.off()
        self.record("off")
        deadline = time.monotonic() + SILENCE_S
        while _answers(self.device):
            if time.monotonic() > deadline:
                raise self._wrong_switch(
                    "its power switch does not switch it: "
                    f"it still answers {SILENCE_S:g} s after 'off'"
                )
            self.pause(POLL_S)

    def await_answer(self) -> None:
        """Wait until the device answers; raise DeviceError where it does not within boot_s."""
        deadline = time.monotonic() + self.power.boot_s
        while not _answers(self.device):
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name}: it does not answer {self.power.boot_s:g} s "
                    "after its power is back; look at it",
                    failure="died",
                )
            self.pause(POLL_S)

    def _wrong_switch(self, problem: str) -> DeviceError:
        return DeviceError(
            f"{self.name}: {problem}; check 'power' in the inventory", failure="configuration"
        )


def boot_id_of(device: Device) -> str | None:
    """Return the boot id of a device; None where it does not answer or has none."""
    try:
        return device.capabilities().boot_id
    except DeviceError:
        return None


def _answers(device: Device) -> bool:
    """Return whether a device answers over a new connection."""
    _close(device)
    try:
        device.capabilities()
    except DeviceError as error:
        return _is_final(error)
    return True


# ---- errors and states


def _is_final(error: DeviceError) -> bool:
    """Return whether waiting or a restart cannot help: the device is there, and busy or wrong."""
    return isinstance(error, BusyError) or not is_infrastructure(error)


def _check_unchanged(name: str, before: Capabilities, after: Capabilities) -> None:
    """Raise DeviceError where a device is another one than when the run checked it before."""
    if after.fingerprint == before.fingerprint:
        return
    changed = []
    for capability in fields(after):
        field = capability.name
        if field != "boot_id" and getattr(after, field) != getattr(before, field):
            changed.append(field)
    raise DeviceError(
        f"{name}: it was changed in the middle of the run ({', '.join(changed)}); "
        "run afresh with --new",
        failure="configuration",
    )


def _close(device: Device) -> None:
    with suppress(DeviceError):
        device.close()


def _was_lost_in_run(recorded: HealthRow | None) -> bool:
    if recorded is None:
        return False
    return recorded["health"] == "unknown" and recorded["step"] is not None


def _reason(name: str, error: QpipeError) -> str:
    """Return the text of an error without the device's name at its start."""
    return str(error).removeprefix(f"{name}: ")


def _how_to_clear(name: str) -> str:
    return f"clear it with: qpipe devices clear {name}"


def _ignore_progress(done: float, total: float | None = None, unit: str = "") -> None:
    """Ignore the progress of a file of 64 bytes."""
