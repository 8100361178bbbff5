"""What becomes of a measurement when the line is lost: nothing that was done is lost or done twice."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import agents, when

import qpipe
from qpipe_devices.agent import answer_journal
from small_build import nothing, write_build
from waiting import wait_until

# writes down each thing it is asked for; where a file says so (as "time 1") it hangs there, once
COUNTING = """
import sys, time
from pathlib import Path
from qpipe_agent import wire
source, sink = wire.claim()
said, hang = Path({said!r}), Path({hang!r})
def tell(word):
    with said.open("a") as file:
        file.write(word + "\\n")
    count = said.read_text().split().count(word)
    if hang.exists() and hang.read_text() == f"{{word}} {{count}}":
        hang.unlink()
        time.sleep(600)
while True:
    asked = wire.read_message(source)
    if asked is None:
        break
    do = asked.fields["do"]
    tell(do)
    if do == "load":
        wire.write_message(sink, {{"load_ms": 1.0, "runtime_mb": 1.0, "inputs": ["image"], "outputs": ["y"]}})
    elif do == "run":
        wire.write_message(sink, {{}}, {{"y": asked.arrays["image"]}})
    else:
        wire.write_message(sink, {{"first_ms": 1.0, "warmups": 0, "values_ns": [10**6] * 3, "peak_mb": 2.0}})
        tell("timed")
"""

# a line to the agent that is cut, once, right before the answer to a round
LINE = """
import os, subprocess, sys, threading
from pathlib import Path
agent = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def pump():
    while part := os.read(0, 1 << 16):
        agent.stdin.write(part)
        agent.stdin.flush()
    agent.stdin.close()
threading.Thread(target=pump, daemon=True).start()
for line in agent.stdout:
    if b"values_ns" in line and not Path({cut!r}).exists():
        Path({cut!r}).touch()
        os._exit(1)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """What the runner was asked for, a word a line."""
    return tmp_path / "said"


@pytest.fixture
def hang(tmp_path: Path) -> Path:
    """Where it is said at what the runner hangs; it goes as it does."""
    return tmp_path / "hang"


@pytest.fixture
def counting(tmp_path: Path, said: Path, hang: Path) -> qpipe.Build:
    said.touch()
    runner = COUNTING.format(said=str(said), hang=str(hang))
    return write_build(tmp_path / "build", "run_mine.py", {"run_mine.py": runner})


def kill_agent(tmp_path: Path) -> None:
    for process in agents(tmp_path / "board"):
        os.kill(process, signal.SIGKILL)


def test_a_round_that_was_cut_is_repeated_and_the_caller_sees_nothing_of_it(
    device, counting, said, hang, samples, tmp_path
):
    places = device.store(counting.folder, nothing), device.store(samples.folder, nothing)
    hang.write_text("time 1", encoding="utf-8")
    thread = when(lambda: not hang.exists(), lambda: kill_agent(tmp_path))
    taken = device.round(*places, warmup_s=0, values=3, budget_s=5)
    thread.join()
    assert list(taken.values_ms) == [1.0] * 3
    assert said.read_text(encoding="utf-8").split() == ["load", "time", "load", "time", "timed"]


def test_a_round_whose_answer_was_lost_is_read_from_the_journal(
    open_device, counting, said, samples, tmp_path
):
    line = tmp_path / "line"
    line.write_text(
        f"#!{sys.executable}\n{LINE.format(cut=str(tmp_path / 'cut'))}", encoding="utf-8"
    )
    line.chmod(0o755)
    device = open_device(python=str(line))
    places = device.store(counting.folder, nothing), device.store(samples.folder, nothing)
    taken = device.round(*places, warmup_s=0, values=3, budget_s=5)
    assert (tmp_path / "cut").exists()
    assert list(taken.values_ms) == [1.0] * 3
    assert said.read_text(encoding="utf-8").split() == ["load", "time", "timed"]
    assert len(list((tmp_path / "board" / "journal").glob("*.jsonl"))) == 1


def test_two_rounds_are_two_whatever_they_have_in_common(device, counting, said, samples):
    places = device.store(counting.folder, nothing), device.store(samples.folder, nothing)
    for _ in range(2):
        device.round(*places, warmup_s=0, values=3, budget_s=5)
    assert said.read_text(encoding="utf-8").split().count("timed") == 2


