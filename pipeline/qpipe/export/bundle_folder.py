"""The folder that a bundle is written to; nothing is lost there that no export put there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qpipe.digests import digest_file, digest_json
from qpipe.errors import QpipeError

MANIFEST = "manifest.json"
HINT = "give an empty folder, or --force to write into it"


def check_folder(out: Path, *, force: bool) -> None:
    """Raise QpipeError where a folder holds what must not be replaced; `force` allows all of it."""
    if os.path.lexists(out) and not out.is_dir():
        kind = "a file" if out.exists() else "a link to nothing"
        raise QpipeError(f"export: {out} is {kind}; give a folder that does not exist yet")
    if not force:
        _check_entries(out, out)


def move_into_place(scratch: Path, out: Path, *, force: bool) -> None:
    """Put the bundle at `scratch` in the place of an earlier one, or into the folder `out`.

    That is one step, unless the folder itself has to stay: it is a mount, the working directory is
    in it, or `force` lets it hold other files. Raise QpipeError, with the folder as it was, where
    something was put there meanwhile.
    """
    holds_other_files = force and not _is_export(out)
    if holds_other_files or os.path.ismount(out) or Path.cwd().is_relative_to(out):
        check_folder(out, force=force)
        _write_into(scratch, out)
        return
    old = scratch.with_name(f"{scratch.name}.old")
    if out.is_dir():
        out.rename(old)
    try:
        exported = _check_entries(old, out)  # now nobody finds it to write into it
        scratch.rename(out)
    except BaseException as error:
        if old.is_dir():
            _put_back(old, out)
        if isinstance(error, OSError):
            reason = f"{out} was made meanwhile" if out.exists() else str(error.strerror)
            raise QpipeError(f"export: {reason}; {HINT}") from error
        raise
    _remove(old, exported)
    if old.is_dir():
        raise QpipeError(f"export: something was put into {out} meanwhile; it is in {old}")


def _put_back(old: Path, out: Path) -> None:
    try:
        old.rename(out)
    except OSError as error:
        raise QpipeError(f"export: {out} was made meanwhile; what it held is in {old}") from error


def entries(folder: Path) -> Iterator[str]:
    """Yield the paths in a folder of all files, links and empty folders; links are not followed."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in sorted([*files, *links]):
            yield Path(root, name).relative_to(folder).as_posix()
        if not folders and not files and Path(root) != folder:
            yield f"{Path(root).relative_to(folder).as_posix()}/"


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of all that a manifest holds beside it."""
    return digest_json({name: value for name, value in manifest.items() if name != "digest"})


# ---- what an export put there


def _check_entries(folder: Path, out: Path) -> list[str]:
    """Return all entries; raise QpipeError for the first that is not as an export put it there."""
    exported = _exported_files(folder)
    names = []
    for name in entries(folder):
        reason = _why_not_exported(folder / name, exported.get(name))
        if reason:
            raise QpipeError(f"export: {out} holds {name}, which {reason}; {HINT}")
        names.append(name)
    return names


def _is_export(folder: Path) -> bool:
    """Return whether a folder holds what an export put there, and nothing else."""
    try:
        _check_entries(folder, folder)
    except QpipeError:
        return False
    return True


def _exported_files(folder: Path) -> dict[str, str]:
    """Return the files of an earlier export with their sha256; empty where there is none."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not manifest["qpipe_export"]:
            return {}
        is_changed = manifest.get("digest", "") not in ("", manifest_digest(manifest))
        digest = "" if is_changed else digest_file(path)
        return {**manifest["files"], MANIFEST: digest}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _why_not_exported(path: Path, digest: str | None) -> str:
    """Return in what an entry differs from the file of this digest; empty where it does not."""
    if digest is None:
        return "no export put there"
    if path.is_symlink() or not path.is_file() or digest_file(path) != digest:
        return "was changed since its export"
    return ""


# ---- writing


def _write_into(scratch: Path, out: Path) -> None:
    """Write the bundle's files over those of the same name, the manifest last.

    Files of an earlier export go, unless they were changed.
    """
    names = sorted(entries(scratch), key=lambda name: name == MANIFEST)
    for name in names:
        _check_place(out, name)
    exported = _exported_files(out)
    unchanged = [
        name for name in entries(out) if not _why_not_exported(out / name, exported.get(name))
    ]
    for name in names:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{target.name}{scratch.name}")
        shutil.copyfile(scratch / name, new)
        new.replace(target)  # a link is replaced, not written through
    _remove(out, [name for name in unchanged if name not in names])
    shutil.rmtree(scratch)


def _check_place(out: Path, name: str) -> None:
    """Raise QpipeError where a file cannot be written, or would be written elsewhere."""
    target = out / name
    if target.is_dir() and not target.is_symlink():
        raise QpipeError(f"export: {out} holds the folder {name}; move it away")
    for parent in Path(name).parents[:-1]:
        place = out / parent
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise QpipeError(f"export: {out} holds {parent}, which is no folder; move it away")


def _remove(folder: Path, names: list[str]) -> None:
    """Remove these files, and the folders that are empty then, `folder` too."""
    for name in names:
        (folder / name).unlink()
    folders = {folder, *(folder / parent for name in names for parent in Path(name).parents)}
    for path in sorted(folders, key=lambda path: -len(path.parts)):
        with suppress(OSError):  # it holds something else
            path.rmdir()
