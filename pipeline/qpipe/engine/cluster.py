"""A Dask cluster that carries out steps of the host: who takes them there, and how each one goes.

qpipe reads JSON alone of what comes back. Dask's client, below it, unpickles what a scheduler
sends: who has the cluster has the process of the run too, see SECURITY.md.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.digests import digest_file, digest_json
from qpipe.engine import cache_keys, cluster_worker
from qpipe.engine.cluster_messages import (
    Place,
    can_be_sent,
    checked_answer,
    describe_store,
    differences,
    expected_environment,
    step_message,
)
from qpipe.engine.events import Notify
from qpipe.engine.plan import Plan, Step
from qpipe.engine.resources import resources_of, total, within
from qpipe.errors import QpipeError, StageError, shown
from qpipe.recipe.recipe import LOCAL_CLUSTER
from qpipe.storage.cache import MANIFEST, Cache
from qpipe.types import Progress, Resources

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 10.0
CHECK_S = 1.0  # pauses between two looks at the workers
GRACE_S = 30.0  # without a worker, until its steps are carried out here
SILENCE_S = 60.0  # of a step, until it counts as lost; a worker reports each second
LOOK_S = 0.2  # pauses between two looks at a step
FETCH_S = 20.0  # for the answer of a step that has ended
ATTEMPTS = 3  # at a step, until it is carried out here
SILENT = "nothing is heard of it"
OFFERED = 1_000_000  # of the mark of an environment: any number of steps
ENCRYPTED = ("tls://", "wss://")
INSTALL = "install Dask: pip install 'qpipe-edge[cluster]'"


class _NewWorkerError(Exception):
    """A worker came that may take a step which has not begun: it is sent again."""


class LostError(QpipeError):
    """The cluster does not carry out a step; this machine can."""


@dataclass
class _Sent:
    """A step on its way: what is known of it here."""

    step: Step
    log: Path
    progress: Progress
    notice: Notify
    worker: str = ""
    position: int = 0  # bytes of the worker's log that were received
    sent_at: float = field(default_factory=time.monotonic)
    heard_at: float = 0.0
    has_started: bool = False


@contextmanager
def open_cluster(address: str, plan: Plan, cache: Cache, notify: Notify) -> Iterator[Cluster]:
    """Give the cluster at an address, for the steps of a plan; raise QpipeError without one."""
    with ExitStack() as stack:
        connect = _connection(address, stack)
        seen = stack.enter_context(cache.new_scratch_folder())
        cluster = Cluster(address, connect, plan, cache, seen, notify)
        stack.callback(cluster.close)
        cluster.start()
        yield cluster


def _connection(address: str, stack: ExitStack) -> Callable[[], Client]:
    """Return what connects to the scheduler; raise QpipeError where Dask is not installed."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise QpipeError(f"--cluster {address}: {error}; {INSTALL}") from error
    _check_certificates(address)
    where: Any = address
    if address == LOCAL_CLUSTER:
        # encrypted, with keys of its own: other users of this machine cannot give it work
        where = LocalCluster(
            n_workers=1,
            dashboard_address="127.0.0.1:0",
            security=True,
            host="127.0.0.1",
            silence_logs=50,
        )
        stack.callback(where.close)
    return partial(
        Client, where, timeout=CONNECT_S, deserializers=["msgpack"], set_as_default=False
    )


def _check_certificates(address: str) -> None:
    """Raise QpipeError for an encrypted address where Dask is told of no certificates."""
    from distributed import Security

    certificates = Security().get_connection_args("client").get("ssl_context")
    if address.startswith(ENCRYPTED) and certificates is None:
        raise QpipeError(
            f"--cluster {address}: it asks for certificates; name them in Dask's configuration: "
            "distributed.comm.tls.ca-file, and client.cert and client.key"
        )


