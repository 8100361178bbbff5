"""Who has the device: locks that fall with their holder, a number that only rises, and a human's hold."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence  # noqa: UP035  (Python 3.8 on the board)

from .failures import AgentError

Fields = Dict[str, Any]  # noqa: UP006
SESSION = re.compile(r"[0-9a-f]{32}\Z")
SAID = ("holder", "since", "until", "reason")  # of a hold, in words
LOCK_WAIT_S = 3.0  # an agent whose host has just gone needs a moment to fall
LONGEST = 4096  # bytes of what a holder writes of itself: one page, which is read as it was written
MOST = 300  # characters of a reason, which has to fit into it


class Asker(NamedTuple):
    """Who wants the device. A session is a host's device object: conversations one after another."""

    holder: str
    session: str
    silence_s: float


class Holder(NamedTuple):
    """What an agent wrote into the locks that it has; `beat` is by the clock since boot, which nobody sets."""

    holder: str
    session: str
    silence_s: float
    pid: int
    since: str
    beat: float
    guard: int = 0  # the process that ends its runners

    def silent_s(self) -> float:
        """For how long it has not moved; 0 where it is no longer than it may be."""
        silent = time.monotonic() - self.beat
        return silent if silent > self.silence_s else 0


class Lease:
    """The device, for one agent. `take` gives it."""

    def __init__(self, root: Path, locks: Sequence[int], asker: Asker) -> None:
        self.path = root / "lease.json"
        self.locks = locks
        self.asker = asker
        self.shared = _shared_hold(locks)
        self.since = _written(time.time())
        self.guard = 0
        before = _read(self.path)
        self.token = int(before.get("token", 0)) + 1
        self._write(before.get("hold"))
        self.beat()

    def beat(self) -> None:
        """Say in the locks that their holder moves."""
        said = Holder(*self.asker, os.getpid(), self.since, time.monotonic(), self.guard)
        content = json.dumps({**said._asdict(), "hold": self.held()}).encode().ljust(LONGEST)
        for lock in self.locks:
            with contextlib.suppress(OSError):  # a full disk
                os.pwrite(lock, content, 0)

    def check(self) -> None:
        """AgentError where somebody else has been given the device since."""
        now = _read(self.path)
        if now.get("token") != self.token:
            other = f" to {now['holder']} since {now['since']}" if now else ": its record is gone"
            raise AgentError(f"the lease was lost{other}; run again", "died")

    def held(self) -> Fields | None:
        """A human's hold, by this folder or another of the same lock: holder, since, until, reason; None where there is
        none, or it is over."""
        return _hold(_read(self.path)) or _hold({"hold": self.shared})

    def hold(self, seconds: float, reason: str) -> Fields:
        """Keep everybody's runs off the device for so long; again by the same holder, and it lasts from now."""
        before = self.held()
        now = time.time()
        if before and before["holder"] != self.asker.holder:
            raise _busy(before)
        hold = {"holder": self.asker.holder, "since": before["since"] if before else self.since}
        hold = {
            **hold,
            "until": _written(now + seconds),
            "ends": now + seconds,
            "reason": reason[:MOST],
        }
        self._write(hold)
        self.beat()
        return hold

    def release(self, force: bool) -> bool:
        """End a hold, somebody else's only by force; whether there was one."""
        hold = self.held()
        if hold and hold["holder"] != self.asker.holder and not force:
            raise _busy(hold)
        self._write(None)
        self.shared = None
        self.beat()
        return hold is not None

    def _write(self, hold: Fields | None) -> None:
        record = {
            "token": self.token,
            "holder": self.asker.holder,
            "since": self.since,
            "hold": hold,
        }
        content = json.dumps(record).encode() + b"\n"
        aside = self.path.with_suffix(f".{self.token}")
        try:
            _put(aside, "wb", content)
            aside.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            if not self.path.exists():
                raise
            _put(
                self.path, "r+b", content
            )  # a full disk has room for what is there: who comes to clean must get in


def take(root: Path, shared: Path | None, asker: Asker, despite_hold: bool = False) -> Lease:
    """The lease of the folder `root` and of the lock that other users' agents take too.

    AgentError where another has it, or a human holds the device. An agent of the same session, or one that has not
    moved for longer than it may be silent, is ended first.
    """
    root.mkdir(parents=True, exist_ok=True)
    locks: List[int] = []  # noqa: UP006
    try:
        if shared:
            locks.append(_locked(shared, 0o666, asker.session))
        locks.append(_locked(root / "lock", 0o644, asker.session))
        hold = _hold(_read(root / "lease.json")) or _shared_hold(locks)
        if hold and not despite_hold:
            raise _busy(hold)
        return Lease(root, locks, asker)
    except BaseException:
        for lock in locks:
            os.close(lock)
        raise


