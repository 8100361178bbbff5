"""The agent as it travels: one file, the same bytes every time, and the line of Python that starts it on the device."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import zipfile
from pathlib import Path

from qpipe.samples import preprocess
from qpipe_devices.agent import wire
from qpipe_devices.setup import bare_board

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
try:
    with open(os.path.join(root, "python", "current")) as file:
        runtime = os.path.join(root, "python", file.read().strip())
    paths = [runtime, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # the runners' too
except (IOError, OSError):
    pass  # no runtime was set up: the system's own
os.execv(sys.executable, [sys.executable, path, "--root", root] + sys.argv[4:])
"""


# Before what an old Python cannot even read.
GUARD = """\
import sys
if sys.version_info < {oldest}:
    sys.exit("python %d.%d is too old; it must be {shown} or newer" % sys.version_info[:2])
exec(compile(base64.b64decode("{code}"), "bare.py", "exec"))
"""


@functools.cache
def package() -> bytes:
    """A zip file that Python runs: the modules of the agent, and the preprocessing the host uses."""
    modules = sorted(Path(wire.__file__).parent.glob("*.py"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*modules, Path(preprocess.__file__)]:
            _add(archive, f"qpipe_agent/{path.name}", path.read_bytes())
        _add(archive, "__main__.py", START.encode())
    return content.getvalue()


def start_command(python: str, folder: str, holder: str, silence_s: float) -> list[str]:
    """The argv that starts the agent on a device. One line without quotes of its own: any login shell passes it on."""
    boot = BOOT.format(magic=wire.MAGIC.decode(), **_oldest())
    content = package()
    digest = hashlib.sha256(content).hexdigest()
    return [
        python,
        "-c",
        _line(boot),
        folder,
        digest,
        str(len(content)),
        "--holder",
        holder,
        "--silence",
        f"{silence_s:g}",
    ]


def bare_command(python: str, folder: str, do: str, **asked: object) -> list[str]:
    """The argv that has bare.py do something on a device that may have nothing but Python."""
    code = _encoded(Path(bare_board.__file__).read_bytes())
    return [
        python,
        "-c",
        _line(GUARD.format(code=code, **_oldest())),
        folder,
        do,
        json.dumps(asked),
    ]


def _oldest() -> dict[str, str]:
    return {"oldest": str(OLDEST_PYTHON), "shown": ".".join(map(str, OLDEST_PYTHON))}


def _line(code: str) -> str:
    return f'import base64;exec(base64.b64decode("{_encoded(code.encode())}"))'


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980: the digest is of the content alone
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)