class Cluster:
    """The workers that have the environment of this machine, and the steps that they carry out."""

    def __init__(
        self,
        address: str,
        connect: Callable[[], Client],
        plan: Plan,
        cache: Cache,
        seen: Path,
        notify: Notify,
    ) -> None:
        self.address = address
        self.connect = connect
        self.plan = plan
        self.cache = cache
        self.notify = notify
        self.environment = expected_environment(plan)
        plugins = [str(path) for path in plan.recipe.plugins]
        self.place = Place(
            topic=f"qpipe-{uuid.uuid4().hex}",
            store=describe_store(cache),
            seen=str(seen.resolve()),
            plugins=plugins,
        )
        self.plugin_digests = {name: cache_keys.digest(Path(name)) for name in plugins}
        # what a worker is marked with: Dask gives the steps to those that have it, whenever they
        # came
        self.mark = f"qpipe-{digest_json([self.environment, self.place.store])[:16]}"
        self.capacities: dict[str, Resources] = {}  # of accepted workers
        self.refused: dict[str, str] = {}  # worker -> why
        self.has_worker_at = time.monotonic()
        self.accepted_at = 0.0  # the newest worker
        self.examined: set[str] = set()  # workers that are asked what they are
        self.sent: dict[str, _Sent] = {}  # by token
        self.is_closing = threading.Event()
        self.client: Client | None = None
        self.watcher = threading.Thread(target=self._watch, daemon=True, name="qpipe-cluster")

    # ---- what it is

    @property
    def is_lost(self) -> bool:
        """Whether no worker was seen for so long that steps are carried out here."""
        return time.monotonic() - self.has_worker_at > GRACE_S

    def takes(self, step: Step) -> bool:
        """Return whether a step is carried out there."""
        return can_be_sent(step) and not self.is_lost

    def capacity(self) -> Resources:
        """Return what steps that are sent may take: twice what there is, so that none is idle."""
        workers = list(self.capacities.values())
        return total([*workers, *workers])

    # ---- the workers

    def start(self) -> None:
        """Connect, and wait for a worker; raise QpipeError where no scheduler answers."""
        self.notify(f"{self.address}: connecting, for {CONNECT_S:.0f} s at most")
        try:
            self.client = self._connect()
        except (OSError, TimeoutError) as error:
            raise QpipeError(
                f"--cluster {self.address}: no scheduler answers there; "
                "start one (dask scheduler), or leave --cluster out"
            ) from error
        self.notify(f"{self.address}: waiting for a worker, {GRACE_S:.0f} s at most")
        self.watcher.start()
        while not (self.capacities or self.is_lost or (self.refused and not self.examined)):
            time.sleep(LOOK_S)
        if not self.capacities:
            self.notify(f"{self.address}: no worker takes steps; they are carried out here")
            self.has_worker_at -= GRACE_S

    def _connect(self) -> Client:
        client = self.connect()
        client.subscribe_topic(self.place.topic, self._hear)
        return client

    def _reconnect(self) -> None:
        """Connect anew where the scheduler has gone: another one knows nothing of what was sent."""
        if self.client is not None and self.client.status == "running":
            return
        old = self.client
        self.client = None
        self._note_workers({})
        if old is not None:
            _in_background(old.close)
        self.client = self._connect()

    def close(self) -> None:
        """Leave the cluster; what still runs there for this run is cancelled by that."""
        self.is_closing.set()
        if self.client is not None:
            with suppress(Exception):
                self.client.close(timeout=LOOK_S)

    def _watch(self) -> None:
        while not self.is_closing.is_set():
            try:
                self._reconnect()
                self._look()
            except Exception:  # noqa: BLE001  (no connection: Dask raises many kinds)
                self._note_workers({})
            self.is_closing.wait(CHECK_S)

    def _look(self) -> None:
        """Accept new workers, and forget those that have gone."""
        client = self.client
        assert client is not None
        workers = client.scheduler_info()["workers"]
        new = [
            name
            for name in workers
            if name not in self.capacities
            and name not in self.refused
            and name not in self.examined
        ]
        if new:  # in a thread of its own: one that does not answer holds up nobody
            self.examined.update(new)
            threading.Thread(target=self._examine, args=(client, new), daemon=True).start()
        self._note_workers(workers)

    def _note_workers(self, workers: Mapping[str, Any]) -> None:
        now = time.monotonic()
        for name in set(self.capacities) - set(workers):
            del self.capacities[name]
            self.notify(f"{self.address}: worker {name} is gone")
        for name in set(self.refused) - set(workers):
            del self.refused[name]
        self.examined.intersection_update(workers)
        if self.capacities:
            self.has_worker_at = now

    def _examine(self, client: Client, names: list[str]) -> None:
        question = {
            "plugins": self.place.plugins,
            "plugin_digests": self.plugin_digests,
            "store": self.place.store,
            "seen": self.place.seen,
            "code": list(self.environment["code"]),
            "stages": list(self.environment["version"]),
        }
        answers = client.run(
            cluster_worker.describe, json.dumps(question), workers=names, on_error="return"
        )
        for name, answer in answers.items():
            reason = self._refusal(answer)
            if reason:
                self.refused[name] = reason
                self.notify(f"{self.address}: worker {name} is refused: {reason}")
            else:
                self._accept(client, name)
            self.examined.discard(name)

    def _refusal(self, answer: Any) -> str:
        """Return why a worker may not carry out steps; empty where it may."""
        if not isinstance(answer, str):
            return "it has no qpipe of this version; install the same there"
        there = json.loads(answer)
        wrong = differences(self.plugin_digests, there["plugin"], "plugin")
        if not wrong:
            wrong = differences(self.environment, there["environment"])
        if not wrong:
            return str(there["cache"])
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return f"{wrong[0]}{more}; install the same there"

    def _accept(self, client: Client, name: str) -> None:
        answers = client.run(
            cluster_worker.accept, json.dumps({self.mark: OFFERED}), workers=[name]
        )
        offered = json.loads(answers[name])
        self.capacities[name] = Resources(
            threads=int(offered["threads"]),
            memory_mb=int(offered.get("memory_mb", 0)),
            gpus=int(offered.get("gpu", 0)),
        )
        self.accepted_at = time.monotonic()

    # ---- a step

    def carry_out(
        self,
        step: Step,
        log: Path,
        progress: Progress,
        is_cancelled: Callable[[], bool],
        notice: Notify,
    ) -> None:
        """Have a step carried out; its result is in the cache then.

        Raise StageError where it fails, KeyboardInterrupt where it is cancelled, LostError where
        this machine has to carry it out.
        """
        reason = ""
        attempts = 0
        while attempts < ATTEMPTS and not self.is_lost:
            try:
                self._try(_Sent(step, log, progress, notice), is_cancelled)
            except _NewWorkerError:
                continue
            except LostError as error:
                attempts += 1
                reason = str(error)
                notice(f"{step.id}: {reason}")
            else:
                return
        reason = reason or "no worker is left"
        raise LostError(f"{reason}; it is carried out here")

    def _try(self, sent: _Sent, is_cancelled: Callable[[], bool]) -> None:
        token = uuid.uuid4().hex
        text = step_message(sent.step, self.plan, self.place, token)
        self._share_inputs(sent.step)
        client = self._wait_for_worker(is_cancelled)
        sent.sent_at = time.monotonic()
        self.sent[token] = sent
        try:
            future = client.submit(
                cluster_worker.run_step,
                text,
                key=f"qpipe-{token}",
                resources=self._share(sent.step),
                workers=list(self.capacities),
                pure=False,
            )
        except Exception as error:
            del self.sent[token]
            raise LostError(f"it could not be sent: {error}") from error
        try:
            answer = self._await_answer(client, future, sent, is_cancelled)
        finally:
            del self.sent[token]
            _in_background(future.cancel)
        self._settle(sent, answer)

    def _share_inputs(self, step: Step) -> None:
        """Let workers see results that were made here before they were shared."""
        for need in step.needs.values():
            needed = self.plan.steps[need]
            self.cache.share(needed.kind, needed.key)

    def _wait_for_worker(self, is_cancelled: Callable[[], bool]) -> Client:
        """Return the connection once there is a worker for it.

        Dask never looks again at what it got when no worker could take it.
        """
        while True:
            client = self.client
            if client is not None and client.status == "running" and self.capacities:
                return client
            if is_cancelled():
                raise KeyboardInterrupt
            if self.is_lost:
                raise LostError("no worker is left")
            time.sleep(LOOK_S)

    def _share(self, step: Step) -> dict[str, float]:
        """Return what Dask sets aside for a step: no more than the largest worker has."""
        workers = list(self.capacities.values()) or [Resources()]
        largest = Resources(
            max(worker.threads for worker in workers),
            max(worker.memory_mb for worker in workers),
            max(worker.gpus for worker in workers),
        )
        share = within(resources_of(step), largest)
        amounts = {"threads": share.threads, "memory_mb": share.memory_mb, "gpu": share.gpus}
        return {self.mark: 1, **{name: amount for name, amount in amounts.items() if amount}}

    def _await_answer(
        self, client: Client, future: Future, sent: _Sent, is_cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        while not future.done():
            if is_cancelled():
                raise KeyboardInterrupt
            if self.is_lost:
                raise LostError("no worker is left")
            if client is not self.client:
                raise LostError("the scheduler was restarted")
            if not sent.has_started and self.accepted_at > sent.sent_at:
                raise _NewWorkerError
            if sent.has_started and time.monotonic() - sent.heard_at > SILENCE_S:
                self.capacities.pop(sent.worker, None)
                self.refused[sent.worker] = SILENT
                raise LostError(f"nothing was heard of {sent.worker} for {SILENCE_S:.0f} s")
            time.sleep(LOOK_S)
        if future.status != "finished":
            raise LostError(f"the cluster lost it: {future.status}")
        try:
            answer = checked_answer(json.loads(future.result(timeout=FETCH_S)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of Dask, and CancelledError
            kind = type(error).__name__
            raise LostError(f"the cluster lost it: {kind}") from error
        return answer

    def _settle(self, sent: _Sent, answer: Mapping[str, Any]) -> None:
        self._append_log(sent, answer.get("log", "").encode()[sent.position :])
        if "lost" in answer:
            raise LostError(str(answer["lost"]))
        if "reason" in answer:
            place = shown(sent.log.resolve())
            reason = str(answer["reason"])
            if answer["log_file"]:
                reason = reason.replace(answer["log_file"], place)
            raise StageError(reason, failure=answer["failure"])
        step = sent.step
        manifest = self.cache.folder(step.kind, step.key) / MANIFEST
        self.cache.expect(step.kind, step.key)
        end = time.monotonic() + cluster_worker.PATIENCE_S
        while not (
            self.cache.has(step.kind, step.key) and digest_file(manifest) == answer["manifest"]
        ):
            if time.monotonic() > end:
                raise LostError(f"the result of {sent.worker} is not seen here")
            time.sleep(LOOK_S)

    # ---- what workers say meanwhile

    def _hear(self, event: tuple[float, str]) -> None:
        """Note a report of a worker; called in the thread of the client."""
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # no report of a worker's
            self._note_report(json.loads(event[1]))

    def _note_report(self, report: Mapping[str, Any]) -> None:
        sent = self.sent.get(report["token"])
        if sent is None:
            return
        sent.heard_at = time.monotonic()
        sent.has_started = True
        if report["worker"] != sent.worker:
            if sent.worker:
                sent.notice(f"{sent.worker} is gone; it starts again on {report['worker']}")
            sent.worker = report["worker"]
            sent.position = 0
        if report["position"] == sent.position:
            self._append_log(sent, report["log"].encode())
        if self.refused.get(sent.worker) == SILENT:
            del self.refused[sent.worker]  # it is asked again what it is
        if "done" in report:
            with suppress(KeyboardInterrupt):  # the run ends: the thread of the step sees that
                sent.progress(report["done"], report["total"], report["unit"])

    def _append_log(self, sent: _Sent, content: bytes) -> None:
        if content:
            with sent.log.open("ab") as file:
                file.write(content)
            sent.position += len(content)


def _in_background(function: Callable[[], Any]) -> None:
    """Call a function of Dask that may wait for a scheduler which does not answer."""

    def call() -> None:
        with suppress(Exception):
            function()

    threading.Thread(target=call, daemon=True).start()