def _locked(path: Path, mode: int, session: str) -> int:
    """An open file whose lock falls when all who have it open are gone."""
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        lock = _opened(path, mode)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, path):
                return lock
            holder = None  # somebody removed the file meanwhile
        except OSError:
            holder = _holder(lock)
        os.close(lock)
        silent_s = holder.silent_s() if holder else 0
        if holder and (silent_s or holder.session == session):
            _end(holder)
        if time.monotonic() > end:
            who = f"{holder.holder} since {holder.since}" if holder else "somebody"
            silent = f", silent for {silent_s:.0f} s" if silent_s else ""
            raise AgentError(f"busy: held by {who}{silent}", "unreachable")
        time.sleep(0.1)


def _opened(path: Path, mode: int) -> int:
    """The file, made where it is missing; never through a link that somebody else laid there."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            lock = os.open(
                str(path), flags
            )  # without O_CREAT: of another user's file in /tmp, kernels refuse that
        except FileNotFoundError:
            lock = os.open(str(path), flags | os.O_CREAT | os.O_EXCL, mode)
            os.fchmod(lock, mode)  # whatever the umask
    except FileExistsError:
        return _opened(path, mode)
    except OSError as error:
        fix = "remove it there, or set lock to a file that all users of the board can write"
        raise AgentError(
            f"lock {path} cannot be opened: {error.strerror}; {fix}", "configuration"
        ) from error
    found = os.fstat(lock)
    if (
        not stat.S_ISREG(found.st_mode) or found.st_nlink > 1
    ):  # a second name may be that of something precious
        os.close(lock)
        raise AgentError(f"lock {path} is no file of its own; remove it there", "configuration")
    return lock


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(str(path)))
    except FileNotFoundError:
        return False


def _holder(lock: int) -> Holder | None:
    """What the lock's file says; None where it is not what an agent writes."""
    try:
        found = _parsed(os.pread(lock, LONGEST, 0))
        said = Holder(**{key: value for key, value in found.items() if key != "hold"})
        return (
            said
            if SESSION.match(said.session)
            and said.beat + said.silence_s + said.pid + said.guard > 0
            else None
        )
    except (TypeError, ValueError):
        return None


def _end(holder: Holder) -> None:
    """Kill an agent, if that process still is one; its guard, woken where it is stopped, ends what it ran, then the
    lock falls."""
    for pid, mark, how in (
        (holder.pid, holder.session, signal.SIGKILL),
        (holder.guard, f"{__package__}.guard", signal.SIGCONT),
    ):
        if pid > 0 and mark in _command(pid):
            with contextlib.suppress(
                ProcessLookupError, PermissionError
            ):  # another user's: theirs to end
                os.kill(pid, how)


def _shared_hold(locks: Sequence[int]) -> Fields | None:
    """The hold that stands in the lock which other users' agents take too: the first of them."""
    return _hold(_parsed(os.pread(locks[0], LONGEST, 0))) if len(locks) > 1 else None


def _hold(record: Mapping[str, Any]) -> Fields | None:
    """The hold in a record, which anybody may have written; None where it is over, or none at all."""
    hold = record.get("hold")
    if not isinstance(hold, dict) or not all(isinstance(hold.get(key), str) for key in SAID):
        return None
    return (
        hold if isinstance(hold.get("ends"), (int, float)) and time.time() < hold["ends"] else None
    )


def _busy(hold: Mapping[str, Any]) -> AgentError:
    reason = f" ({hold['reason']})" if hold["reason"] else ""
    said = f"busy: held by {hold['holder']} since {hold['since']} until {hold['until']}{reason}"
    return AgentError(said, "unreachable")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:  # gone, or no Linux
        pass
    with contextlib.suppress(OSError):
        shown = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        )
        return shown.stdout.decode("utf-8", "replace")
    return ""


def _put(path: Path, mode: str, content: bytes) -> None:
    with path.open(mode) as file:
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> Fields:
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return {}


def _parsed(content: bytes) -> Fields:
    """What was written as JSON; nothing where it was not, or by half."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _written(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
