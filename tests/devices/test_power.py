"""Ways to switch a device's power: commands, a socket on the network; and a board that dies in a run and comes back."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socket import create_server

import pytest

from qpipe.errors import DeviceError, PluginError, RecipeError
from qpipe.recipe import inventory
from qpipe.stages import registry
from qpipe.types import Power

TRY = "try it with: qpipe devices power rpi"


def power(text: str, folder: Path) -> Power:
    """What an inventory with this power gives."""
    file = folder / "devices.yaml"
    file.write_text(f"rpi: {{'null': {{}}, power: {text}}}\n", encoding="utf-8")
    found = inventory.open_power("rpi", inventory.load(file, registry.load())["rpi"])
    assert found
    return found


def test_a_command_is_run_by_the_shell(tmp_path: Path) -> None:
    switch = power(
        f"{{command: {{off: 'echo off >> {tmp_path}/said', on: 'echo on >> {tmp_path}/said'}}}}",
        tmp_path,
    )
    switch.off()
    switch.on()
    assert (tmp_path / "said").read_text(encoding="utf-8") == "off\non\n"
    assert switch.boot_s == 180


@pytest.mark.parametrize(
    ("line", "timeout_s", "reason"),
    [
        ("echo no relay >&2; exit 3", 60, "ended with status 3: no relay"),
        ("false", 60, "ended with status 1: no output"),
        ("sleep 600", 0.3, "did not end within 0.3 s"),
    ],
)
def test_a_command_that_fails_is_told(
    line: str, timeout_s: float, reason: str, tmp_path: Path
) -> None:
    switch = power(f"{{command: {{off: '{line}', on: 'true', timeout_s: {timeout_s}}}}}", tmp_path)
    with pytest.raises(DeviceError) as error:
        switch.off()
    assert str(error.value) == f"rpi: power 'off' {reason}; {TRY} off"


def test_a_command_may_leave_something_running(tmp_path: Path) -> None:
    line = f"sleep 600 & echo $! > {tmp_path}/pid"
    power(f"{{command: {{off: '{line}', on: 'true'}}}}", tmp_path).off()
    os.kill(int((tmp_path / "pid").read_text(encoding="utf-8")), signal.SIGKILL)  # which still runs


BASIC = "Basic " + base64.b64encode(b"lab:secret").decode()


class Relay(BaseHTTPRequestHandler):
    """A power socket that lets in who has the password."""

    asked: list[str]
    given: list[str]  # the kinds of login it was offered
    digest: str | None = None

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        given = self.headers["Authorization"] or ""
        type(self).given.append(given.partition(" ")[0])
        lets_in = self.is_digest(given) if self.digest else given == BASIC
        self.send_response(200 if lets_in else 401)
        if not lets_in:
            digest = f'Digest qop="auth", realm="relay", nonce="60dc2c99", algorithm={self.digest}'
            self.send_header("WWW-Authenticate", digest if self.digest else 'Basic realm="relay"')
        self.end_headers()
        self.wfile.write(b'{"was_on":true}')

    def is_digest(self, given: str) -> bool:
        """As RFC 7616 has it."""
        said = urllib.request.parse_keqv_list(
            urllib.request.parse_http_list(given.removeprefix("Digest "))
        )
        kind = {"SHA-256": "sha256", "MD5": "md5"}[str(self.digest)]

        def digest(*parts: str) -> str:
            return hashlib.new(kind, ":".join(parts).encode()).hexdigest()

        secret, asked = digest("lab", "relay", "secret"), digest("GET", self.path)
        parts = [said.get(name, "") for name in ("nonce", "nc", "cnonce", "qop")]
        return said.get("response") == digest(secret, *parts, asked)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def relay() -> Iterator[HTTPServer]:
    Relay.asked, Relay.given, Relay.digest = [], [], None
    server = HTTPServer(("127.0.0.1", 0), Relay)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def socket(port: int, password: str = "secret") -> str:
    at = f"http://127.0.0.1:{port}/rpc/Switch.Set?id=0&on"
    return f"{{http: {{off: '{at}=false', on: '{at}=true', user: lab, password: '{password}'}}}}"


def test_a_socket_is_switched_by_http(
    relay: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_PASSWORD", "secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    switch = power(socket(relay.server_port, "${env:RELAY_PASSWORD}"), tmp_path)
    switch.off()
    switch.on()
    assert [*dict.fromkeys(Relay.asked)] == [
        "/rpc/Switch.Set?id=0&on=false",
        "/rpc/Switch.Set?id=0&on=true",
    ]
    assert Relay.given == ["", "Basic", "", "Basic"], "nothing is told before it asks"


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_a_socket_that_asks_by_digest_never_gets_the_password(
    algorithm: str, relay: HTTPServer, tmp_path: Path
) -> None:
    Relay.digest = algorithm
    power(socket(relay.server_port), tmp_path).off()
    assert Relay.given == ["", "Digest"]
    with pytest.raises(
        DeviceError, match=r"^rpi: power 'off' by 127\.0\.0\.1 was answered with 401 "
    ):
        power(socket(relay.server_port, "wrong"), tmp_path).off()


@pytest.mark.parametrize(
    "address", ["http://lab:secret@10.0.0.5/off", "http://[::1/off", "ftp://10.0.0.5/", "10.0.0.5"]
)
def test_an_address_that_is_none_is_told_without_what_is_secret_in_it(
    address: str, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError) as error:
        power(f"{{http: {{off: '{address}', on: '{address}'}}}}", tmp_path).off()
    fix = "give http://HOST/..., with user and password as options"
    assert str(error.value) == f"rpi: power 'off' is not an HTTP address; {fix}; {TRY} off"


def test_a_socket_that_speaks_no_http_is_told(tmp_path: Path) -> None:
    with create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(
            DeviceError, match=r"^rpi: power 'on' by 127\.0\.0\.1 failed: what\?; try it with"
        ):
            power(socket(server.getsockname()[1]), tmp_path).on()
        thread.join()


def test_a_socket_that_refuses_is_told_without_its_address(
    relay: HTTPServer, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError) as error:
        power(socket(relay.server_port, "wrong"), tmp_path).on()
    assert (
        str(error.value)
        == f"rpi: power 'on' by 127.0.0.1 was answered with 401 Unauthorized; {TRY} on"
    )


def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"^rpi: power 'on' by 127\.0\.0\.1 failed: .*refused; try it with"
    ):
        power(socket(9), tmp_path).on()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("comand", PluginError, "no plugin offers power 'comand'; did you mean 'command'?"),
        ("socket", PluginError, "power 'socket' is now named 'http'"),
        ("{command: {off: x}}", RecipeError, "power command: option 'on' is missing; give text"),
        (
            "{command: {off: x, on: y, of: z}}",
            RecipeError,
            "power command: unknown option 'of'; it takes off, on",
        ),
        ("7", RecipeError, "7 names no power; write name, or {name: {option: value}}"),
    ],
)
def test_what_the_inventory_says_of_power_is_checked(
    text: str, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=r"devices\.yaml:1: ") as error:
        power(text, tmp_path)
    assert message in str(error.value)
