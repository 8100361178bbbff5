"""The lease of a device: locks that fall with their holder, a rising number, a person's hold."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .failures import ERRNOS_OF_MOUNTS, AgentError, failure_of
from .mounts import mount_of

if TYPE_CHECKING:
    from .messages import Hold

SESSION = re.compile(r"[0-9a-f]{32}\Z")
HOLD_TEXTS = ("holder", "since", "until", "reason")  # the fields of a hold that are text
LOCK_WAIT_S = 3.0  # an agent whose host has just gone needs a moment to end
RECORD_BYTES = 4096  # of what a holder writes of itself: one page, which is read as it was written
LONGEST_REASON = 300  # characters, so that it fits into a record
LONGEST_PURPOSE = 300
QUEUE_S = 12.0  # who waits asks again within this time, or has given up


class Client(NamedTuple):
    """The host's side of a lease.

    A session is one device object of a host: several conversations, one after another.
    """

    holder: str
    session: str
    silence_s: float
    purpose: str = ""  # process, run and recipe, for people to read
    waits: bool = False  # whether it asks again where the device is busy


class Holder(NamedTuple):
    """What an agent writes into its locks; `beat` is by the clock since boot, which nobody sets."""

    holder: str
    session: str
    silence_s: float
    pid: int
    since: str
    beat: float
    guard: int = 0  # the process that ends its runners
    purpose: str = ""

    def silent_s(self) -> float:
        """Return for how many seconds it has been silent; 0 while that is within `silence_s`."""
        silent = time.monotonic() - self.beat
        if silent > self.silence_s:
            return silent
        return 0


class Lease:
    """The right of one agent to the device; `take_lease` returns one."""

    def __init__(self, root: Path, locks: Sequence[int], client: Client, queue: Path) -> None:
        self.path = root / "lease.json"
        self.queue = queue
        self.locks = locks
        self.client = client
        self.shared_hold = _read_shared_hold(locks)
        self.since = _time_text(time.time())
        self.guard = 0
        record = _read_record(self.path)
        self.token = int(record.get("token", 0)) + 1
        self._write_record(record.get("hold"))
        self.beat()

    def beat(self) -> None:
        """Write into the locks that their holder is alive."""
        client = self.client
        holder = Holder(
            client.holder,
            client.session,
            client.silence_s,
            os.getpid(),
            self.since,
            time.monotonic(),
            self.guard,
            client.purpose[:LONGEST_PURPOSE],
        )
        record = {**holder._asdict(), "hold": self.current_hold()}
        content = json.dumps(record).encode().ljust(RECORD_BYTES)
        for lock in self.locks:
            with contextlib.suppress(OSError):  # a full disk
                os.pwrite(lock, content, 0)

    def others_wait(self) -> bool:
        """Return whether another agent waits for the device."""
        return bool(_first_in_queue(self.queue, self.client.session))

    def check(self) -> None:
        """Raise AgentError where another agent has been given the device since."""
        record = _read_record(self.path)
        if record.get("token") == self.token:
            return
        if record:
            reason = f" to {record['holder']} since {record['since']}"
        else:
            reason = ": its record is gone"
        raise AgentError(f"the lease was lost{reason}; run again", failure="died")

    def current_hold(self) -> Hold | None:
        """Return a person's hold, by this folder or by another with the same lock.

        None where there is none, or it is over.
        """
        return _parse_hold(_read_record(self.path)) or _parse_hold({"hold": self.shared_hold})

    def hold(self, seconds: float, reason: str) -> Hold:
        """Hold the device for `seconds`: no run is given it.

        Held again by the same holder, it lasts from now.
        """
        previous = self.current_hold()
        if previous and previous["holder"] != self.client.holder:
            raise _busy(previous)
        ends = time.time() + seconds
        hold: Hold = {
            "holder": self.client.holder,
            "since": previous["since"] if previous else self.since,
            "until": _time_text(ends),
            "ends": ends,
            "reason": reason[:LONGEST_REASON],
        }
        self._write_record(hold)
        self.beat()
        return hold

    def release(self, *, force: bool) -> bool:
        """End a hold, that of another holder only by force; return whether there was one."""
        hold = self.current_hold()
        if hold and hold["holder"] != self.client.holder and not force:
            raise _busy(hold)
        self._write_record(None)
        self.shared_hold = None
        self.beat()
        return hold is not None

    def _write_record(self, hold: Hold | None) -> None:
        record = {
            "token": self.token,
            "holder": self.client.holder,
            "since": self.since,
            "hold": hold,
        }
        content = json.dumps(record).encode() + b"\n"
        temporary = self.path.with_suffix(f".{self.token}")
        try:
            _write_to_disk(temporary, "wb", content)
            temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if not self.path.exists():
                raise
            # a full disk still has the room of the file that is there, and whoever comes to clean
            # the device must get in
            _write_to_disk(self.path, "r+b", content)


def take_lease(
    root: Path, shared_lock: Path | None, client: Client, *, despite_hold: bool = False
) -> Lease:
    """Return the lease of the folder `root` and of the lock that other users' agents take too.

    Raise AgentError where another agent has it, or a person holds the device. An agent of the same
    session, or one that has been silent for longer than it may, is ended first. Who waits is given
    the device before whoever comes later.
    """
    root.mkdir(parents=True, exist_ok=True)
    queue = _queue_of(root, shared_lock)
    locks: list[int] = []
    try:
        if not despite_hold:
            _await_place(shared_lock or root / "lock", queue, client)
        if shared_lock:
            locks.append(_acquire_lock(shared_lock, 0o666, client.session))
        locks.append(_acquire_lock(root / "lock", 0o600, client.session))
        hold = _parse_hold(_read_record(root / "lease.json")) or _read_shared_hold(locks)
        if hold and not despite_hold:
            raise _busy(hold)
        _leave_queue(queue, client.session)
        return Lease(root, locks, client, queue)
    except AgentError:
        _close_all(locks)
        if client.waits:
            _join_queue(queue, 0o666 if shared_lock else 0o600, client.session)
        raise
    except BaseException:
        _close_all(locks)
        raise


def holder_of(root: Path, shared_lock: Path | None) -> str:
    """Return who has the lease or holds the device, in words; "" where nobody does.

    The lease is not taken, and waits for nobody.
    """
    for path in (shared_lock, root / "lock"):
        if path is not None and path.exists():
            lock = _open_lock(path, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                holder = _read_holder(lock)
                return _foreign_owner(lock, holder) or _holder_text(holder)
            finally:
                os.close(lock)
    hold = _parse_hold(_read_record(root / "lease.json"))
    return _hold_text(hold) if hold else ""


def _close_all(locks: Sequence[int]) -> None:
    for lock in locks:
        os.close(lock)


# ---- who is next


def _queue_of(root: Path, shared_lock: Path | None) -> Path:
    """Return the file that names the session which is given the device next."""
    lock = shared_lock or root / "lock"
    return lock.with_name(f"{lock.name}.next")


def _await_place(lock: Path, queue: Path, client: Client) -> None:
    """Raise AgentError where another agent is next, unless this session has the device already."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while _first_in_queue(queue, client.session):
        holder = _holder_at(lock)
        if holder and (holder.silent_s() or holder.session == client.session):
            return
        if time.monotonic() > deadline:
            text = _holder_text(holder) if holder else "others, who wait for it"
            raise AgentError(f"busy: held by {text}", failure="unreachable")
        time.sleep(0.1)


