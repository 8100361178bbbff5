"""A Python that has numpy, Pillow and ONNX Runtime, and nothing else: where an exported folder is used."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("numpy", "numpy.libs", "PIL", "pillow.libs", "onnxruntime")
RUN = """
import runpy, sys
sys.path.append(sys.argv[1])
sys.argv = sys.argv[2:]
for name in ("qpipe", "qpipe_plugins", "onnx"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} can be imported")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder: Path, script: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a script in `folder`, without this environment but for links to these packages."""
    libraries = folder / "libraries"
    if not libraries.is_dir():
        libraries.mkdir()
        installed = Path(sysconfig.get_path("purelib"))
        for name in PACKAGES:
            if (installed / name).exists():
                (libraries / name).symlink_to(installed / name)
    argv = [sys.executable, "-I", "-S", "-c", RUN, libraries, script, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, check=False)
