"""The files of a new lab: LAB.yaml, a systemd timer with its service, and a job for CI."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from qpipe.errors import RecipeError

LAB = """\
# What runs every night: qpipe nightly {file}
name: {name}
recipes:
{recipes}
devices: [{devices}]
until: "06:00"      # what runs then is cut; what is not done is named
keep: {{raw: 30d}}    # of times: older raw values go, medians and intervals stay
# notify: mail -s 'the night' team@example.org    # gets the page as Markdown on standard input
"""
SERVICE = """\
[Unit]
Description=qpipe nightly {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={folder}
ExecStart={command}
# 3: regressions, of which the page tells
SuccessExitStatus=3
"""
TIMER = """\
[Unit]
Description=qpipe nightly {name}, every night

[Timer]
OnCalendar=*-*-* 01:00
# a machine that was off at that time begins when it is on; a night that was cut goes on
Persistent=true

[Install]
WantedBy=timers.target
"""
CI = """\
# GitHub Actions, on a runner of your own that reaches the boards
name: nightly
on:
  schedule: [{{cron: "0 1 * * *"}}]
jobs:
  nightly:
    runs-on: [self-hosted, qpipe]
    timeout-minutes: 360
    steps:
      - run: {command}
        working-directory: {folder}
      - if: always()
        uses: actions/upload-artifact@v4
        with: {{name: night, path: {folder}/nights}}
"""


def write_lab(file: Path, *, recipes: Sequence[Path], devices: Sequence[str]) -> list[Path]:
    """Write the files of a lab beside each other, and return them; none is overwritten."""
    name = file.stem
    folder = file.parent.resolve()
    program = Path(sys.executable).with_name("qpipe")
    fields = {
        "file": file.name,
        "name": name,
        "recipes": "\n".join(f"  - {_relative(recipe, folder)}" for recipe in recipes),
        "devices": ", ".join(devices),
        "folder": str(folder),
        "command": shlex.join([str(program), "nightly", file.name]),
    }
    texts = {
        file: LAB,
        file.with_name(f"qpipe-{name}.service"): SERVICE,
        file.with_name(f"qpipe-{name}.timer"): TIMER,
        file.with_name(f"{name}-ci.yaml"): CI,
    }
    for path in texts:
        if path.exists():
            raise RecipeError(f"{path}: it is there already; give another name, or remove it")
    for path, text in texts.items():
        path.write_text(text.format(**fields), encoding="utf-8")
    return list(texts)


def _relative(path: Path, folder: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(folder)) if resolved.is_relative_to(folder) else str(resolved)
