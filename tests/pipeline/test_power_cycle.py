"""A board behind a real sshd that dies in the middle of a run: its power is switched, it is seen to go and to come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from faulty_lab import FaultyLab

from qpipe.engine import device_health

# the board's power: a server with all that it started, killed or started
MAINS = """
import os, signal, subprocess, sys, time
from pathlib import Path

pid = Path({folder!r}) / "pid"


def tree(root):
    parents = {{}}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    found = [root]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


if sys.argv[1] == "off":
    for each in tree(int(pid.read_text())):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            pass
else:
    server = subprocess.Popen([{sshd!r}, "-D", "-f", {config!r}], start_new_session=True, stderr=subprocess.DEVNULL)
    pid.write_text(str(server.pid))
    if not (pid.parent / "stuck").exists():
        (pid.parent / "proc/sys/kernel/random/boot_id").write_text(str(server.pid))
"""
STRAIN = '''

def strain(deployments, device: qpipe.Device):
    """Too much for the board, the first time."""
    import subprocess, sys
    if not Path("strained").exists():
        Path("strained").touch()
        subprocess.run([sys.executable, "mains.py", "off"], check=True)
    device.capabilities()
    return [qpipe.Measurement("strained", 1.0, "", deployed=each.name) for each in deployments.present]
'''


@pytest.fixture
def lab(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    start_sshd: Callable[..., Any],
) -> Iterator[FaultyLab]:
    """Its device `board` has a server of its own, which runs."""
    server = start_sshd("ed25519")
    lab = FaultyLab(tmp_path, monkeypatch, capsys)
    monkeypatch.setattr(device_health, "SILENCE_S", 20.0)
    config = server.key.parent / "config"
    sshd = Path(f"/proc/{server.process}/exe").readlink()
    lab.lab.write(
        "mains.py", MAINS.format(folder=str(tmp_path), sshd=str(sshd), config=str(config))
    )
    lab.lab.write("pid", str(server.process))
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in server.options(tmp_path / "b").items()
    }
    lab.lab.write("proc/sys/kernel/random/boot_id", str(server.process))
    options["sysfs"] = str(tmp_path)
    switch = {which: f"{sys.executable} {tmp_path}/mains.py {which}" for which in ("off", "on")}
    board = {"ssh": options, "power": {"command": {**switch, "boot_s": 60}}}
    lab.lab.write("devices.yaml", yaml.safe_dump({"board": board}))
    yield lab
    lab("devices power board off")


def test_a_board_that_dies_in_a_run_is_switched_off_and_on_and_the_run_is_done(
    lab: FaultyLab,
) -> None:
    lab.lab.edit(
        "stages.py",
        '    register("measure", look',
        '    register("measure", strain, cached=False)\n    register("measure", look',
    )
    lab.lab.edit("stages.py", "\n\nfrom qpipe_devices.null", f"{STRAIN}\n\nfrom qpipe_devices.null")
    lab.lab.edit("recipe.yaml", "measure: [look]", "measure: [strain]")
    lab.lab.edit("recipe.yaml", "looks", "strained")
    lab("run recipe.yaml --device board")
    events = [(event["event"], event["now"]) for event in lab.json("devices log board")]
    health_ = [("health", "good"), ("health", "unknown")]
    assert events == [*health_, ("power", "off"), ("power", "on"), ("health", "good")]
    assert [each["state"] for each in lab.json("show board/strain")["tries"]] == ["failed", "done"]


def test_a_board_is_switched_by_hand_and_seen_to_go_and_come(lab: FaultyLab) -> None:
    out, _ = lab("devices power board cycle")
    assert out.startswith("board: power off\nboard: power on\nboard: on, it answers (")
    assert [event["now"] for event in lab.json("devices log board")] == ["off", "on"]
    assert "board: off, it does not answer any more (" in lab("devices power board off")[0]
    assert "board: on, it answers (" in lab("devices power board on")[0]


def test_a_switch_of_another_device_is_told_by_the_board_that_did_not_start_anew(
    lab: FaultyLab,
) -> None:
    lab.lab.write("stuck", "")
    _, err = lab("devices power board cycle", 1)
    what = "it did not start anew, its power switch is another device's; check 'power' in the inventory"
    assert err == f"qpipe: board: {what}\n"