def _holder_at(path: Path) -> Holder | None:
    """Return who has a lock; None where nobody has, or the file does not say."""
    try:
        lock = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read_holder(lock)
    finally:
        os.close(lock)
    return None


def _first_in_queue(queue: Path, session: str) -> str:
    """Return the session that is next, where it is another one and still asks; else ""."""
    try:
        age = time.time() - queue.lstat().st_mtime
        first = queue.read_bytes()[:RECORD_BYTES].decode("ascii", "replace").strip()
    except OSError:
        return ""
    is_other = bool(SESSION.match(first)) and first != session
    return first if is_other and abs(age) < QUEUE_S else ""


def _join_queue(queue: Path, mode: int, session: str) -> None:
    """Become the next where nobody is, or say that this session still waits."""
    if not _first_in_queue(queue, session):
        _write_queue(queue, mode, session)


def _leave_queue(queue: Path, session: str) -> None:
    if queue.exists() and not _first_in_queue(queue, session):
        _write_queue(queue, 0o666, "")


def _write_queue(queue: Path, mode: int, session: str) -> None:
    # without the file everybody comes when the lock is free, as it happens
    with contextlib.suppress(OSError, AgentError):
        file = _open_lock(queue, mode)
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, session.encode(), 0)
        finally:
            os.close(file)


