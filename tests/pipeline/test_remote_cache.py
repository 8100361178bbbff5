"""Results at a URL: what is made on one machine is a hit on another, and nothing half-written is taken."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scratch_lab import LabShell

from qpipe.engine.cluster_messages import describe_store
from qpipe.engine.cluster_worker import open_store
from qpipe.errors import QpipeError
from qpipe.storage import remote_files
from qpipe.storage.cache import MANIFEST, Cache
from qpipe.storage.remote_cache import RemoteCache

RESULT = ("compile", "k1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the URL leads."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    return shared


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sshd: Any) -> Path:
    """A home whose ssh_config has the host `store`, whose key is known."""
    ssh = tmp_path / "home/.ssh"
    ssh.mkdir(parents=True)
    (ssh / "config").write_text(
        f"Host store\n HostName {sshd.host}\n Port {sshd.port}\n IdentityFile {sshd.key}\n"
        f" User {sshd.user}\n",
        encoding="utf-8",
    )
    shutil.copy(sshd.known_hosts, ssh / "known_hosts")
    monkeypatch.setenv("HOME", str(ssh.parent))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return ssh.parent


@pytest.fixture(params=["file", "sftp"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "file":
        return f"file://{folder}"
    request.getfixturevalue("home")
    return f"sftp://store{folder}"


class Machine:
    """A machine's own cache in front of a URL, and what it says."""

    def __init__(self, root: Path, url: str) -> None:
        self.said: list[str] = []
        self.cache = RemoteCache(root, url)
        self.cache.notify = self.said.append

    def put(self, text: str = "value") -> None:
        with self.cache.put(*RESULT) as value:
            (value / "deep").mkdir()
            (value / "deep" / "runner.py").write_text(text, encoding="utf-8")
            (value / "b.bin").write_bytes(bytes(range(256)) * 400)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the result, with its manifest; empty where it is a miss."""
        if self.cache.get(*RESULT) is None:
            return {}
        entry = self.cache.folder(*RESULT)
        return {
            str(file.relative_to(entry)): file.read_bytes()
            for file in entry.rglob("*")
            if file.is_file()
        }


def test_what_one_machine_makes_is_a_hit_on_another_bit_for_bit(url: str, tmp_path: Path) -> None:
    one = Machine(tmp_path / "one", url)
    assert one.files == {}
    one.put()
    other = Machine(tmp_path / "other", url)
    assert other.files == one.files
    assert set(other.files) == {MANIFEST, "value/b.bin", "value/deep/runner.py"}
    assert [file.name for file in (tmp_path / "shared/compile").iterdir()] == ["k1.zip"]
    assert one.said == other.said == []
    shutil.rmtree(tmp_path / "shared")
    assert other.files == one.files


def test_a_host_whose_key_is_not_known_is_not_used(
    home: Path, folder: Path, tmp_path: Path
) -> None:
    (home / ".ssh/known_hosts").unlink()
    machine = Machine(tmp_path / "one", f"sftp://store{folder}")
    machine.put()
    assert set(machine.files) == {MANIFEST, "value/b.bin", "value/deep/runner.py"}
    assert list(folder.iterdir()) == []
    (line,) = machine.said
    assert "host key of 127.0.0.1 is not known" in line
    assert "log in to it by hand once: ssh -p " in line
    assert line.endswith("results are kept on this machine alone meanwhile")
    assert not (home / ".ssh/known_hosts").exists()


def test_a_place_that_is_gone_is_told_once_and_used_again_when_it_is_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "PAUSE_S", 0.0)
    folder.rmdir()
    machine = Machine(tmp_path / "one", f"file://{folder}")
    machine.put()
    machine.cache.remove(*RESULT)
    machine.put()
    assert machine.said == [
        f"file://{folder}: no such folder; make it; "
        "results are kept on this machine alone meanwhile"
    ]
    folder.mkdir()
    machine.cache.share(*RESULT)
    assert Machine(tmp_path / "other", f"file://{folder}").files == machine.files


def rewrite(archive: Path, change: Callable[[dict[str, bytes]], None], method: int = 0) -> None:
    with zipfile.ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    change(members)
    with zipfile.ZipFile(archive, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def change_manifest(members: dict[str, bytes], **fields: object) -> None:
    manifest = json.loads(members[MANIFEST])
    members[MANIFEST] = json.dumps({**manifest, **fields}).encode()


def writes_a_half(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])


def writes_no_archive(archive: Path) -> None:
    archive.write_bytes(b"<html>")


def changes_a_file(archive: Path) -> None:
    rewrite(archive, lambda members: members.update({"value/b.bin": b"mine"}))


def removes_a_file(archive: Path) -> None:
    rewrite(archive, lambda members: members.pop("value/b.bin"))


def removes_the_manifest(archive: Path) -> None:
    rewrite(archive, lambda members: members.pop(MANIFEST))


def is_of_another_key(archive: Path) -> None:
    rewrite(archive, lambda members: change_manifest(members, key="k2"))


def says_nothing(archive: Path) -> None:
    rewrite(archive, lambda members: members.update({MANIFEST: b'["files"]'}))


def names_a_file_outside(archive: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        files = json.loads(members[MANIFEST])["files"]
        members["value/../../../../escaped"] = members["value/b.bin"]
        change_manifest(members, files={"../../../../escaped": files["b.bin"]})

    rewrite(archive, change)


def unfolds(archive: Path) -> None:
    rewrite(archive, lambda _: None, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    "damage",
    [
        writes_a_half, writes_no_archive, changes_a_file, removes_a_file, removes_the_manifest,
        is_of_another_key, says_nothing, names_a_file_outside, unfolds,
    ],
)  # fmt: skip
def test_what_is_not_whole_is_a_miss_and_replaced(
    damage: Callable[[Path], None], folder: Path, tmp_path: Path
) -> None:
    url = f"file://{folder}"
    one = Machine(tmp_path / "one", url)
    one.put()
    damage(folder / "compile/k1.zip")
    other = Machine(tmp_path / "other", url)
    assert other.files == {}
    (line,) = other.said
    assert line.startswith(f"{url}/compile/k1.zip: not used, it is damaged: ")
    assert not list(tmp_path.rglob("escaped"))
    other.put()
    assert other.files == one.files
    assert Machine(tmp_path / "third", url).files == one.files


def test_a_result_that_is_missing_is_looked_for_again_when_another_machine_made_it(
    folder: Path, tmp_path: Path
) -> None:
    url = f"file://{folder}"
    here = Machine(tmp_path / "here", url)
    assert not here.cache.has(*RESULT)
    Machine(tmp_path / "there", url).put()
    assert not here.cache.has(*RESULT), "not asked for each time"
    here.cache.expect(*RESULT)
    assert here.cache.has(*RESULT)


def test_a_worker_of_a_cluster_gives_and_takes_by_the_url(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    with Cache(tmp_path / "here").put("import", "a") as value:  # before it was shared
        (value / "network").write_text("float", encoding="utf-8")
    here = RemoteCache(tmp_path / "here", f"file://{folder}")
    here.share("import", "a")
    there = open_store(describe_store(here), seen=str(tmp_path / "not seen"))
    assert there.root.is_relative_to(tmp_path / "there")
    assert there.has("import", "a")
    with there.put("quantize", "b") as value:
        (value / "network").write_text("int8", encoding="utf-8")
    assert here.has("quantize", "b")


def test_a_library_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QpipeError, match=r"^nowhere://x: Protocol not known: nowhere; install"):
        RemoteCache(tmp_path / "one", "nowhere://x")


def test_a_folder_in_which_everybody_may_write_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.chmod(0o777)
    reason = "everybody may write there, and a build brings the program that runs it"
    with pytest.raises(QpipeError) as error:
        RemoteCache(tmp_path / "one", f"file://{folder}")
    assert str(error.value) == f"file://{folder}: {reason}; chmod o-w {folder}"


# ---- in a recipe


@pytest.fixture
def lab_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    return LabShell(tmp_path, monkeypatch, capsys)


def test_a_run_uses_what_a_run_elsewhere_made(lab_shell: LabShell, folder: Path) -> None:
    recipe = Path("recipe.yaml")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(f"{text}\ncache: {{url: 'file://{folder}'}}\n", encoding="utf-8")
    first, _ = lab_shell("run recipe.yaml")
    assert ", 0 of " in first
    again, _ = lab_shell("run recipe.yaml --cache elsewhere --db elsewhere.db")
    shared = [file for file in folder.rglob("*.zip") if file.parent.name != ".new"]
    assert len(shared) > 3
    assert f", {len(shared)} of " in again
    shutil.rmtree(folder)
    _, told = lab_shell("run recipe.yaml --new --cache third")
    assert told.count("results are kept on this machine alone meanwhile") == 1


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (
            "{url: ./folder}",
            "'./folder' is no URL; give one such as s3://BUCKET/FOLDER or sftp://HOST/FOLDER",
        ),
        (
            "{url: 'sftp://me:secret@host/x'}",
            "'sftp://me:...@host/x' holds a password, which would be stored with each run; "
            "use a key or an agent",
        ),
        (
            "{url: 5}",
            "cache is {'url': 5}; give {shared: FOLDER, users: [NAME]}, or {url: URL}",
        ),
    ],
)
def test_a_url_that_is_written_wrongly_is_one_line(
    cache: str, message: str, lab_shell: LabShell
) -> None:
    recipe = Path("recipe.yaml")
    text = recipe.read_text(encoding="utf-8").rstrip()
    recipe.write_text(f"{text}\ncache: {cache}\n", encoding="utf-8")
    line = text.count("\n") + 2
    _, err = lab_shell("plan recipe.yaml", status=2)
    assert err == f"qpipe: recipe.yaml:{line}: {message}\n"
