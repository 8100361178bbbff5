"""The real command line in this process: what it prints, and how it ends."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from typing import Any

import pytest
import typer.main

from qpipe.cli import main

# each call of the command would make the same of it again, which takes longer than most commands
typer.main.get_command = functools.cache(typer.main.get_command)


class Shell:
    """The command, in the working directory of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setenv("NO_COLOR", "1")

    def ended(self, *words: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["qpipe", *words])
        self.capsys.readouterr()
        status: Any = 0
        try:
            main()
        except SystemExit as error:
            status = error.code or 0
        return status, *self.capsys.readouterr()

    def run(self, *words: str, status: int = 0) -> tuple[str, str]:
        """Standard output and standard error of a command that must end with that status."""
        ended, out, err = self.ended(*words)
        assert ended == status, f"{ended}\n{out}\n{err}"
        return out, err

    def __call__(self, line: str, status: int = 0) -> tuple[str, str]:
        """The same of a whole line."""
        return self.run(*shlex.split(line), status=status)

    def json(self, line: str, status: int = 0) -> Any:
        """What it prints with --json."""
        return json.loads(self(f"{line} --json", status)[0])
