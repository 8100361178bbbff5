"""The settings of a host in ssh_config, as OpenSSH reads it: of each keyword the first one counts.

Commands of `Match exec` are run, as OpenSSH runs them; what is not supported is an error, unless
the settings that it decides about are another host's anyway.
"""

from __future__ import annotations

import getpass
import glob
import hashlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

from qpipe_devices.ssh.config_words import expand_tokens, expand_variables, matches, split_words

USER_CONFIG = "~/.ssh/config"
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
MOST_INCLUDES = 16  # of files that include each other; OpenSSH's limit
MATCH_EXEC_S = 10.0  # for a command that decides about settings
LINE = re.compile(r"(\w+)(?:[ \t]*=[ \t]*|[ \t]+)(.+)")
REPEATED_KEYWORD = "identityfile"  # each one adds a key
COMMAND_KEYWORD = "proxycommand"  # its value is the rest of the line
CRITERIA_WITHOUT_VALUE = ("all", "canonical", "final")
SSH_PORT = "22"

# keyword in lower case -> the words of its value
Settings = dict[str, list[str]]


@dataclass
class _Reading:
    """One pass over the files for one host."""

    original_host: str  # the alias
    host: str  # the alias, or what the pass before made of it
    settings: Settings
    is_final: bool = False
    is_canonical: bool = False
    has_final: bool = field(default=False)  # whether a Match asks for the final pass

    def read_files(self) -> None:
        for path in (Path(USER_CONFIG).expanduser(), SYSTEM_CONFIG):
            self._read_file(path, path.parent, is_active=True, depth=0)

    def _read_file(self, path: Path, include_folder: Path, *, is_active: bool, depth: int) -> None:
        if depth > MOST_INCLUDES:
            raise ConfigParseError(
                f"{path}: files include each other more than {MOST_INCLUDES} deep; "
                "remove one Include"
            )
        applies = is_active
        for where, keyword, value in _lines(path):
            if keyword == "host":
                applies = is_active and matches(_words(value, where), self.host)
            elif keyword == "match":
                applies = is_active and self._match(_words(value, where), where)
            elif keyword == "include" and applies:
                for file in _included_files(_words(value, where), include_folder):
                    self._read_file(file, include_folder, is_active=True, depth=depth + 1)
            elif applies:
                self._set(keyword, value, where)

    def _set(self, keyword: str, value: str, where: str) -> None:
        words = [value] if keyword == COMMAND_KEYWORD else _words(value, where)
        if keyword == REPEATED_KEYWORD:
            self.settings.setdefault(keyword, []).extend(words)
        else:
            self.settings.setdefault(keyword, words)

    def _match(self, words: list[str], where: str) -> bool:
        """Return whether all criteria of a Match are met, in their order as OpenSSH checks them."""
        is_match = True
        remaining = iter(words)
        for word in remaining:
            criterion, separator, value = word.partition("=")
            kind = criterion.lower().removeprefix("!")
            if kind not in CRITERIA_WITHOUT_VALUE and not separator:
                value = next(remaining, "")
                if not value:
                    raise ConfigParseError(
                        f"{where}: Match {kind} has no value; write what it must be"
                    )
            self.has_final = self.has_final or kind == "final"
            if is_match:  # what comes later decides nothing: no command is run for it
                is_match = self._is_met(kind, value, where) != criterion.startswith("!")
        return is_match

    def _is_met(self, kind: str, value: str, where: str) -> bool:
        if kind == "exec":
            return self._succeeds(value, where)
        states = {
            "all": True,
            "canonical": self.is_canonical,
            "final": self.is_final,
        }
        if kind in states:
            return states[kind]
        texts = {
            "host": self.resolved_host(),
            "originalhost": self.original_host,
            "user": first_word(self.settings, "user", getpass.getuser()),
            "localuser": getpass.getuser(),
        }
        if kind not in texts:
            raise ConfigParseError(
                f"{where}: Match {kind} is not supported; "
                f"there is {', '.join([*states, *texts, 'exec'])}"
            )
        return matches(value.split(","), texts[kind])

    def _succeeds(self, command: str, where: str) -> bool:
        """Return whether a command of the user's ssh_config ends with status 0."""
        names = host_tokens(self.settings, self.original_host, self.resolved_host())
        text = expand_tokens(command, names)
        try:
            finished = subprocess.run(
                ["/bin/sh", "-c", text],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=MATCH_EXEC_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigParseError(
                f"{where}: the command of Match exec takes longer than {MATCH_EXEC_S:g} s; "
                "correct it, or remove that Match"
            ) from None
        return finished.returncode == 0

    def resolved_host(self) -> str:
        """Return the HostName of the settings so far, or the host's own name."""
        text = first_word(self.settings, "hostname", "%h")
        return expand_tokens(text, {"h": self.host})


def read_settings(host: str, options: Mapping[str, object]) -> Settings:
    """Return the settings of a host by its alias, with keywords in lower case.

    Settings of `options` come first, as those of `ssh -o` do (None sets nothing), then those of
    ~/.ssh/config, then the system's. HostName is always set. Raise paramiko's ConfigParseError for
    invalid settings.
    """
    settings: Settings = {}
    for keyword, value in options.items():
        if value is not None:
            settings[keyword.lower()] = [str(value)]
    reading = _Reading(host, host, settings)
    reading.read_files()
    resolved_host = reading.resolved_host().lower()
    canonical_host = _canonical_host(resolved_host, settings)
    if reading.has_final or canonical_host:
        resolved_host = canonical_host or resolved_host
        settings["hostname"] = [resolved_host.replace("%", "%%")]
        _Reading(
            host, resolved_host, settings, is_final=True, is_canonical=bool(canonical_host)
        ).read_files()
    settings["hostname"] = [resolved_host]
    return settings


def first_word(settings: Settings, keyword: str, default: str) -> str:
    """Return the first word of a setting."""
    words = settings.get(keyword) or [default]
    return words[0]


def host_tokens(settings: Settings, original_host: str, host: str) -> dict[str, str]:
    """Return what the tokens of ssh_config(5) stand for."""
    local_host = socket.gethostname()
    port = first_word(settings, "port", SSH_PORT)
    user = first_word(settings, "user", getpass.getuser())
    jump = first_word(settings, "proxyjump", "")
    jump = "" if jump.lower() == "none" else jump
    digest = hashlib.sha1(  # noqa: S324  (what ssh_config(5) defines)
        f"{local_host}{host}{port}{user}{jump}".encode()
    )
    return {
        "C": digest.hexdigest(),
        "L": local_host.partition(".")[0],
        "d": str(Path.home()),
        "h": host,
        "i": str(os.getuid()),
        "j": jump,
        "k": first_word(settings, "hostkeyalias", original_host),
        "l": local_host,
        "n": original_host,
        "p": port,
        "r": user,
        "u": getpass.getuser(),
    }


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each setting of a file: where it is, its keyword in lower case, and its value."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a missing file sets nothing, as in OpenSSH
        return
    for number, raw_line in enumerate(text.splitlines(), 1):
        line = raw_line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}:{number}"
        match = LINE.fullmatch(line)
        if match is None:
            raise ConfigParseError(
                f"{where}: '{line}' is not a setting; write a keyword and a value"
            )
        yield where, match[1].lower(), match[2]


