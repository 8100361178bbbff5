"""The agent as it travels: one file, the same bytes every time, and the line of Python that starts it on the device."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import zipfile
from pathlib import Path

import qpipe.preprocess
from qpipe_devices.agent import wire

OLDEST_PYTHON = (3, 8)
START = """\
import sys
try:
    import numpy
except ImportError as error:
    sys.exit("numpy cannot be imported: %s" % error)
from qpipe_agent.agent import main
main()
"""
# Runs on whatever Python the device has: asks for the agent where it lacks it, then becomes it.
BOOT = """\
import hashlib, os, sys
def say(word):
    sys.stdout.write("\\n{magic}" + word + "\\n")
    sys.stdout.flush()
root, digest, size = os.path.abspath(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if sys.version_info < {oldest}:
    sys.exit("python %d.%d is too old; it must be {shown} or newer" % sys.version_info[:2])
path = os.path.join(root, "agent", digest + ".pyz")
def whole(path):
    if not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest() == digest
if whole(path):
    say("have")
else:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    say("send")
    content = b""
    while len(content) < size:
        part = os.read(0, size - len(content))
        if not part:
            sys.exit("the agent did not arrive whole")
        content += part
    aside = "%s.%d" % (path, os.getpid())
    with open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
os.execv(sys.executable, [sys.executable, path, "--root", root] + sys.argv[4:])
"""


@functools.cache
def package() -> bytes:
    """A zip file that Python runs: the modules of the agent, and the preprocessing the host uses."""
    modules = sorted(Path(wire.__file__).parent.glob("*.py"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*modules, Path(qpipe.preprocess.__file__)]:
            _add(archive, f"qpipe_agent/{path.name}", path.read_bytes())
        _add(archive, "__main__.py", START.encode())
    return content.getvalue()


def start_command(python: str, folder: str, holder: str, silence_s: float) -> list[str]:
    """The argv that starts the agent on a device. One line without quotes of its own: any login shell passes it on."""
    oldest, shown = str(OLDEST_PYTHON), ".".join(map(str, OLDEST_PYTHON))
    boot = BOOT.format(magic=wire.MAGIC.decode(), oldest=oldest, shown=shown)
    code = f'import base64;exec(base64.b64decode("{base64.b64encode(boot.encode()).decode()}"))'
    content = package()
    digest = hashlib.sha256(content).hexdigest()
    return [
        python, "-c", code, folder, digest, str(len(content)), "--holder", holder, "--silence", f"{silence_s:g}"
    ]  # fmt: skip


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980: the digest is of the content alone
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)
