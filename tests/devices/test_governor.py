"""The governor of a round: set, read back, and put back whatever becomes of the round."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import boards_sysfs as boards
import pytest
from acting_board import GOVERNOR, Board
from processes import agents

import qpipe
from qpipe_devices.agent import round_settings
from waiting import LONGEST_S, wait_until


def test_the_governor_is_set_for_the_round_and_put_back(board):
    taken = board.round(governor="performance")
    assert taken.environment["governor"] == "performance"
    assert list(board.note["seen"].values()) == ["performance"]
    assert (board.governor, taken.invalid) == ("ondemand", None)
    assert not (board.folder / "board" / "restore.json").exists()


def test_a_governor_that_is_not_there_is_told_and_not_fatal(tmp_path):
    root = boards.pi4(tmp_path / "tree")
    (root / GOVERNOR).unlink()
    (root / GOVERNOR).mkdir()  # whoever writes it is refused, root too
    with round_settings.RoundSettings(tmp_path).applied({"governor": "turbo"}, root) as told:
        pass
    expected = "governor turbo was not set (policy0: available governors are powersave ondemand performance)"
    assert told == {"governor": "unknown", "unlocked": expected}


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def leave_behind(board: Board, boot_id: str | None = None) -> None:
    """What is left where power goes, or all is killed at once: the governor set, and the file that remembers."""
    path, boot = board.root / GOVERNOR, BOOT_ID.read_text().strip() if BOOT_ID.is_file() else None
    remembered = {"boot_id": boot_id or boot, "before": {str(path): "ondemand"}}
    (board.folder / "board" / "restore.json").write_text(json.dumps(remembered), encoding="utf-8")
    path.write_text("performance", encoding="utf-8")


def test_the_governor_is_put_back_when_the_host_goes_away(board):
    leave_behind(board)
    board.device.close()
    assert board.governor == "ondemand"


def test_the_next_agent_puts_back_what_was_left(board):
    board.device.close()
    leave_behind(board)
    board.device.capabilities()
    assert board.governor == "ondemand"


@pytest.mark.skipif(not BOOT_ID.is_file(), reason="this system does not number its boots")
def test_what_was_left_before_a_boot_is_forgotten(board):
    board.device.close()
    leave_behind(board, "3b1a6f6e-0000-4000-8000-000000000000")
    board.device.capabilities()
    assert board.governor == "performance"  # as the boot set it
    assert not (board.folder / "board" / "restore.json").exists()


def test_nothing_but_governors_is_put_back(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    boot_id = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else None
    remembered = {"boot_id": boot_id, "before": {str(other): "theirs"}}
    (tmp_path / "restore.json").write_text(json.dumps(remembered))
    round_settings.RoundSettings(tmp_path)
    assert other.read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"before": []}', '{"/sys/x/scaling_governor": "ondemand"}', "null"]
)
def test_a_file_that_remembers_nothing_stops_nobody(content, tmp_path):
    (tmp_path / "restore.json").write_text(content)
    round_settings.RoundSettings(tmp_path)
    assert not (tmp_path / "restore.json").exists()


@pytest.mark.parametrize("command_on", ["device", "host"])
def test_idle_is_measured_with_the_governor_of_the_round_wherever_the_meter_is(command_on, board):
    path = board.root / GOVERNOR
    meter = f"while :; do case $(cat {path}) in performance) echo 5;; ?*) echo 1;; esac; sleep 0.005; done"
    own = {
        "command": meter,
        "command_on": command_on,
        "idle_s": 0.3,
        "period_s": 0.005,
        "updates": 2,
    }
    taken = board.round(seconds=0.3, governor="performance", energy=own)
    assert taken.energy["idle_w"] == pytest.approx(5)
    assert taken.energy["joules"] == pytest.approx(5 * taken.energy["seconds"])


# ---- a round that is cut while it runs


@pytest.fixture
def cut_round(open_device, tmp_path):
    """A round of ten minutes by a governor that it set, on either kind of device, asked for once."""
    made = Board(tmp_path, boards.pi4, open_device)
    made.device.patience_s = 0

    def take() -> None:
        with pytest.raises(qpipe.DeviceError):
            made.round(seconds=600, governor="performance")

    thread = threading.Thread(target=take)
    thread.start()
    assert wait_until(lambda: (tmp_path / "note").exists())  # the runner is asked for values
    assert made.governor == "performance"
    yield made
    thread.join(LONGEST_S)
    assert not thread.is_alive()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_agent_that_is_killed_in_a_round_leaves_the_governor_as_it_was(cut_round):
    (agent,) = agents(cut_round.folder / "board")
    os.kill(agent, signal.SIGKILL)
    assert wait_until(lambda: cut_round.governor == "ondemand")
    assert wait_until(lambda: not (cut_round.folder / "board" / "restore.json").exists())


def test_a_host_that_ends_a_call_leaves_the_governor_as_it_was(cut_round):
    """By killing all that belongs to it: the way of an answer that is too late."""
    cut_round.device._conversation.process.kill()
    assert wait_until(lambda: cut_round.governor == "ondemand")


@pytest.mark.parametrize("open_device", ["ssh"], indirect=True)
def test_a_line_that_is_cut_in_a_round_leaves_the_governor_as_it_was(cut_round):
    cut_round.device.transport.transport.sock.shutdown(2)
    assert wait_until(lambda: cut_round.governor == "ondemand")


HOST = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import boards_sysfs as boards
from acting_board import Board
Board(Path(sys.argv[1]), boards.pi4).round(seconds=600, governor="performance")
"""


def test_a_host_that_is_killed_in_a_round_leaves_the_governor_as_it_was(tmp_path):
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    host = subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path), *places])
    try:
        assert wait_until(lambda: (tmp_path / "note").exists())
        governor = tmp_path / "tree" / GOVERNOR
        assert governor.read_text() == "performance"
    finally:
        host.kill()
        host.wait()
    assert wait_until(lambda: governor.read_text() == "ondemand")
