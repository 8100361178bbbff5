"""Results that users leave for each other: taken from those who are named, and from nobody else."""

from __future__ import annotations

import json
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scratch_lab import LabShell

from qpipe.errors import QpipeError
from qpipe.storage.cache import MANIFEST, Cache
from qpipe.storage.sharing_cache import Sharing, SharingCache

ME = pwd.getpwuid(os.geteuid()).pw_name
ANN = pwd.getpwnam("nobody")
MALLORY = pwd.getpwnam("daemon")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to other users")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return shared


@pytest.fixture
def lab_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    return LabShell(tmp_path, monkeypatch, capsys)


def open_cache(folder: Path, name: str = "cache", *, users: tuple[str, ...] = ()) -> SharingCache:
    """The cache of a user, or of the same on another machine."""
    ids = {user: pwd.getpwnam(user).pw_uid for user in users}
    return SharingCache(folder.parent / name, Sharing(folder, ids))


def put(cache: Cache, text: str = "value") -> None:
    with cache.put("compile", "k1") as value:
        (value / "deep").mkdir()
        (value / "deep" / "runner.py").write_text(text, encoding="utf-8")
        (value / "b.bin").write_bytes(bytes(100))


def runner(cache: Cache) -> str | None:
    value = cache.get("compile", "k1")
    return (value / "deep" / "runner.py").read_text(encoding="utf-8") if value else None


def give_to(user: pwd.struct_passwd, path: Path) -> None:
    """Make a folder another user's, with all that is in it."""
    for member in [path, *path.rglob("*")]:
        os.chown(member, user.pw_uid, user.pw_gid, follow_symlinks=False)


def left_by_ann(folder: Path, text: str = "hers") -> Path:
    """A result that another user has given; return its entry."""
    put(open_cache(folder, "elsewhere"), text)
    (folder / ME).rename(folder / ANN.pw_name)
    give_to(ANN, folder / ANN.pw_name)
    shutil.rmtree(folder.parent / "elsewhere")
    return folder / ANN.pw_name / "compile" / "k1"


def test_a_user_has_on_each_machine_what_was_made_on_another(folder: Path) -> None:
    put(open_cache(folder, "one"))
    other = open_cache(folder, "other")
    assert other.has("compile", "k1")
    assert runner(other) == "value"
    value = other.get("compile", "k1")
    assert value is not None
    assert value.is_relative_to(other.root)
    assert (value / "b.bin").read_bytes() == bytes(100)
    assert not other.has("compile", "k2")


def test_what_is_given_is_readable_by_all_and_writable_by_its_owner_alone(folder: Path) -> None:
    before = os.umask(0o002)
    try:
        cache = open_cache(folder)
        put(cache)
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777
        for path in (folder / ME).rglob("*")
        if path.name not in ("aside", ".users", ".lock")
    }
    entry = f"{ME}/compile/k1"
    assert modes == {
        f"{ME}/compile": 0o755,
        entry: 0o755,
        f"{entry}/{MANIFEST}": 0o644,
        f"{entry}/value": 0o755,
        f"{entry}/value/b.bin": 0o644,
        f"{entry}/value/deep": 0o755,
        f"{entry}/value/deep/runner.py": 0o644,
    }
    assert (folder / ME).stat().st_mode & 0o777 == 0o755
    assert cache.root.stat().st_mode & 0o777 == 0o700


def test_a_result_of_one_s_own_does_not_need_the_shared_one(folder: Path) -> None:
    cache = open_cache(folder)
    put(cache)
    shutil.rmtree(folder / ME)
    assert runner(cache) == "value"


@as_root
def test_a_result_of_a_named_user_is_taken_and_not_given_again(folder: Path) -> None:
    left_by_ann(folder)
    cache = open_cache(folder, users=(ANN.pw_name,))
    assert runner(cache) == "hers"
    assert list((folder / ME).rglob("runner.py")) == []
    value = cache.get("compile", "k1")
    assert value is not None
    assert {path.stat().st_uid for path in value.rglob("*")} == {os.geteuid()}


@as_root
def test_a_result_of_a_user_who_is_not_named_is_not_taken(folder: Path) -> None:
    left_by_ann(folder)
    assert runner(open_cache(folder)) is None
    assert runner(open_cache(folder, users=(MALLORY.pw_name,))) is None


def writes_the_runner(entry: Path) -> None:
    (entry / "value/deep/runner.py").write_text("mine", encoding="utf-8")


def links_the_runner(entry: Path) -> None:
    runner_file = entry / "value/deep/runner.py"
    runner_file.unlink()
    runner_file.symlink_to("/etc/hostname")


def removes_a_file(entry: Path) -> None:
    (entry / "value/b.bin").unlink()


def writes_a_manifest(entry: Path) -> None:
    give_to(MALLORY, entry / MANIFEST)


def opens_the_manifest(entry: Path) -> None:
    (entry / MANIFEST).chmod(0o666)


def links_the_manifest(entry: Path) -> None:
    (entry / MANIFEST).rename(entry / "other")
    (entry / MANIFEST).symlink_to("other")


def makes_a_pipe(entry: Path) -> None:
    (entry / MANIFEST).unlink()
    os.mkfifo(entry / MANIFEST)
    os.chown(entry / MANIFEST, ANN.pw_uid, ANN.pw_gid)


