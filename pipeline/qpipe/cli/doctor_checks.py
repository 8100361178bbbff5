"""What `qpipe doctor` checks of this machine, the installation and the working directory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from qpipe.cli.parameters import DEFAULT_DB
from qpipe.errors import QpipeError, shown
from qpipe.stages import registry
from qpipe.storage.cache import Cache
from qpipe.storage.results import Store
from qpipe.types import Finding

DISTRIBUTION = "qpipe-edge"
ENOUGH_SPACE_MB = 2000  # for a cache of schemes; a warning below
BYTES_PER_MB = 1e6
# extras that name what results depend on; another one installs it
KEY_EXTRAS = frozenset({"qat", "learn-rounding"})


def check_machine() -> Iterator[Finding]:
    """Check what commands need of this machine."""
    python = ".".join(str(number) for number in sys.version_info[:3])
    yield Finding("python", "ok", f"{python} ({sys.executable})")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", "ok", f"{cores} for host steps, and for the device local")
    if shutil.which("ssh-keygen") is None:
        remedy = "boards work without; it shows fingerprints: install openssh-client"
        yield Finding("ssh-keygen", "warning", f"not found; {remedy}")


def check_extras() -> Iterator[Finding]:
    """Check which extras of the distribution are installed, and whether in the right versions."""
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    requirements = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    for extra in extras:
        wanted_here = [
            requirement
            for requirement in requirements
            if requirement.marker and requirement.marker.evaluate({"extra": extra})
            if not requirement.marker.evaluate({"extra": ""})
        ]
        if extra not in KEY_EXTRAS:
            yield _extra_finding(extra, wanted_here)


def _extra_finding(extra: str, requirements: list[Requirement]) -> Finding:
    install = f"pip install '{DISTRIBUTION}[{extra}]'"
    missing = []
    outdated = []
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            outdated.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if outdated:
        return Finding(extra, "warning", f"{', '.join(outdated)}; {install}")
    if missing:
        return Finding(extra, "ok", f"not installed: {', '.join(missing)}; {install}")
    return Finding(extra, "ok", "installed")


def check_plugins() -> Iterator[Finding]:
    """Check that each installed plugin loads."""
    loaded = registry.load()
    stages = [*loaded.stages.values(), *loaded.devices.values(), *loaded.powers.values()]
    names = [f"{stage.distribution} {stage.version}" for stage in stages]
    for name in dict.fromkeys(names):
        yield Finding(name, "ok", f"{names.count(name)} stages, drivers and switches")
    for source, reason in loaded.broken.items():
        yield Finding(source, "bad", f"does not load: {reason}")


def check_workspace(db: Path, cache: Path) -> Iterator[Finding]:
    """Check database and cache, and what is free where they lie."""
    yield _database_finding(db)
    yield _cache_finding(cache)
    folder = next(parent for parent in cache.absolute().parents if parent.is_dir())
    free_mb = shutil.disk_usage(folder).free / BYTES_PER_MB
    if free_mb < ENOUGH_SPACE_MB:
        remedy = "qpipe cache clean --older-than 30"
        yield Finding("space", "warning", f"{free_mb:.0f} MB free in {folder}; {remedy}")
    else:
        yield Finding("space", "ok", f"{free_mb:.0f} MB free in {folder}")


def _database_finding(db: Path) -> Finding:
    if not db.exists():
        if db == DEFAULT_DB:
            return Finding("database", "ok", f"{shown(db)}: no run yet")
        return Finding("database", "bad", f"{shown(db)}: not there; give that of your runs")
    try:
        with Store(db, create=False) as store:
            count = len(store.runs())
    except QpipeError as error:
        return Finding("database", "bad", str(error))
    return Finding("database", "ok", f"{shown(db)}: {count} runs")


def _cache_finding(cache: Path) -> Finding:
    if not cache.exists():
        return Finding("cache", "ok", f"{shown(cache)}: empty")
    try:
        with Cache(cache).protect([]):  # as a run begins
            return Finding("cache", "ok", f"{shown(cache)}: usable")
    except QpipeError as error:
        return Finding("cache", "bad", str(error))
