"""What is set on a device for a round: governor and affinity; read back, and always restored."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .environment import hottest, policies, temperatures
from .failures import AgentError
from .system_files import BOOT_ID, read_text

if TYPE_CHECKING:
    from qpipe.types import RoundEnvironment, RoundOptions

GOVERNOR = "scaling_governor"
POLL_S = 5.0


class RoundSettings:
    """What rounds have set on the device, and how to restore it.

    A file in `folder` records the earlier state before anything is changed; creating RoundSettings
    restores what an earlier agent left changed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "restore.json"
        self.changing = threading.Lock()
        self.is_ended = False
        self.restore()

    def end(self) -> None:
        """Restore everything, from any thread; nothing is changed after this."""
        has_lock = self.changing.acquire(timeout=2)  # another thread may hang during a change
        self.is_ended = True
        self.restore()
        if has_lock:
            self.changing.release()

    def restore(self) -> None:
        """Restore what the file records, as far as this user may.

        A record from before a boot is dropped: the boot has set the governors anew.
        """
        for path, value in self._recorded().items():
            if Path(path).name == GOVERNOR:
                with contextlib.suppress(OSError):
                    Path(path).write_text(value, encoding="utf-8")
        with contextlib.suppress(OSError):
            self.path.unlink()

    @contextlib.contextmanager
    def applied(self, options: RoundOptions, root: Path) -> Iterator[RoundEnvironment]:
        """Set governor and affinity of a round; restore both at the end.

        Give what is set, as the device reports it; `unlocked` has what could not be set, and why.
        """
        result: RoundEnvironment = {}
        cores = _allowed_cores()
        governor = options.get("governor")
        affinity = options.get("affinity")
        try:
            if governor:
                with self.changing:
                    if not self.is_ended:
                        add_settings(result, self._set_governor(governor, root))
            if affinity:
                add_settings(result, _set_affinity(affinity))
            yield result
        finally:
            if cores and "affinity" in result:
                os.sched_setaffinity(0, cores)
            if governor:
                with self.changing:
                    self.restore()

    def _set_governor(self, governor: str, root: Path) -> RoundEnvironment:
        files = {policy.name: policy / GOVERNOR for policy in policies(root)}
        if not files:
            return {"unlocked": f"governor {governor}: this device has no governor to set"}
        before = {name: read_text(path) for name, path in files.items()}
        if set(before.values()) != {governor}:
            self._record({str(files[name]): value for name, value in before.items() if value})
        refusal = ""
        for name in sorted(files):
            if before[name] != governor:
                refusal = _write_governor(files[name], governor) or refusal
        now = sorted({read_text(path) or "unknown" for path in files.values()})
        if now == [governor]:
            return {"governor": governor}
        return {
            "governor": ", ".join(now),
            "unlocked": f"governor {governor} was not set ({refusal or 'ignored'})",
        }

    def _recorded(self) -> Mapping[str, str]:
        """Return the earlier contents by path; {} where nothing is to be restored."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            if record["boot_id"] == _boot_id():
                return dict(record["before"])
        except (OSError, ValueError, TypeError, KeyError):
            pass  # nothing was changed, or writing the record was cut before anything was
        return {}

    def _record(self, before: Mapping[str, str]) -> None:
        """Write the earlier contents by path; they are on disk before anything changes."""
        with self.path.open("w", encoding="utf-8") as file:
            json.dump({"boot_id": _boot_id(), "before": before}, file)
            file.flush()
            os.fsync(file.fileno())


def add_settings(result: RoundEnvironment, settings: RoundEnvironment) -> None:
    """Add what was set to a result; all reasons under `unlocked` are kept."""
    reasons = [entry["unlocked"] for entry in (result, settings) if "unlocked" in entry]
    result.update(settings)
    if reasons:
        result["unlocked"] = "; ".join(reasons)


def wait_until_cool(root: Path, *, limit_c: float, most_s: float) -> RoundEnvironment:
    """Poll until the CPU is no hotter than `limit_c`, for `most_s` seconds at most.

    Return how long that took and the temperature then; `unlocked` where the device reports none.
    """
    start = time.monotonic()
    while True:
        temperature = hottest(temperatures(root))
        waited_s = time.monotonic() - start
        if temperature is None:
            return {"unlocked": f"cool_to_c {limit_c:g}: this device reports no temperature"}
        if temperature <= limit_c or waited_s >= most_s:
            break
        time.sleep(min(POLL_S, most_s / 10, most_s - waited_s))
    result: RoundEnvironment = {"start_c": temperature, "waited_s": round(waited_s, 1)}
    if temperature > limit_c:
        limit = f"{limit_c:g} C after {waited_s:.0f} s"
        result["too_warm"] = f"{temperature:g} C, warmer than {limit}"
    return result


def _write_governor(path: Path, governor: str) -> str:
    """Write the governor of a policy; return why it was refused, or ""."""
    try:
        path.write_text(governor, encoding="utf-8")
    except OSError as error:
        available = read_text(path.parent / "scaling_available_governors") or "none"
        policy = path.parent.name
        if governor in available.split():
            return f"{policy}: {error.strerror}"
        return f"{policy}: available governors are {available}"
    return ""


def _set_affinity(affinity: Sequence[int]) -> RoundEnvironment:
    """Bind this thread, and so every process that it starts from now on, to cores."""
    allowed = _allowed_cores()
    if not allowed:
        return {"unlocked": "affinity: this system cannot bind a process to cores"}
    usable = _usable_cores(allowed)
    missing = sorted(set(affinity) - usable)
    if missing:
        cores = ", ".join(str(core) for core in sorted(usable))
        raise AgentError(
            f"affinity: core {missing[0]} is not usable; usable cores are {cores}",
            failure="configuration",
        )
    os.sched_setaffinity(0, set(affinity))
    return {"affinity": sorted(_allowed_cores())}


def _allowed_cores() -> set[int]:
    """Return the cores this thread may run on; empty where the system does not report them."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set()


def _usable_cores(allowed: set[int]) -> set[int]:
    """Return the allowed cores and those that this process can obtain.

    It may have been started bound to a part of the cores.
    """
    try:
        # not os.cpu_count(): cores that are switched off have numbers too
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
        return allowed | _allowed_cores()
    except OSError:
        return allowed
    finally:
        os.sched_setaffinity(0, allowed)


def _boot_id() -> str | None:
    return read_text(Path("/") / BOOT_ID)