def takes_the_entry(entry: Path) -> None:
    os.chown(entry, MALLORY.pw_uid, MALLORY.pw_gid)


def opens_the_folder(entry: Path) -> None:
    entry.parent.parent.chmod(0o777)


def links_the_folder(entry: Path) -> None:
    hers = entry.parent.parent
    hers.rename(hers.with_name("moved"))
    hers.symlink_to("moved")


def moves_it_to_another_key(entry: Path) -> None:
    manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    write_manifest(entry, {**manifest, "key": "k2"})


def names_a_file_outside(entry: Path) -> None:
    manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    files = {"../../../../escaped": manifest["files"]["b.bin"]}
    shutil.copy(entry / "value/b.bin", entry.parents[3] / "escaped")
    write_manifest(entry, {**manifest, "files": files})


def says_nothing(entry: Path) -> None:
    write_manifest(entry, ["files"])


def write_manifest(entry: Path, content: object) -> None:
    (entry / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


@as_root
@pytest.mark.parametrize(
    "meddle",
    [
        writes_the_runner, links_the_runner, removes_a_file, writes_a_manifest, opens_the_manifest,
        links_the_manifest, makes_a_pipe, takes_the_entry, opens_the_folder, links_the_folder,
        moves_it_to_another_key, names_a_file_outside, says_nothing,
    ],
)  # fmt: skip
def test_a_result_that_somebody_else_may_have_written_is_not_taken(
    meddle: Callable[[Path], None], folder: Path
) -> None:
    meddle(left_by_ann(folder))
    cache = open_cache(folder, users=(ANN.pw_name,))
    assert runner(cache) is None
    put(cache, "computed")
    assert runner(cache) == "computed"
    files = [path for path in cache.root.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) == 3


@as_root
def test_a_shared_folder_in_which_folders_can_be_replaced_is_refused(folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(QpipeError) as error:
        open_cache(folder)
    assert str(error.value) == (
        f"{folder}: others may replace what lies in the shared folder; "
        f"set its sticky bit: chmod +t {folder}"
    )
    folder.chmod(0o1777)
    os.chown(folder, MALLORY.pw_uid, MALLORY.pw_gid)
    with pytest.raises(QpipeError, match="the shared folder belongs to a user who is not named"):
        open_cache(folder)


@as_root
def test_a_folder_that_another_user_put_there_under_one_s_name_is_refused(folder: Path) -> None:
    squatted = folder / ME
    squatted.mkdir()
    give_to(MALLORY, squatted)
    with pytest.raises(QpipeError, match=f"{ME}: the cache belongs to another user"):
        open_cache(folder)
    squatted.rmdir()
    squatted.symlink_to(folder.parent)
    with pytest.raises(QpipeError) as error:
        open_cache(folder)
    assert str(error.value) == f"{squatted}: this is a link, put there by somebody else; remove it"


def test_a_shared_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QpipeError) as error:
        open_cache(tmp_path / "none")
    assert str(error.value) == (
        f"{tmp_path}/none: cannot be shared: no such file or directory; "
        f"make it as root, for example: mkdir -m 1777 {tmp_path}/none"
    )


def test_a_result_that_cannot_be_given_is_kept(folder: Path) -> None:
    cache = open_cache(folder)
    (folder / ME / "compile").write_text("no folder", encoding="utf-8")
    with pytest.raises(
        QpipeError, match=r"was not given to others: file exists; .*; the result itself is kept"
    ):
        put(cache)
    assert runner(cache) == "value"


# ---- in a recipe


def test_a_run_uses_what_a_run_elsewhere_made(lab_shell: LabShell, folder: Path) -> None:
    recipe = Path("recipe.yaml")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(f"{text}\ncache: {{shared: {folder}}}\n", encoding="utf-8")
    first, _ = lab_shell("run recipe.yaml")
    assert ", 0 of " in first
    again, _ = lab_shell("run recipe.yaml --cache elsewhere --db elsewhere.db")
    cached = {
        entry["step"] for entry in lab_shell.json("plan recipe.yaml") if entry["will"] == "cached"
    }
    assert len(cached) > 3
    assert f", {len(cached)} of " in again


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("shared", "cache is 'shared'; give {shared: FOLDER, users: [NAME]}, or {url: URL}"),
        (
            "{users: [root]}",
            "cache is {'users': ['root']}; give {shared: FOLDER, users: [NAME]}, or {url: URL}",
        ),
        (
            "{shared: ., users: root}",
            "cache is {'shared': '.', 'users': 'root'}; give {shared: FOLDER, users: [NAME]}, or {url: URL}",
        ),
        (
            "{shared: ., users: [no-such-user]}",
            "no user 'no-such-user' on this machine; name those whose results are trusted",
        ),
    ],
)
def test_a_cache_that_is_written_wrongly_is_one_line(
    cache: str, message: str, lab_shell: LabShell
) -> None:
    recipe = Path("recipe.yaml")
    text = recipe.read_text(encoding="utf-8").rstrip()
    recipe.write_text(f"{text}\ncache: {cache}\n", encoding="utf-8")
    line = text.count("\n") + 2
    _, err = lab_shell("plan recipe.yaml", status=2)
    assert err == f"qpipe: recipe.yaml:{line}: {message}\n"
