"""Builds a virtual ARM64 board from Debian packages: its disk, its kernel and what starts it. Three minutes, once.

Nothing is downloaded but Debian's own packages. There is no systemd on the board and no numpy: python3 and an sshd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INCLUDED = "openssh-server,python3,iproute2,procps,kmod,busybox-static"
TOOLS = {  # of Debian's packages, what is called
    "debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static", "mke2fs": "e2fsprogs", "cpio": "cpio",
    "depmod": "kmod", "dpkg-deb": "dpkg", "ssh-keygen": "openssh-client",
}  # fmt: skip
# of the kernel's modules only those that a board for tests wants; netem among them
MODULES = (
    "drivers/virtio", "drivers/block", "drivers/net", "drivers/char/hw_random", "fs/ext4", "fs/jbd2", "fs/mbcache.ko",
    "net/sched", "net/core", "lib", "crypto", "arch",
)  # fmt: skip
UNWANTED = ("drivers/net/ethernet", "drivers/net/wireless")
NEEDED_TO_START = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c_generic")
BINFMT = Path("/proc/sys/fs/binfmt_misc")

SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
"""
INIT = """\
#!/bin/sh
# process 1 of the board: straight to sshd
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /run/sshd; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp; chmod 1777 /tmp
hostname board
modprobe virtio_net 2>/dev/null
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
/usr/sbin/sshd
exec busybox init
"""
INITTAB = "::ctrlaltdel:/bin/busybox poweroff -f\n::respawn:/bin/sleep 86400\n"
# the initial RAM disk: loads what the disk needs, mounts it, becomes it
FIRST_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sys /sys; /bin/busybox mount -t devtmpfs dev /dev
while read module; do /bin/busybox insmod /lib/modules/$module; done < /modules
n=0; while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do /bin/busybox sleep 0.1; n=$((n+1)); done
/bin/busybox mount -t ext4 /dev/vda /mnt || exec /bin/busybox sh
/bin/busybox umount /proc /sys /dev
exec /bin/busybox switch_root /mnt /sbin/board-init
"""


class BoardError(Exception):
    """One line: what is wrong, and what would be right."""


def build(folder: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """A folder with disk.img, vmlinuz, initrd.gz, id_ed25519 and host_key.pub; BoardError otherwise."""
    check_tools(TOOLS)
    if os.getuid() != 0:
        raise BoardError(
            f"{folder}: a board is built by root (it takes chroot and binfmt_misc); run: sudo -E {_SELF}"
        )
    if not KEYRING.exists():
        raise BoardError(f"{KEYRING} is missing; run: apt-get install debian-archive-keyring")
    final, folder = folder, folder.with_name(f"{folder.name}.building")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root, began = folder / "root", time.monotonic()
    _run_arm64_programs()
    _install(root, folder)
    say(f"packages installed after {time.monotonic() - began:.0f} s")
    version = _take_kernel(root, folder)
    _configure(root, folder)
    _make_initrd(root, folder, version)
    _quiet(
        ["mke2fs", "-q", "-t", "ext4", "-L", "board", "-d", root, folder / "disk.img", "2G"], folder
    )
    shutil.rmtree(root)
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    say(f"built in {time.monotonic() - began:.0f} s: {final}")
    return final


_SELF = "python tests/board/board.py build"


def check_tools(tools: dict[str, str]) -> None:
    """BoardError that says what to install for those that are not there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted(
        {package for tool, package in tools.items() if shutil.which(tool, path=path) is None}
    )
    if missing:
        raise BoardError(f"missing: {', '.join(missing)}; run: apt-get install {' '.join(missing)}")


def _run_arm64_programs() -> None:
    """Let the kernel start ARM64 programs by QEMU."""
    if not (BINFMT / "register").exists():
        _quiet(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT])
    if not (BINFMT / "qemu-aarch64").exists():
        rule = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
        if not rule.exists():
            raise BoardError(f"{rule} is missing; run: apt-get install qemu-user-static")
        (BINFMT / "register").write_bytes(rule.read_bytes().strip())


def _install(root: Path, folder: Path) -> None:
    mirror = os.environ.get("QPIPE_BOARD_MIRROR", MIRROR)
    cache = folder.parent / "packages"  # of an earlier try
    cache.mkdir(exist_ok=True)
    _quiet([
        "debootstrap", "--arch=arm64", "--variant=minbase", f"--cache-dir={cache}", f"--include={INCLUDED}",
        f"--keyring={KEYRING}", SUITE, root, mirror,
    ], folder)  # fmt: skip


