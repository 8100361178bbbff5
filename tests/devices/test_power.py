"""Ways to switch a device's power: commands, a socket on the network; and a board that dies in a run and comes back."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from qpipe import inventory, registry
from qpipe.errors import DeviceError, PluginError, RecipeError
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
    switch = power(f"{{command: {{off: 'echo off >> {tmp_path}/said', on: 'echo on >> {tmp_path}/said'}}}}", tmp_path)
    switch.off()
    switch.on()
    assert (tmp_path / "said").read_text(encoding="utf-8") == "off\non\n"
    assert switch.boot_s == 180


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo no relay >&2; exit 3", "ended with status 3: no relay"),
        ("false", "ended with status 1: it said nothing"),
        ("sleep 60", "did not end within 0.3 s"),
    ],
)
def test_a_command_that_fails_is_told(line: str, reason: str, tmp_path: Path) -> None:
    switch = power(f"{{command: {{off: '{line}', on: 'true', timeout_s: 0.3}}}}", tmp_path)
    with pytest.raises(DeviceError) as error:
        switch.off()
    assert str(error.value) == f"rpi: power 'off' {reason}; {TRY} off"


def test_a_command_may_leave_something_running(tmp_path: Path) -> None:
    began = time.monotonic()
    power("{command: {off: 'sleep 3 &', on: 'true'}}", tmp_path).off()
    assert time.monotonic() - began < 2.5


class Relay(BaseHTTPRequestHandler):
    """A power socket that lets in who has the password."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        wanted = "Basic " + base64.b64encode(b"lab:secret").decode()
        self.send_response(200 if self.headers["Authorization"] == wanted else 401)
        self.end_headers()
        self.wfile.write(b'{"was_on":true}')

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def relay() -> Iterator[HTTPServer]:
    Relay.asked = []
    server = HTTPServer(("127.0.0.1", 0), Relay)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def socket(port: int, password: str = "secret") -> str:
    at = f"http://127.0.0.1:{port}/rpc/Switch.Set?id=0&on"
    return f"{{socket: {{off: '{at}=false', on: '{at}=true', user: lab, password: '{password}'}}}}"


def test_a_socket_is_switched_by_http(relay: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PASSWORD", "secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    switch = power(socket(relay.server_port, "${env:RELAY_PASSWORD}"), tmp_path)
    switch.off()
    switch.on()
    assert Relay.asked == ["/rpc/Switch.Set?id=0&on=false", "/rpc/Switch.Set?id=0&on=true"]


def test_a_socket_that_refuses_is_told_without_its_address(relay: HTTPServer, tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as error:
        power(socket(relay.server_port, "wrong"), tmp_path).on()
    assert str(error.value) == f"rpi: power 'on' by 127.0.0.1 was answered with 401 Unauthorized; {TRY} on"


def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"^rpi: power 'on' by 127\.0\.0\.1 failed: .*refused; try it with"):
        power(socket(9), tmp_path).on()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("comand", PluginError, "no plugin offers power 'comand'; did you mean 'command'?"),
        ("{command: {off: x}}", RecipeError, "power command: option 'on' is missing; give text"),
        ("{command: {off: x, on: y, of: z}}", RecipeError, "power command: unknown option 'of'; it takes off, on"),
        ("7", RecipeError, "7 names no power; write name, or {name: {option: value}}"),
    ],
)
def test_what_the_inventory_says_of_power_is_checked(
    text: str, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=r"devices\.yaml:1: ") as error:
        power(text, tmp_path)
    assert message in str(error.value)
