"""A private sshd for tests: where it is, and a configuration that lets one user in by one key."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
CONFIG = """
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
MaxStartups 100
SetEnv {environment}
Subsystem sftp internal-sftp
"""


def config(
    folder: Path, port: int, environment: str = "SHLVL=2", address: str = "127.0.0.1"
) -> str:
    """Of the keys that lie in a folder. SHLVL: with it bash leaves this user's ~/.bashrc alone."""
    return CONFIG.format(port=port, folder=folder, environment=environment, address=address)
