"""An agent whose answers are changed on their way, as somebody who owns the board could change them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import qpipe
from qpipe_devices import local

# stands for the board's Python: runs the real agent, and changes what it answers as the file of the lie says
LIAR = """#!{python}
import json, os, subprocess, sys, threading, time
sys.path[:0] = {path!r}
import numpy as np
from qpipe_devices.agent import wire
agent = subprocess.Popen([{python!r}, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def forward():
    while content := os.read(0, 65536):
        agent.stdin.write(content)
        agent.stdin.flush()
    agent.stdin.close()
threading.Thread(target=forward, daemon=True).start()
out = sys.stdout.buffer
for line in agent.stdout:
    out.write(line)
    out.flush()
    if line.endswith(b"ready\\n"):
        break
def endless(content):
    while True:
        out.write(content)
while message := wire.read_message(agent.stdout):
    with open({lie!r}) as file:
        lie = json.load(file)
    fields, arrays = message.fields, message.arrays
    if "boot_id" in fields:
        fields.update(lie.get("identity", {{}}))
    if lie.get("when", "id") not in fields:
        wire.write_message(out, fields, arrays)
        continue
    if lie.get("field") in fields:
        if "value" in lie:
            fields[lie["field"]] = lie["value"]
        else:
            del fields[lie["field"]]
    if fields["id"] > 0 and "raw" in lie:
        out.write(lie["raw"].replace("ID", str(fields["id"])).encode())
        if "then" in lie:
            endless(lie["then"].encode() * 65536)
    if fields["id"] > 0 and lie.get("ends"):
        agent.kill()
        os._exit(0)
    while fields["id"] > 0 and lie.get("is_silent"):
        time.sleep(1)
    if "index" in fields and "array" in lie:
        name, dtype, shape = lie["array"]
        arrays = {{name: np.zeros(shape, dtype)}} if name else {{}}
    if fields["id"] > 0 and "stderr_mb" in lie:
        for _ in range(lie["stderr_mb"]):
            os.write(2, b"\\x1b[31m" * 200000)
    wire.write_message(out, fields, arrays)
"""


def write_liar(folder: Path) -> Path:
    """Write what stands for the Python of a board that tells the lie in lie.json beside it."""
    python = folder / "python3"
    text = LIAR.format(
        python=sys.executable,
        lie=str(folder / "lie.json"),
        path=[part for part in sys.path if part],
    )
    python.write_text(text, encoding="utf-8")
    python.chmod(0o755)
    return python


class LyingBoard:
    """A device of this machine that tells the lie it is given, and the truth without one."""

    def __init__(self, folder: Path) -> None:
        self.lie = folder / "lie.json"
        self.tell()
        python = write_liar(folder)
        self.device: qpipe.Device = local(
            "board", python=str(python), folder=folder / "board", deadline_s=100
        )

    def tell(self, **lie: Any) -> None:
        """Change every answer so from now on."""
        self.lie.write_text(json.dumps(lie), encoding="utf-8")