# ---- locks


def _acquire_lock(path: Path, mode: int, session: str) -> int:
    """Return an open file whose lock falls when all processes that have it open are gone."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        lock = _open_lock(path, mode)
        holder: Holder | None = None
        owner = ""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file_at(lock, path):
                return lock
            # else the file was removed meanwhile
        except OSError:
            holder = _read_holder(lock)
            owner = _foreign_owner(lock, holder)
        os.close(lock)
        if holder and (holder.silent_s() or holder.session == session):
            _end_holder(holder, path)
        if time.monotonic() > deadline:
            text = owner or _holder_text(holder)
            raise AgentError(f"busy: held by {text}", failure="unreachable")
        time.sleep(0.1)


def _holder_text(holder: Holder | None) -> str:
    if holder is None:
        return "somebody"
    text = f"{holder.holder} since {holder.since}"
    if holder.purpose:
        text += f" ({holder.purpose})"
    silent_s = holder.silent_s()
    if silent_s:
        return f"{text}, silent for {silent_s:.0f} s"
    return text


def _foreign_owner(lock: int, holder: Holder | None) -> str:
    """Return who has a lock by the kernel's word, where it is not whom the file names; else ""."""
    status = os.fstat(lock)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids = [words[4] for words in _system_locks() if words[1] == "FLOCK" and words[5] == file]
    for pid in pids:
        if holder and int(pid) in (holder.pid, holder.guard):
            return ""
        uid = _user_of(int(pid))
        if uid is not None:  # else it is in another container
            return f"process {pid} of user {_user_name(uid)}, which is no agent"
    return ""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _system_locks() -> list[list[str]]:
    """Return the words of each line of /proc/locks; none where the kernel shows none."""
    try:
        text = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return []
    lines = [line.split() for line in text.splitlines()]
    return [words for words in lines if len(words) > 5 and words[1] != "->"]


def _open_lock(path: Path, mode: int) -> int:
    """Open the file of a lock, made where it is missing; never through a symbolic link."""
    try:
        lock = _open_or_create(path, mode)
    except OSError as error:
        place = f"lock {path}"
        if error.errno in ERRNOS_OF_MOUNTS:
            place += f", mounted at {mount_of(str(path.parent))},"
        raise AgentError(
            f"{place} cannot be opened: {error.strerror}; {_lock_fix(error)}",
            failure=failure_of(error),
        ) from error
    status = os.fstat(lock)
    # a second name may be that of a file worth keeping
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(lock)
        raise AgentError(
            f"lock {path} is not a regular file with a single name; remove it there",
            failure="configuration",
        )
    return lock


def _lock_fix(error: OSError) -> str:
    if failure_of(error) == "no room":
        return "free some space there"
    return "remove it there, or set lock to a file that all users of the board can write"


