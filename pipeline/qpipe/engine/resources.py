"""What a step of the host takes of a machine while it runs, and what this machine has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from qpipe.engine import engine_stages
from qpipe.engine.cache_keys import gpu_count
from qpipe.engine.plan import Step
from qpipe.stages.registry import Stage
from qpipe.types import Resources

PROCESS_MB = 256  # the process of a step, with the libraries and a small network
# kinds whose options `threads` and `memory_mb` are about the step; those of a build are about the
# device
COMPUTING_KINDS = ("calibrate", "transform", "quantize")
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
MIB = 1 << 20


def resources_of(step: Step) -> Resources:
    """Return what a step takes: what its stage was registered with, and what its options say."""
    stage = _stage(step)
    if stage is None:
        return Resources(memory_mb=PROCESS_MB)
    registered = stage.resources
    options: Mapping[str, Any] = {}
    if step.call is not None and step.kind in COMPUTING_KINDS:
        options = step.call.options
    return Resources(
        threads=options.get("threads", registered.threads),
        memory_mb=PROCESS_MB + registered.memory_mb + options.get("memory_mb", 0),
        gpus=registered.gpus,
    )


def _stage(step: Step) -> Stage | None:
    if step.call is not None:
        return step.call.stage
    return engine_stages.STAGES.get(step.kind)


def within(resources: Resources, capacity: Resources) -> Resources:
    """Return what a step takes where this is all there is: no more than that.

    A step that asks for more than a machine has runs there, with the machine to itself.
    """
    return Resources(
        threads=min(resources.threads or capacity.threads, capacity.threads),
        memory_mb=min(resources.memory_mb, capacity.memory_mb),
        gpus=min(resources.gpus, capacity.gpus),
    )


def total(parts: Iterable[Resources]) -> Resources:
    """Return the sum of resources."""
    threads = 0
    memory_mb = 0
    gpus = 0
    for part in parts:
        threads += part.threads
        memory_mb += part.memory_mb
        gpus += part.gpus
    return Resources(threads, memory_mb, gpus)


def fits(resources: Resources, capacity: Resources) -> bool:
    """Return whether there is enough of everything."""
    return (
        resources.threads <= capacity.threads
        and resources.memory_mb <= capacity.memory_mb
        and resources.gpus <= capacity.gpus
    )


@cache
def this_machine() -> Resources:
    """Return the processors that this process may use, the memory, and NVIDIA's GPUs."""
    return Resources(_processors(), _memory_mb(), gpu_count())


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_mb() -> int:
    """Return the memory of this machine, or of the container that this process is in."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(CGROUP_MEMORY.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit: "max"
        limit = memory
    return min(memory, limit) // MIB
