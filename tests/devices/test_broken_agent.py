"""What breaks between host and agent: messages that are none, and a runner that is gone when it should be ended."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import qpipe
from qpipe_devices import local
from qpipe_devices.agent import lease
from qpipe_devices.agent.agent import Agent
from qpipe_devices.agent.runner_process import RunnerProcess
from qpipe_devices.agent.wire import MAGIC

# says all that an agent says when it starts, then nonsense
IMPOSTOR = """#!{python}
import sys
for line in ("", "{magic}have", "{magic}ready", '{{"id": 0, "root": "/nowhere", "incoming": "/nowhere", "token": 1}}'):
    print(line, flush=True)
sys.stdin.readline()
print({nonsense!r}, flush=True)
sys.stdin.read()
"""
NONSENSE = [
    "Segmentation fault",
    "{}",
    "[]",
    "7",
    '{"id": "one"}',
    '{"id": 1, "arrays": [["x", "<q9", [1], 0]]}',
]


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_message_that_is_none_ends_the_conversation(tmp_path: Path, nonsense: str) -> None:
    impostor = tmp_path / "python3"
    text = IMPOSTOR.format(python=sys.executable, magic=MAGIC.decode(), nonsense=nonsense)
    impostor.write_text(text, encoding="utf-8")
    impostor.chmod(0o755)
    device = local("board", python=str(impostor), folder=tmp_path / "board")
    with pytest.raises(qpipe.DeviceError) as error:
        device.capabilities()
    device.close()
    assert error.value.failure == "wrong answer"
    assert str(error.value).startswith("board: a wrong answer: '")
    assert str(error.value).endswith(
        "' is no message of the agent; check what runs there, or set it up again"
    )


class Brief(Agent):
    """An agent whose runner is let go of right after somebody looked at it."""

    def __init__(self, folder: Path, runner: RunnerProcess) -> None:
        own = lease.take_lease(folder, None, lease.Client("somebody", "0" * 32, 30))
        super().__init__(folder, own, None, source=io.BytesIO(), sink=io.BytesIO())
        self.seen: list[RunnerProcess | None] = [runner]

    @property  # type: ignore[override]
    def runner(self) -> RunnerProcess | None:
        return self.seen.pop() if self.seen else None

    @runner.setter
    def runner(self, runner: RunnerProcess | None) -> None:
        self.seen = [runner]


def test_a_runner_that_is_let_go_of_meanwhile_is_ended_all_the_same(
    tmp_path: Path, build: qpipe.Build
) -> None:
    runner = RunnerProcess(build.folder, 10)
    agent = Brief(tmp_path, runner)
    agent._kill_runner()
    assert runner.process.wait(5) < 0
    agent._kill_runner()
    runner.close()
    for stream in (runner.process.stdout, runner.process.stderr):
        stream.close()