def _open_or_create(path: Path, mode: int) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            # without O_CREAT: kernels refuse it for a file of another user in /tmp
            return os.open(str(path), flags)
        except FileNotFoundError:
            pass
        try:
            lock = os.open(str(path), flags | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            continue  # another agent has just made it
        os.fchmod(lock, mode)  # whatever the umask
        return lock


def _is_file_at(lock: int, path: Path) -> bool:
    """Return whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(str(path)))
    except FileNotFoundError:
        return False


def _read_holder(lock: int) -> Holder | None:
    """Return what the file of a lock holds; None where no agent wrote it."""
    record = _parse_record(os.pread(lock, RECORD_BYTES, 0))
    record.pop("hold", None)
    try:
        holder = Holder(**record)
        # adding them raises TypeError where one is not a number
        numbers = holder.beat + holder.silence_s + holder.pid + holder.guard
        if SESSION.match(holder.session) and numbers > 0 and isinstance(holder.purpose, str):
            return holder
    except (TypeError, ValueError):
        pass
    return None


def _end_holder(holder: Holder, lock: Path) -> None:
    """Kill an agent of this user that has the lock; whatever else the record names is left alone.

    Its guard, woken where it is stopped, then ends the runners, and the lock falls.
    """
    _signal_process(holder.pid, signal.SIGKILL, lock=lock, mark=holder.session)
    _signal_process(holder.guard, signal.SIGCONT, lock=lock, mark=f"{__package__}.guard")


def _signal_process(pid: int, number: signal.Signals, *, lock: Path, mark: str) -> None:
    """Send a signal to a process of this user that has a lock's file open, and this mark.

    Anybody may have written the record that names the process: it is the kernel that tells.
    """
    if pid <= 0 or not _is_own(pid) or mark not in _command_line(pid):
        return
    if Path("/proc/self/fd").exists() and not _has_open(pid, lock):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _is_own(pid: int) -> bool:
    """Return whether a process runs and is this user's."""
    uid = _user_of(pid)
    if uid is None:  # it has ended, or this is not Linux
        return _told_by_ps(pid, "uid=").strip() == str(os.geteuid())
    return uid == os.geteuid()


def _user_of(pid: int) -> int | None:
    """Return the effective user of a process; None where the kernel does not tell.

    The owner of its folder in /proc may be root whoever it is.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        return int(text.partition("\nUid:")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _has_open(pid: int, path: Path) -> bool:
    """Return whether a process of this user has a file open, by /proc."""
    try:
        status = os.lstat(str(path))
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.path.samestat(descriptor.stat(), status):
                return True
    return False


def _command_line(pid: int) -> str:
    """Return the command line of a process; "" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:  # it has ended, or this is not Linux
        return _told_by_ps(pid, "command=")


def _told_by_ps(pid: int, column: str) -> str:
    try:
        finished = subprocess.run(
            ["ps", "-o", column, "-p", str(pid)], capture_output=True, check=False
        )
    except OSError:
        return ""
    return finished.stdout.decode("utf-8", "replace")


# ---- records and holds


def _read_shared_hold(locks: Sequence[int]) -> Hold | None:
    """Return the hold in the lock that other users' agents take too, which is the first."""
    if len(locks) < 2:
        return None
    return _parse_hold(_parse_record(os.pread(locks[0], RECORD_BYTES, 0)))


def _parse_hold(record: Mapping[str, Any]) -> Hold | None:
    """Return the hold in a record, which anybody may have written.

    None where there is none, or it is over.
    """
    hold = record.get("hold")
    if not isinstance(hold, dict):
        return None
    if not all(isinstance(hold.get(field), str) for field in HOLD_TEXTS):
        return None
    ends = hold.get("ends")
    if not isinstance(ends, (int, float)) or time.time() >= ends:
        return None
    return cast("Hold", hold)


def _busy(hold: Hold) -> AgentError:
    return AgentError(f"busy: held by {_hold_text(hold)}", failure="unreachable")


def _hold_text(hold: Hold) -> str:
    reason = f" ({hold['reason']})" if hold["reason"] else ""
    return f"{hold['holder']} since {hold['since']} until {hold['until']}{reason}"


def _write_to_disk(path: Path, mode: str, content: bytes) -> None:
    with path.open(mode) as file:
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return _parse_record(path.read_bytes())
    except FileNotFoundError:
        return {}


def _parse_record(content: bytes) -> dict[str, Any]:
    """Return what was written as JSON; {} where it was not, or incompletely."""
    try:
        record = json.loads(content)
    except ValueError:
        return {}
    if isinstance(record, dict):
        return record
    return {}


def _time_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
