"""What runs in the process of a Dask worker: it says what it is, and carries out steps."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.digests import digest_file
from qpipe.engine import cache_keys, engine_stages
from qpipe.engine.cluster_messages import decode
from qpipe.engine.code_digest import CodeDigests
from qpipe.engine.host_step import ResultFolder, StepInputs
from qpipe.engine.worker import StepRequest, failure_of_os_error, run_in_worker
from qpipe.errors import PluginError, QpipeError
from qpipe.recipe.stage_call import Call
from qpipe.stages import registry
from qpipe.storage.cache import MANIFEST, Cache
from qpipe.storage.remote_cache import RemoteCache
from qpipe.storage.sharing_cache import Sharing, SharingCache
from qpipe.types import Platform, Target
from qpipe.user_cache import user_cache_file

if TYPE_CHECKING:
    from distributed import Worker

REPORT_S = 1.0  # pauses between two reports of a step that says nothing
PATIENCE_S = 10.0  # for a result of another machine to be seen in a folder that both see
LOOK_S = 0.2
MIB = 1 << 20
LONGEST_LOG = 1 << 20  # bytes of a log that a report holds


async def describe(text: str) -> str:
    """Return what this worker is, as the run that asks wants to compare it."""
    message = json.loads(text)
    answer = await asyncio.to_thread(_describe, message)
    return json.dumps(answer)


async def accept(text: str, dask_worker: Worker) -> str:
    """Offer what this worker has to the runs of an environment, and return what that is."""
    offered = dict(dask_worker.state.total_resources)
    memory = dask_worker.memory_manager.memory_limit
    offered.setdefault("threads", dask_worker.state.nthreads)
    if memory:
        offered.setdefault("memory_mb", memory // MIB)
    offered.update(json.loads(text))
    await dask_worker.set_resources(**offered)
    return json.dumps(offered)


def _describe(message: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"plugin": {}, "environment": {}, "cache": ""}
    for name in message["plugins"]:
        answer["plugin"][name] = cache_keys.digest(Path(name))
    if answer["plugin"] != message["plugin_digests"]:
        return answer  # it is not loaded
    try:
        plugins = registry.load([Path(name) for name in message["plugins"]])
        answer["environment"] = _environment(plugins, message)
        answer["cache"] = _cache_problem(open_store(message["store"], message["seen"]))
    except QpipeError as error:
        answer["cache"] = str(error)
    return answer


def _cache_problem(cache: Cache) -> str:
    """Return why results cannot be shared here; empty where they can."""
    return cache.files.problem() if isinstance(cache, RemoteCache) else ""


def _environment(plugins: registry.Registry, message: Mapping[str, Any]) -> dict[str, Any]:
    digests = CodeDigests()
    environment: dict[str, Any] = {
        "host": cache_keys.of_host(),
        "code": {},
        "version": {},
        "requires": {},
    }
    for name in message["code"]:
        stage = _find_stage(plugins, name)
        if stage is not None:
            environment["code"][name] = digests.of_stage(stage)
    for name in message["stages"]:
        stage = _find_stage(plugins, name)
        if stage is not None:
            fields = cache_keys.of_call(Call(stage, {}), digests)
            environment["version"][name] = fields["version"]
            environment["requires"][name] = fields["requires"]
    return environment


def _find_stage(plugins: registry.Registry, words: str) -> registry.Stage | None:
    kind, _, name = words.partition(" ")
    try:
        return engine_stages.STAGES.get(kind) or plugins.stage(kind, name)
    except PluginError:
        return None


def open_store(store: Mapping[str, Any], seen: str) -> Cache:
    """Return the cache that a run uses, or one that gets at its results.

    `seen` lies in the run's own cache. Raise QpipeError where this machine does not see it, and
    results are not shared by another way.
    """
    is_shared = "shared" in store or "url" in store
    root = Path(store["root"])
    if not _await(Path(seen).is_dir, 0.0 if is_shared else PATIENCE_S):
        if not is_shared:
            raise QpipeError(
                f"the cache {root} is not seen there; give a --cache that all machines see, "
                "or share results: cache: {shared: FOLDER}, or {url: URL}"
            )
        folder = user_cache_file("cluster")
        root = folder or Path(tempfile.gettempdir()) / "qpipe-cluster"
    if "url" in store:
        return RemoteCache(root, store["url"])
    if is_shared:
        return SharingCache(root, Sharing(Path(store["shared"]), store["users"]))
    return Cache(root)


def _await(is_there: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Return whether something is there, or is within a short time: network folders lag."""
    end = time.monotonic() + patience_s
    while not is_there():
        if time.monotonic() >= end:
            return False
        time.sleep(LOOK_S)
    return True