def _take_kernel(root: Path, folder: Path) -> str:
    """Debian's kernel, unpacked by hand: vmlinuz in the folder, the modules wanted on the board; its version."""
    depends = _quiet(["chroot", root, "apt-cache", "depends", "linux-image-arm64"], folder)
    package = next(
        line.split()[1] for line in depends.splitlines() if "Depends: linux-image" in line
    )
    version = package.removeprefix("linux-image-")
    _quiet(["chroot", root, "sh", "-c", f"cd /root && apt-get -q download {package}"], folder)
    (archive,) = (root / "root").glob("linux-image-*.deb")
    _quiet(["dpkg-deb", "-x", archive, folder / "kernel"], folder)
    archive.unlink()
    shutil.copyfile(folder / "kernel/boot" / f"vmlinuz-{version}", folder / "vmlinuz")
    source, target = (place / "lib/modules" / version for place in (folder / "kernel", root))
    for name in MODULES:
        place = source / "kernel" / name
        if place.is_dir():
            shutil.copytree(place, target / "kernel" / name, symlinks=True)
        elif place.exists():
            (target / "kernel" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place, target / "kernel" / name)
    for name in UNWANTED:
        shutil.rmtree(target / "kernel" / name, ignore_errors=True)
    for path in source.glob("modules.*"):
        shutil.copyfile(path, target / path.name)
    _quiet(["depmod", "-b", root, version], folder)
    shutil.rmtree(folder / "kernel")
    return version


def _configure(root: Path, folder: Path) -> None:
    """Keys, a user `edge`, an sshd and what starts it."""
    for name in ("id_ed25519", "host_key"):
        _quiet(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "board", "-f", folder / name],
            folder,
        )
    _quiet(["chroot", root, "useradd", "-m", "-s", "/bin/bash", "-p", "*", "edge"], folder)
    for home in ("root", "home/edge"):
        keys = root / home / ".ssh"
        keys.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(folder / "id_ed25519.pub", keys / "authorized_keys")
    _quiet(["chroot", root, "chown", "-R", "edge:edge", "/home/edge"], folder)
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    shutil.move(folder / "host_key", root / "etc/ssh/ssh_host_ed25519_key")
    files = {
        "etc/hostname": "board\n", "etc/hosts": "127.0.0.1 localhost board\n", "etc/ssh/sshd_config": SSHD_CONFIG,
        "sbin/board-init": INIT, "etc/inittab": INITTAB,
    }  # fmt: skip
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    (root / "sbin/board-init").chmod(0o755)
    for pattern in (
        "var/cache/apt/archives/*.deb",
        "var/lib/apt/lists/*",
        "usr/share/doc/*",
        "usr/share/locale/*",
    ):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _make_initrd(root: Path, folder: Path, version: str) -> None:
    """A busybox and the modules, in the order they are loaded in."""
    tree = folder / "initrd"
    for name in ("bin", "proc", "sys", "dev", "mnt", "lib/modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    ordered: dict[str, None] = {}
    for wanted in NEEDED_TO_START:
        asked = ["modprobe", "-d", root, "-S", version, "--show-depends", wanted]
        for line in _quiet(asked, folder).splitlines():
            word, _, path = line.partition(" ")
            if word == "insmod":
                shutil.copy(path.strip(), tree / "lib/modules")
                ordered[Path(path.strip()).name] = None
    last = [name for name in ordered if name.startswith("ext4")]  # it asks for crc32c by name
    names = [*(name for name in ordered if name not in last), *last]
    (tree / "modules").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    (tree / "init").write_text(FIRST_INIT, encoding="utf-8")
    (tree / "init").chmod(0o755)
    pack = 'cd "$1" && find . | cpio -o -H newc --quiet | gzip -1 > "$2"'
    _quiet(["sh", "-c", pack, "sh", tree, folder / "initrd.gz"], folder)
    shutil.rmtree(tree)


def _quiet(argv: list[str | Path], folder: Path | None = None) -> str:
    """What a program printed; BoardError with its last line, and the log where there is one."""
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    done = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", env=environment, check=False
    )
    log = folder / "log" if folder else None
    if log:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(map(str, argv))}\n{done.stdout}{done.stderr}")
    if done.returncode:
        last = ((done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"])[
            -1
        ]
        raise BoardError(f"{argv[0]}: {last}" + (f"; see {log}" if log else ""))
    return done.stdout