def _words(value: str, where: str) -> list[str]:
    """Return the words of a value; raise ConfigParseError where there is none."""
    try:
        words = split_words(value)
    except ConfigParseError as error:
        raise ConfigParseError(f"{where}: {error}; close it") from error
    if not words:
        raise ConfigParseError(f"{where}: a keyword has no value; write one")
    return words


def _included_files(words: list[str], folder: Path) -> Iterator[Path]:
    """Yield the files of an Include; relative patterns start at the folder of the first file."""
    for word in words:
        pattern = str(folder / Path(expand_variables(word)).expanduser())
        for name in sorted(glob.glob(pattern)):  # noqa: PTH207  (a pattern may be absolute)
            yield Path(name)


def _canonical_host(host: str, settings: Settings) -> str:
    """Return the name of a host in the first of CanonicalDomains where it exists; "" for none."""
    if first_word(settings, "canonicalizehostname", "no").lower() not in ("yes", "always"):
        return ""
    most_dots = first_word(settings, "canonicalizemaxdots", "1")
    if most_dots.isdigit() and host.count(".") <= int(most_dots):
        for domain in settings.get("canonicaldomains", []):
            candidate = f"{host}.{domain}".lower()
            if _exists(candidate):
                return candidate
        if first_word(settings, "canonicalizefallbacklocal", "yes").lower() == "no":
            raise CouldNotCanonicalize(host)
    return host


def _exists(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False
