"""Reading ssh_config by paramiko, with what paramiko lacks: Include, and nested conditions.

`Match exec` is left out on purpose: looking up an address must not run a command. Such a block is
skipped with a warning in the log.
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

USER_CONFIG = "~/.ssh/config"
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
MOST_INCLUDES = 16  # of files that include each other; OpenSSH's limit
CRITERIA = ("all", "canonical", "final", "host", "originalhost", "user", "localuser")
CRITERIA_WITHOUT_VALUE = ("canonical", "final")
MATCHES_NO_HOST = ("originalhost", "!*")
SETTING = re.compile(r"(\w+)(?:\s*=\s*|\s+)(.+)")

log = logging.getLogger(__name__)


def read_settings(host: str, options: Mapping[str, object]) -> SSHConfigDict:
    """Return the settings of a host by its alias, with keys in lower case.

    Settings of `options` come first, as those of `ssh -o` do (None sets nothing), then those of
    ~/.ssh/config, then the system's. Raise paramiko's ConfigParseError for invalid settings.
    """
    lines = [f"{key} {value}" for key, value in options.items() if value is not None]
    for path in (Path(USER_CONFIG).expanduser(), SYSTEM_CONFIG):
        lines += _read_lines(path, (), include_folder=path.parent, depth=0)
    config = SSHConfig()
    config.parse(lines)
    return config.lookup(host)


def split_words(value: str) -> list[str]:
    """Return the words of a setting's value, without quotes and comment."""
    return shlex.split(value, comments=True)


def _read_lines(
    path: Path, outer_criteria: Sequence[str], *, include_folder: Path, depth: int
) -> Iterator[str]:
    """Yield the lines of a file, with included files in their places and Match lines alone.

    Each Host becomes the Match that means the same. Nested conditions become one Match with all of
    them: their conjunction, which Host cannot express.
    """
    if depth > MOST_INCLUDES:
        raise ConfigParseError(
            f"{path}: files include each other more than {MOST_INCLUDES} deep; remove one Include"
        )
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a missing file sets nothing, as in OpenSSH
        return
    yield _match_line(outer_criteria)
    criteria = outer_criteria
    for number, raw_line in enumerate(text.splitlines(), 1):
        line = raw_line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}:{number}"
        key, value = _parse_setting(line, where)
        if key == "host":
            criteria = (*outer_criteria, "originalhost", ",".join(split_words(value)))
        elif key == "match":
            criteria = (*outer_criteria, *_parse_criteria(split_words(value), where))
        elif key == "include":
            for file in _included_files(value, include_folder):
                yield from _read_lines(
                    file, criteria, include_folder=include_folder, depth=depth + 1
                )
        else:
            yield line
            continue
        yield _match_line(criteria)


def _parse_setting(line: str, where: str) -> tuple[str, str]:
    match = SETTING.fullmatch(line)
    if match is None:
        raise ConfigParseError(f"{where}: '{line}' is not a setting; write a keyword and a value")
    return match[1].lower(), match[2]


def _parse_criteria(words: Sequence[str], where: str) -> Sequence[str]:
    """Return the criteria of a Match; those that match no host where one is not supported."""
    criteria: list[str] = []
    remaining_words = iter(words)
    for word in remaining_words:
        kind = word.lower().removeprefix("!")
        if kind not in CRITERIA:  # paramiko would take it as fulfilled
            log.warning(
                "%s: what follows is skipped: conditions on '%s' are not supported", where, kind
            )
            return MATCHES_NO_HOST
        if kind == "all":
            continue
        criteria.append(word.lower())
        if kind in CRITERIA_WITHOUT_VALUE:
            continue
        value = next(remaining_words, None)
        if value is None:
            raise ConfigParseError(f"{where}: Match {kind} has no value; write what it must be")
        criteria.append(value)
    return criteria


def _match_line(criteria: Sequence[str]) -> str:
    if criteria:
        return f"Match {shlex.join(criteria)}"
    return "Match all"


def _included_files(value: str, folder: Path) -> Iterator[Path]:
    """Yield the files of an Include; relative patterns start at the folder of the first file."""
    for word in split_words(value):
        pattern = str(folder / Path(word).expanduser())
        for name in sorted(glob.glob(pattern)):  # noqa: PTH207  (a pattern may be absolute)
            yield Path(name)
