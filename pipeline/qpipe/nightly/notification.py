"""Telling people of a night: a command gets its Markdown on standard input."""

from __future__ import annotations

import subprocess

LONGEST_S = 120.0


def notify_people(command: str, text: str) -> str:
    """Run a command line of the shell with a text on its standard input.

    Return why that failed; "" where it did not.
    """
    try:
        finished = subprocess.run(  # noqa: S602  the lab file is the user's own, as a recipe is
            command,
            shell=True,
            input=text,
            text=True,
            encoding="utf-8",
            capture_output=True,
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"notify: not over after {LONGEST_S:g} s; give a command that ends"
    if finished.returncode == 0:
        return ""
    lines = finished.stderr.strip().splitlines()
    reason = f": {lines[-1]}" if lines else ""
    return f"notify: it ended with status {finished.returncode}{reason}; try it in a shell"
