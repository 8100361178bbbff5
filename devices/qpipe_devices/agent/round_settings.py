"""What is set on a device for a round: governor and affinity; set, read back, and put back as it was, come what may."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping  # noqa: UP035  (Python 3.8 on the board)

from . import environment
from .failures import AgentError

GOVERNOR = "scaling_governor"
POLL_S = 5.0


class Settings:
    """Remembers in a file how the device was, before anything is changed: who comes next puts back what was left."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "restore.json"
        self.changing = threading.Lock()
        self.is_over = False
        self.restore()

    def end(self) -> None:
        """Put everything back, from any thread; nothing is changed any more."""
        is_mine = self.changing.acquire(timeout=2)  # somebody may hang in the middle of a change
        self.is_over = True
        self.restore()
        if is_mine:
            self.changing.release()

    def restore(self) -> None:
        """Put back what the file remembers, as far as this user may; a boot since then has set it anew."""
        try:
            remembered = json.loads(self.path.read_text(encoding="utf-8"))
            before = dict(remembered["before"]) if remembered["boot_id"] == _boot_id() else {}
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
        ):  # nothing was changed, or it was cut before anything was
            before = {}
        for path, value in before.items():
            if Path(path).name == GOVERNOR:
                with contextlib.suppress(OSError):
                    Path(path).write_text(value, encoding="utf-8")
        with contextlib.suppress(OSError):
            self.path.unlink()

    @contextlib.contextmanager
    def applied(self, asked: Mapping[str, Any], root: Path) -> Iterator[Dict[str, Any]]:  # noqa: UP006
        """Set what is `asked`; gives what is set by the device's own word, and under `unlocked` what is not and why."""
        told: dict[str, Any] = {}
        cores = _cores()
        try:
            if asked.get("governor"):
                with self.changing:
                    if not self.is_over:
                        note(told, self._govern(asked["governor"], root))
            if asked.get("affinity"):
                note(told, _bind(asked["affinity"]))
            yield told
        finally:
            if cores and "affinity" in told:
                os.sched_setaffinity(0, cores)
            if asked.get("governor"):
                with self.changing:
                    self.restore()

    def _govern(self, governor: str, root: Path) -> Dict[str, Any]:  # noqa: UP006
        files = {policy.name: policy / GOVERNOR for policy in environment.policies(root)}
        before = {name: environment.text(path) for name, path in files.items()}
        if not files:
            return {"unlocked": f"governor {governor}: this device has none to set"}
        if set(before.values()) != {governor}:
            self._remember({str(files[name]): value for name, value in before.items() if value})
        refused = ""
        for name in sorted(name for name in files if before[name] != governor):
            try:
                files[name].write_text(governor, encoding="utf-8")
            except OSError as error:
                offered = (
                    environment.text(files[name].parent / "scaling_available_governors") or "none"
                )
                known = governor in offered.split()
                refused = f"{name}: {error.strerror if known else f'there is {offered}'}"
        now = sorted({environment.text(path) or "unknown" for path in files.values()})
        if now != [governor]:
            return {
                "governor": ", ".join(now),
                "unlocked": f"governor {governor} was not set ({refused or 'ignored'})",
            }
        return {"governor": governor}

    def _remember(self, before: Mapping[str, str]) -> None:
        """On disk before anything changes."""
        with self.path.open("w", encoding="utf-8") as file:
            json.dump({"boot_id": _boot_id(), "before": before}, file)
            file.flush()
            os.fsync(file.fileno())


def _bind(wanted: Any) -> Dict[str, Any]:  # noqa: UP006
    """Bind this thread, and so every process that it starts from now on."""
    cores = _cores()
    if not cores:
        return {"unlocked": "affinity: this system binds no process to cores"}
    known = _known_cores(cores)
    missing = sorted(set(wanted) - known)
    if missing:
        shown = ", ".join(str(core) for core in sorted(known))
        raise AgentError(
            f"affinity: there is no core {missing[0]} to run on; there is {shown}", "configuration"
        )
    os.sched_setaffinity(0, set(wanted))
    return {"affinity": sorted(_cores())}


def _cores() -> set[int]:
    """The cores this thread may run on; none where the system does not say."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def _known_cores(own: set[int]) -> set[int]:
    """Those, and the ones that may be had by asking: it may have been started bound to some."""
    try:
        os.sched_setaffinity(
            0, range(os.sysconf("SC_NPROCESSORS_CONF"))
        )  # those switched off have numbers too
        return own | _cores()
    except OSError:
        return own
    finally:
        os.sched_setaffinity(0, own)


def _boot_id() -> str | None:
    return environment.text(Path("/") / environment.BOOT_ID)


def note(told: Dict[str, Any], more: Mapping[str, Any]) -> None:  # noqa: UP006
    """Add what else is told; all that could not be set is kept."""
    unlocked = [words["unlocked"] for words in (told, more) if "unlocked" in words]
    told.update(more, **({"unlocked": "; ".join(unlocked)} if unlocked else {}))


def wait_until_cool(root: Path, limit_c: float, most_s: float) -> Dict[str, Any]:  # noqa: UP006
    """Poll until the CPU is no hotter than `limit_c`, `most_s` seconds at most; how long that took, and how warm it is
    then. Nothing where the device tells no temperature."""
    start = time.monotonic()
    while True:
        heat = environment.hottest(environment.temperatures(root))
        waited = time.monotonic() - start
        if heat is None:
            return {"unlocked": f"cool_to_c {limit_c:g}: this device tells no temperature"}
        if heat <= limit_c or waited >= most_s:
            mark = (
                {"too_warm": f"{heat:g} C, warmer than {limit_c:g} C after {waited:.0f} s"}
                if heat > limit_c
                else {}
            )
            return {"start_c": heat, "waited_s": round(waited, 1), **mark}
        time.sleep(min(POLL_S, most_s / 10, most_s - waited))