# ---- a step


def run_step(text: str) -> str:
    """Carry out a step; return how it ended."""
    from distributed import get_worker

    message = json.loads(text)
    with tempfile.TemporaryDirectory(prefix="qpipe-log-") as folder:
        report = _Report(get_worker(), message, Path(folder) / "log.txt")
        report.send()
        answer = _answer(message, report)
        answer["log"] = report.whole_log()
    return json.dumps(answer)


def _answer(message: Mapping[str, Any], report: _Report) -> dict[str, Any]:
    try:
        cache = open_store(message["store"], message["seen"])
        missing = _missing_input(cache, message)
        if missing:
            return {"lost": missing}
        if not cache.has(message["kind"], message["key"]):
            _carry_out(cache, message, report)
        manifest = cache.folder(message["kind"], message["key"]) / MANIFEST
        return {"manifest": digest_file(manifest)}
    except QpipeError as error:
        return {"reason": str(error), "failure": error.failure, "log_file": str(report.log)}
    except OSError as error:
        reason = f"{error.filename or message['store']['root']}: {error.strerror or error}"
        return {"reason": reason, "failure": failure_of_os_error(error), "log_file": ""}
    except KeyboardInterrupt:
        return {"lost": "it was cancelled"}
    except Exception as error:  # noqa: BLE001  (an error would cross as a pickle, which the run does not read)
        return {"lost": f"the worker broke: {type(error).__name__}: {error}"}


def _missing_input(cache: Cache, message: Mapping[str, Any]) -> str:
    for kind, key in message["inputs"].values():
        if not _await(partial(cache.has, kind, key)):
            return f"the result {kind} {key[:16]} is not seen there"
    return ""


def _carry_out(cache: Cache, message: Mapping[str, Any], report: _Report) -> None:
    kind = message["kind"]
    key = message["key"]
    results = {}
    for parameter, (needed_kind, needed_key) in message["inputs"].items():
        folder = cache.value_folder(needed_kind, needed_key)
        results[parameter] = ResultFolder(needed_kind, folder)
    target = Target(**message["target"]) if message["target"] else None
    platform = Platform(**message["platform"]) if message["platform"] else None
    _allow_processes()
    with cache.put(kind, key) as out:
        request = StepRequest(
            step=message["step"],
            kind=kind,
            stage=message["stage"],
            options=decode(message["options"]),
            inputs=StepInputs(results, target, platform),
            out=out,
            log=report.log,
            plugins=[Path(name) for name in message["plugins"]],
            scratch=cache.scratch(kind, key),
        )
        run_in_worker(request, report.progress, report.is_cancelled)


def _allow_processes() -> None:
    """Let this process have children, as a Dask worker that is watched by a nanny may not.

    Steps end by themselves when it ends.
    """
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


class _Report:
    """Tells the run how far a step is and what it logs, and learns whether it is cancelled."""

    def __init__(self, worker: Worker, message: Mapping[str, Any], log: Path) -> None:
        self.worker = worker
        self.message = message
        self.log = log
        self.task = worker.get_current_task()
        self.sent_at = 0.0
        self.position = 0  # in the log

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        self.send(done=done, total=total, unit=unit)

    def is_cancelled(self) -> bool:
        """Return whether nobody waits for the step any more; report that it goes on otherwise."""
        task = self.worker.state.tasks.get(self.task)
        if task is None or task.state == "cancelled":
            return True
        if time.monotonic() - self.sent_at > REPORT_S:
            self.send()
        return self.worker.status.name in ("closing", "closed", "failed")

    def send(self, **progress: Any) -> None:
        """Send progress, and the lines that the log got meanwhile."""
        self.sent_at = time.monotonic()
        text, end = self.read_log(self.position)
        event = {
            "token": self.message["token"],
            "worker": self.worker.address,
            "log": text,
            "position": self.position,
            **progress,
        }
        self.position = end
        self.worker.log_event(self.message["topic"], json.dumps(event))

    def whole_log(self) -> str:
        return self.read_log(0)[0]

    def read_log(self, position: int) -> tuple[str, int]:
        """Return the log from a position in bytes, and where it ends."""
        try:
            with self.log.open("rb") as file:
                file.seek(position)
                content = file.read(LONGEST_LOG)
        except OSError:
            return "", position
        return content.decode("utf-8", errors="replace"), position + len(content)