def test_inference_goes_on_with_the_first_sample_that_was_not_received(
    device, counting, said, hang, samples, tmp_path
):
    places = device.store(counting.folder, nothing), device.store(samples.folder, nothing)
    hang.write_text("run 9", encoding="utf-8")
    found = []
    for index, outputs in enumerate(device.infer(*places, 12)):
        found.append(outputs["y"])
        if index == 4:
            assert wait_until(lambda: not hang.exists())
            kill_agent(tmp_path)
    assert len(found) == 12
    for index, each in enumerate(found):
        assert each.tobytes() == samples.feeds(index, ["image"])["image"].tobytes()
    assert said.read_text(encoding="utf-8").split().count("load") == 2


def test_patience_ends_and_the_reason_is_the_last_one(device, counting, hang, samples, tmp_path):
    places = device.store(counting.folder, nothing), device.store(samples.folder, nothing)
    device.patience_s = 0
    hang.write_text("time 1", encoding="utf-8")
    thread = when(lambda: not hang.exists(), lambda: kill_agent(tmp_path))
    with pytest.raises(
        qpipe.DeviceError, match=r"^board: the connection was lost; run again to continue$"
    ) as error:
        device.round(*places, warmup_s=0, values=3, budget_s=5)
    thread.join()
    assert error.value.failure == "died"


def test_closing_a_device_ends_the_wait_for_its_line(device, counting, said, hang, samples):
    places = device.store(counting.folder, nothing), device.store(samples.folder, nothing)
    hang.write_text("time 1", encoding="utf-8")
    thread = when(lambda: not hang.exists(), device.close)
    with pytest.raises(qpipe.DeviceError):
        device.round(*places, warmup_s=0, values=3, budget_s=5)
    thread.join()
    assert said.read_text(encoding="utf-8").split().count("time") == 1


ASKED = {"do": "round", "id": 7, "key": 1, "deadline_s": 5, "build": "/b", "values": 3}


def test_what_was_kept_is_found_again_under_another_id_and_deadline(tmp_path):
    answer_journal.AnswerJournal(tmp_path / "journal", "a").append(ASKED, {"values_ns": [1]})
    again = {**ASKED, "id": 1, "deadline_s": 9}
    assert answer_journal.AnswerJournal(tmp_path / "journal", "a").find(again) == {"values_ns": [1]}


@pytest.mark.parametrize(
    "other", [{"build": "/c"}, {"key": 2}, {"options": {"threads": 2}}], ids=str
)
def test_an_answer_to_something_else_is_not_given(tmp_path, other):
    answer_journal.AnswerJournal(tmp_path / "journal", "a").append(ASKED, {"values_ns": [1]})
    assert answer_journal.AnswerJournal(tmp_path / "journal", "a").find({**ASKED, **other}) is None
    assert answer_journal.AnswerJournal(tmp_path / "journal", "b").find(ASKED) is None


def test_a_line_that_was_cut_costs_itself_alone(tmp_path):
    kept = answer_journal.AnswerJournal(tmp_path / "journal", "a")
    kept.append(ASKED, {"values_ns": [1]})
    kept.append({**ASKED, "key": 2}, {"values_ns": [2]})
    kept.path.write_bytes(kept.path.read_bytes()[:-9])
    again = answer_journal.AnswerJournal(tmp_path / "journal", "a")
    assert again.find(ASKED) == {"values_ns": [1]}
    assert again.find({**ASKED, "key": 2}) is None
    again.append({**ASKED, "key": 3}, {"values_ns": [3]})
    assert answer_journal.AnswerJournal(tmp_path / "journal", "a").find({**ASKED, "key": 3}) == {
        "values_ns": [3]
    }


def test_old_journals_go(tmp_path):
    kept = answer_journal.AnswerJournal(tmp_path / "journal", "a")
    kept.append(ASKED, {})
    os.utime(kept.path, (time.time() - 3700,) * 2)
    answer_journal.AnswerJournal(tmp_path / "journal", "b")
    assert not kept.path.exists()
