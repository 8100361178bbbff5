"""The agent as it travels: one zip file, always the same bytes, and the program that starts it.

Programs reach a device by their stdin, whatever its server allows a command to be.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qpipe.digests import digest_bytes
from qpipe.samples import preprocess, sample_feeds
from qpipe_devices.agent import mounts, private_folder, wire

OLDEST_PYTHON = (3, 8)
HELPERS = (mounts, private_folder)  # modules that every program begins with
# runs as many bytes of stdin as the first argument says, and reads none beyond them; some servers
# refuse long commands, and this one, which has no quotes, passes any login shell unchanged
READ_AND_RUN = (
    "import io,sys;exec(io.BufferedReader(io.FileIO(0,closefd=False),1).read(int(sys.argv.pop(1))))"
)
# comes before anything that an older Python cannot even parse
PYTHON_CHECK = f"""\
import sys
if sys.version_info < {OLDEST_PYTHON}:
    message = "python %d.%d is too old; it must be {".".join(map(str, OLDEST_PYTHON))} or newer"
    sys.exit(message % sys.version_info[:2])
"""
# becomes __main__.py of the zip file
MAIN_MODULE = """\
import sys
try:
    import numpy
except ImportError as error:
    sys.exit("numpy cannot be imported: %s" % error)
from qpipe_agent.agent import main
main()
"""
# runs on whatever Python the device has: requests the zip file where it is missing, then becomes it
BOOT_PROGRAM = """\
import hashlib, os
def report(state):
    sys.stdout.write("\\n{magic}" + state + "\\n")
    sys.stdout.flush()
root = os.path.abspath(sys.argv[1])
digest = sys.argv[2]
size = int(sys.argv[3])
path = os.path.join(root, "agent", digest + ".pyz")
def is_complete(path):
    if not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest() == digest
def check_disk(function):
    try:
        return function()
    except OSError as error:
        sys.exit("%s, mounted at %s: %s" % (root, mount_of(root), error.strerror))
def receive():
    os.makedirs(os.path.dirname(path), exist_ok=True)
    report("send")
    content = b""
    while len(content) < size:
        part = os.read(0, size - len(content))
        if not part:
            sys.exit("the agent did not arrive whole")
        content += part
    temporary = "%s.%d" % (path, os.getpid())
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
problem = check_disk(lambda: make_private(root))
if problem:
    sys.exit(problem)
if is_complete(path):
    report("have")
else:
    check_disk(receive)
try:
    with open(os.path.join(root, "python", "current")) as file:
        runtime = os.path.join(root, "python", file.read().strip())
    if is_noexec(runtime):
        message = "the runtime in %s cannot be loaded: %s is mounted noexec"
        sys.exit(message % (runtime, mount_of(root)))
    paths = [runtime, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # the runners inherit it
except (IOError, OSError):
    pass  # setup has installed no runtime: the system's packages are used
os.execv(sys.executable, [sys.executable, path, "--root", root] + sys.argv[4:])
"""


class RemoteProgram(NamedTuple):
    """A program for a device: the command that starts it, and what its stdin begins with."""

    command: list[str]
    source: bytes

    def with_arguments(self, arguments: Sequence[str]) -> RemoteProgram:
        """Return the program with further arguments."""
        return self._replace(command=[*self.command, *arguments])


@functools.cache
def package() -> bytes:
    """Return a zip file that Python runs: the agent's modules, and how the host feeds samples."""
    modules = sorted(Path(wire.__file__).parent.glob("*.py"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*modules, Path(sample_feeds.__file__), Path(preprocess.__file__)]:
            _add_file(archive, f"qpipe_agent/{path.name}", path.read_bytes())
        _add_file(archive, "__main__.py", MAIN_MODULE.encode())
    return content.getvalue()


def start_program(python: str, *, folder: str, holder: str, silence_s: float) -> RemoteProgram:
    """Return the program that starts the agent on a device."""
    content = package()
    code = BOOT_PROGRAM.format(magic=wire.MAGIC.decode())
    arguments = [folder, digest_bytes(content), str(len(content))]
    arguments += ["--holder", holder, "--silence", f"{silence_s:g}"]
    return remote_program(python, code, arguments)


def remote_program(python: str, code: str, arguments: Sequence[str]) -> RemoteProgram:
    """Return a program that the device's Python runs, unless that is too old.

    The code may use the functions of HELPERS.
    """
    parts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in HELPERS]
    lines = [f"exec({part!a})\n" for part in (*parts, code)]
    source = (PYTHON_CHECK + "".join(lines)).encode()
    return RemoteProgram([python, "-c", READ_AND_RUN, str(len(source)), *arguments], source)


def _add_file(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980: the digest depends on the content alone
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)
