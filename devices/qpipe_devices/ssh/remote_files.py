"""Files over SFTP as fsspec offers them, on hosts whose key is known."""

from __future__ import annotations

import weakref

from fsspec.implementations.sftp import SFTPFileSystem
from paramiko import SFTPClient

from qpipe_devices.ssh.connection import Connection
from qpipe_devices.ssh.error_mapping import mapped_config_errors
from qpipe_devices.ssh.login import resolve_login

SILENCE_S = 30.0  # of the host, until the connection counts as dead


class CheckedSftpFiles(SFTPFileSystem):
    """fsspec's files over SFTP, which takes any host key, by the connection of boards.

    Logs in as ssh would: by ssh_config, known_hosts, keys and agents. Raise DeviceError where a
    key is not known.
    """

    protocol = "qpipe-sftp"

    def _connect(self) -> None:
        user = self.ssh_kwargs.get("username")
        port = self.ssh_kwargs.get("port")
        with mapped_config_errors(self.host):
            login = resolve_login(self.host, user=user, port=port)
        connection = Connection(self.host, login, SILENCE_S, is_device=False)
        transport = connection.open()
        weakref.finalize(self, connection.close)
        channel = transport.open_session(timeout=login.timeout)
        channel.invoke_subsystem("sftp")
        channel.settimeout(SILENCE_S)
        self.ftp = SFTPClient(channel)
