"""A scratch lab whose devices fail when and as a test says: each is a null device that reads its faults from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import scratch_lab

from qpipe.engine import device_health, retry

FAULTY = '''

from qpipe_devices.null import NullDevice


class Faulty(NullDevice):
    """`<name>.faults` has lines of operation, failure, and "dying" where it is gone from then on; each holds once.
    While `<name>.gone` lies there it does not answer. `<name>.calls` is what it was asked for."""

    def meets(self, what):
        with open(f"{self.name}.calls", "a") as calls:
            print(what, file=calls)
        gone, faults = Path(f"{self.name}.gone"), Path(f"{self.name}.faults")
        lines = faults.read_text().splitlines() if faults.exists() else []
        mine = next((line for line in lines if line.split(":")[0] == what), None)
        if mine:
            lines.remove(mine)
            faults.write_text("\\n".join(lines))
            _, failure, dying = mine.split(":")
            if dying:
                gone.touch()
            raise qpipe.DeviceError(f"{self.name}: {what} ended in tears", failure=failure)
        if gone.exists():
            raise qpipe.DeviceError(f"{self.name}: nobody answers", failure="unreachable")

    def capabilities(self):
        self.meets("capabilities")
        arch = Path(f"{self.name}.arch")
        self.arch = arch.read_text() if arch.exists() else self.arch
        return super().capabilities()

    def store(self, folder, progress):
        self.meets("store")
        return super().store(folder, progress)

    def placement(self, build):
        self.meets("placement")


class Switch:
    """Takes `<name>.gone` away where the test has put `<name>.mains`."""

    def __init__(self, name, boot_s):
        self.name, self.boot_s = name, boot_s

    def off(self):
        Path(f"{self.name}.gone").touch()

    def on(self):
        if Path(f"{self.name}.mains").exists():
            Path(f"{self.name}.gone").unlink()


def faulty(name: str):
    """A device that fails when it is told to."""
    return Faulty(name, "x86_64", 1.0)


def switch(name: str, *, boot_s: float = 0.3):
    """Its power."""
    return Switch(name, boot_s)


def look(deployed, device: qpipe.Device):
    """A measurement of the moment, of each build by itself."""
    device.placement(deployed.stored)
    return [qpipe.Measurement("looks", 1.0, "")]


def tell(deployments, device: qpipe.Device):
    """Of all builds; where the first try fails it has one number, the second gives another."""
    found = [qpipe.Measurement("told", 1.0, "", deployed=each.name) for each in deployments.present]
    try:
        device.placement(deployments.present[0].stored)
    except qpipe.DeviceError as error:
        early = qpipe.Measurement("early", 1.0, "", deployed=deployments.present[0].name)
        raise qpipe.IncompleteError(str(error), [early], failure=error.failure)
    return found


@qpipe.hookimpl
def register_devices(register):
    register(faulty)


@qpipe.hookimpl
def register_power(register):
    register(switch)
'''
REGISTER = (
    '    register("measure", look, cached=False)\n    register("measure", tell, cached=False)\n'
)
DEVICES = "one: faulty\ntwo: faulty\nswitched: {faulty: {}, power: switch}\n"
# one step of the host at a time, in the order of the plan: float is the first to meet a fault
ONE_AT_A_TIME = "import os\nos.cpu_count = lambda: 1"
FLOAT, SNAPPED = "tiny/float32/packed@one", "tiny/snapped/packed@one"


class FaultyLab(scratch_lab.LabShell):
    """The recipe measures `look` on the device `one`."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        super().__init__(folder, monkeypatch, capsys)
        self.lab.write("stages.py", scratch_lab.PLUGIN + REGISTER + FAULTY)
        self.lab.write("devices.yaml", DEVICES)
        lines = scratch_lab.RECIPE.splitlines()
        kept = [line for line in lines if not line.startswith(("measure:", "pareto:"))]
        self.lab.write("recipe.yaml", "\n".join([*kept, "measure: [look]", "pareto: {looks: max}"]))
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
        monkeypatch.setattr(retry, "BACK_OFF_S", (0.01,))
        monkeypatch.setattr(device_health, "RECOVERY_S", 0.1)
        monkeypatch.setattr(device_health, "POLL_S", 0.02)
        monkeypatch.setattr(device_health, "OFF_S", 0.01)

    def fault(self, device: str, *faults: str) -> None:
        """What fails there: `operation:failure:` each, with "dying" at the end where it is gone then."""
        self.lab.write(f"{device}.faults", "\n".join(faults))

    def calls(self, device: str) -> list[str]:
        """What the device was asked for, since the last time."""
        file = self.lab.folder / f"{device}.calls"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def steps(self) -> Mapping[str, Mapping[str, Any]]:
        """The steps of the newest run."""
        return {step["step"]: step for step in self.json("show")["steps"]}

    def trail(self, device: str) -> list[tuple[str, str]]:
        """What happened to a device, and what it became."""
        return [(event["event"], event["now"]) for event in self.json(f"devices log {device}")]
