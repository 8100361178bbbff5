"""What ssh_config says of a host: paramiko's reader, and what it leaves out: Include, and conditions in conditions.

`Match exec` is the one thing left out on purpose: looking up an address runs no command. Such a block is passed over,
with a word in the log.
"""

from __future__ import annotations

import glob
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from paramiko import SSHConfig, SSHConfigDict
from paramiko.ssh_exception import ConfigParseError

SYSTEM = Path("/etc/ssh/ssh_config")
DEEPEST = 16  # files that include each other; OpenSSH's limit
CRITERIA = ("all", "canonical", "final", "host", "originalhost", "user", "localuser")
NOBODY = ("originalhost", "!*")  # a condition that nothing meets
SETTING = re.compile(r"(\w+)(?:\s*=\s*|\s+)(.+)")

log = logging.getLogger(__name__)


def settings(host: str, first: Mapping[str, object]) -> SSHConfigDict:
    """What holds for a host by its alias, keys in lower case: `first` (as `ssh -o`; None says nothing), then
    ~/.ssh/config, then that of the system. paramiko's ConfigParseError for what is none."""
    lines = [f"{key} {value}" for key, value in first.items() if value is not None]
    for path in (Path("~/.ssh/config").expanduser(), SYSTEM):
        lines += _lines(path, (), path.parent, 0)
    config = SSHConfig()
    config.parse(lines)
    return config.lookup(host)


def words(value: str) -> list[str]:
    """A setting's words, without quotes and comment."""
    return shlex.split(value, comments=True)


def _lines(path: Path, within: Sequence[str], folder: Path, depth: int) -> Iterator[str]:
    """A file with its includes in their places, and each Host as the Match that says the same: conditions within
    conditions become one Match with them all, which is the conjunction that Host cannot express."""
    if depth > DEEPEST:
        raise ConfigParseError(
            f"{path}: files include each other more than {DEEPEST} deep; remove one Include"
        )
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # as OpenSSH: what is not there says nothing
        return
    criteria = within
    yield _match(criteria)
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        key, value = _setting(line, f"{path}:{number}")
        if key == "host":
            criteria = (*within, "originalhost", ",".join(words(value)))
        elif key == "match":
            criteria = (*within, *_criteria(words(value), f"{path}:{number}"))
        elif key == "include":
            for file in _included(value, folder):
                yield from _lines(file, criteria, folder, depth + 1)
        else:
            yield line
            continue
        yield _match(criteria)


def _setting(line: str, where: str) -> tuple[str, str]:
    found = SETTING.fullmatch(line)
    if found is None:
        raise ConfigParseError(f"{where}: '{line}' is no setting; write a keyword and a value")
    return found[1].lower(), found[2]


def _criteria(given: Sequence[str], where: str) -> Sequence[str]:
    criteria: list[str] = []
    left = list(given)
    while left:
        word = left.pop(0)
        kind = word.lower().removeprefix("!")
        if kind not in CRITERIA:  # paramiko takes one that it does not know as met
            log.warning(
                "%s: what follows is passed over: a condition on '%s' is not looked into",
                where,
                kind,
            )
            return NOBODY
        if kind == "all":
            continue
        criteria.append(word.lower())
        if kind not in ("canonical", "final"):
            if not left:
                raise ConfigParseError(
                    f"{where}: Match {kind} is not complete; say what it must be"
                )
            criteria.append(left.pop(0))
    return criteria


def _match(criteria: Sequence[str]) -> str:
    return f"Match {shlex.join(criteria)}" if criteria else "Match all"


def _included(value: str, folder: Path) -> Iterator[Path]:
    """The files of an Include; relative ones are beside the configuration that everything began with."""
    for word in words(value):
        yield from map(Path, sorted(glob.glob(str(folder / Path(word).expanduser()))))  # noqa: PTH207  (a pattern may be absolute)
