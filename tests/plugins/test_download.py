"""The download stage, against a real https server with a certificate of an authority of our own."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from qpipe.errors import StageError
from qpipe_plugins.models.download import download
from qpipe_plugins.models.onnx_file import onnx_file

NET = onnx.parser.parse_model(
    """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> { z = Identity (x) y = Mul (z, w) }
"""
).SerializeToString()
DIGEST = hashlib.sha256(NET).hexdigest()
NAMES = "DNS:localhost,IP:127.0.0.1,DNS:models.example"

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl is installed, to sign certificates"
)


@dataclass
class Site:
    """An https server: what it answers to a path, and what it was asked."""

    port: int
    authority: Path
    answers: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[str] = field(default_factory=list)

    def url(self, path: str = "/net.onnx", host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"


def certify(folder: Path) -> tuple[Path, Path, Path]:
    """An authority's certificate; a key and a certificate for this machine, signed by it."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *new,
        "-x509",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=an authority",
        "-days",
        "2",
    )
    openssl(*new, "-keyout", "site.key", "-out", "site.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text(f"subjectAltName={NAMES}\n", encoding="utf-8")
    sign = (
        "x509",
        "-req",
        "-in",
        "site.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
    )
    openssl(*sign, "-extfile", "names", "-out", "site.pem")
    return folder / "ca.pem", folder / "site.pem", folder / "site.key"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    authority, certificate, key = certify(tmp_path_factory.mktemp("certificates"))
    site = Site(0, authority, {})

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            if self.path == "/slow.onnx":
                done.wait(20)
                return
            status, headers, body = site.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    done = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who does not trust it hangs up
    server.socket = context.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield site
    done.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def site(served: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The server as everybody on this machine trusts it, with one good network; and no proxy."""
    served.answers.clear()
    served.asked.clear()
    served.answers["/net.onnx"] = (200, {}, NET)
    monkeypatch.setenv("SSL_CERT_FILE", str(served.authority))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    return served


def fetch(folder: Path, url: str, **options: Any) -> ir.Model:
    return download(
        folder, lambda *_: None, url=url, **{"sha256": DIGEST, "timeout_s": 5, **options}
    )


def test_the_network_is_that_which_the_file_would_give(site: Site, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(NET)
    expected = onnx_file(path=tmp_path / "net.onnx")
    assert ir.to_proto(fetch(tmp_path, site.url())) == ir.to_proto(expected)
    assert [node.op_type for node in expected.graph] == ["Mul"]


def test_the_digest_may_be_written_large_and_a_size_be_missing(site: Site, tmp_path: Path) -> None:
    site.answers["/net.onnx"] = (200, {"Content-Length": ""}, NET)
    assert len(fetch(tmp_path, site.url(), sha256=DIGEST.upper(), shapes={"x": [1, 4]}).graph) == 1


def test_a_redirect_to_https_is_followed(site: Site, tmp_path: Path) -> None:
    site.answers["/old"] = (302, {"Location": site.url(host="127.0.0.1")}, b"")
    fetch(tmp_path, site.url("/old"))
    assert site.asked == ["/old", "/net.onnx"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "http://localhost/net.onnx",
            "it redirects to http://localhost/net.onnx: http is refused, because anybody on the way",
        ),
        ("file:///etc/hostname", "Redirection to url 'file:///etc/hostname' is not allowed"),
        (
            "ftp://localhost/net.onnx",
            "it redirects to ftp://localhost/net.onnx: not a valid url; give https",
        ),
    ],
)
def test_a_redirect_to_anything_else_is_refused(
    site: Site, tmp_path: Path, target: str, message: str
) -> None:
    site.answers["/old"] = (302, {"Location": target}, b"")
    with pytest.raises(StageError, match=re.escape(message)):
        fetch(tmp_path, site.url("/old"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "http://localhost/a.onnx",
            "http://localhost/a.onnx: http is refused, because anybody on the way can read and change",
        ),
        (
            "file:///etc/hostname",
            "file:///etc/hostname: not a valid url; give https://HOST/PATH, without a",
        ),
        (
            "ftp://localhost/a",
            "ftp://localhost/a: not a valid url; give https://HOST/PATH, without a user or",
        ),
        (
            "https://me:secret@localhost/a",
            "https://localhost/a: not a valid url; give https://HOST/PATH, wi",
        ),
        ("https:///a.onnx", "https:///a.onnx: not a valid url; give https://HOST/PATH"),
        (
            "https://localhost/a b",
            "https://localhost/a b: not a valid url; give https://HOST/PATH",
        ),
        (
            "https://me:secret@localhost:none/a",
            "url 'https://localhost:none/a': not a valid url",
        ),
        (
            "https://localhost:none/a",
            "url 'https://localhost:none/a': Port could not be cast to integer value",
        ),
    ],
)
def test_other_urls_are_refused_with_the_reason(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(StageError, match=re.escape(message)) as caught:
        fetch(tmp_path, url)
    assert "secret" not in str(caught.value)


def test_another_digest_is_told_and_nothing_is_parsed(site: Site, tmp_path: Path) -> None:
    site.answers["/net.onnx"] = (200, {}, b"no network at all")
    found = hashlib.sha256(b"no network at all").hexdigest()
    message = f"{site.url()}: the sha256 of the file is {found}, not {DIGEST}; change the recipe to it only if you trust the file"
    with pytest.raises(StageError, match=re.escape(message)):
        fetch(tmp_path, site.url())


def test_what_is_no_network_is_refused_as_from_a_file(site: Site, tmp_path: Path) -> None:
    site.answers["/net.onnx"] = (200, {}, b"no network at all")
    message = f"{site.url()}: not an ONNX file, or "
    with pytest.raises(StageError, match=re.escape(message)):
        fetch(tmp_path, site.url(), sha256=hashlib.sha256(b"no network at all").hexdigest())


@pytest.mark.parametrize("given", ["", "abc", DIGEST + "0", "sha256:" + DIGEST[7:]])
def test_a_digest_that_is_none_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(
        StageError,
        match=re.escape(f"sha256 is '{given}'; it must be 64 hexadecimal digits, as sha256sum"),
    ):
        fetch(tmp_path, "https://localhost/net.onnx", sha256=given)


def test_a_missing_file_is_told_without_what_may_be_secret(site: Site, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        fetch(tmp_path, site.url("/none.onnx?token=hidden"))
    assert (
        str(caught.value)
        == f"{site.url('/none.onnx')}: the server answered 404 Not Found; check the url"
    )


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Length": ""}], ids=["announced", "not announced"]
)
def test_what_is_too_large_is_not_read_to_its_end(
    site: Site, tmp_path: Path, headers: dict[str, str]
) -> None:
    site.answers["/net.onnx"] = (200, headers, bytes(5_000_000))
    message = f"{site.url()}: the file has more than 2 MB; raise limit_mb if that is right"
    with pytest.raises(StageError, match=re.escape(message)):
        fetch(tmp_path, site.url(), limit_mb=2)
    assert (tmp_path / "network.onnx").stat().st_size <= 4_000_000


def test_what_is_cut_short_is_told(site: Site, tmp_path: Path) -> None:
    site.answers["/net.onnx"] = (200, {"Content-Length": "1000"}, NET)
    message = f"{site.url()}: the download ended after {len(NET)} of 1000 bytes; run it again"
    with pytest.raises(StageError, match=re.escape(message)):
        fetch(tmp_path, site.url())


def test_a_server_that_says_nothing_is_given_up(site: Site, tmp_path: Path) -> None:
    message = f"{site.url('/slow.onnx')}: no data for 0.5 s; run it again, or raise timeout_s"
    with pytest.raises(StageError, match=re.escape(message)):
        fetch(tmp_path, site.url("/slow.onnx"), timeout_s=0.5)


def test_a_server_that_is_not_there_is_told(site: Site, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = f"https://127.0.0.1:{port}/a: cannot be downloaded: [Errno 111] Connection refused; check the url, the net"
    with pytest.raises(StageError, match=re.escape(message).replace("111", r"\d+")):
        fetch(tmp_path, f"https://127.0.0.1:{port}/a")


def test_a_host_that_is_not_known_is_told(site: Site, tmp_path: Path) -> None:
    with pytest.raises(
        StageError,
        match=r"https://no.such.invalid/a: cannot be downloaded: .*; check the url, the network",
    ):
        fetch(tmp_path, "https://no.such.invalid/a")


def test_a_certificate_that_nobody_vouches_for_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    message = r"the server's certificate is not trusted: .*certificate; name your own authority in SSL_CERT_FILE"
    with pytest.raises(StageError, match=message):
        fetch(tmp_path, site.url())
    assert site.asked == []


# ---- behind a proxy


@dataclass
class Proxy:
    """Connects whoever asks to the site, and remembers where they wanted to go."""

    port: int
    wanted: list[str] = field(default_factory=list)


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    listener = socket.create_server(("127.0.0.1", 0))
    made = Proxy(listener.getsockname()[1])

    def serve() -> None:
        with (
            listener.accept()[0] as client,
            socket.create_connection(("127.0.0.1", site.port)) as server,
        ):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1000)
            made.wanted.append(head.split(b"\r\n")[0].decode())
            client.sendall(b"HTTP/1.0 200 Connection established\r\n\r\n")
            while True:
                for ready in select.select([client, server], [], [], 10)[0]:
                    piece = ready.recv(65536)
                    if not piece:
                        return
                    (server if ready is client else client).sendall(piece)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield made
    if made.wanted:
        thread.join(10)
    listener.close()


def test_the_proxy_of_the_environment_is_used(
    site: Site, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    fetch(tmp_path, "https://models.example/net.onnx")
    assert [line.split()[:2] for line in proxy.wanted] == [["CONNECT", "models.example:443"]]


# ---- in a run


def test_a_second_run_needs_no_network(site: Site, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.zeros((1, 4), np.float32))
    np.savez(tmp_path / "many.npz", x=np.ones((2, 4), np.float32))
    recipe = f"""
name: fetched
samples: {{npz: {{calibration: few.npz, evaluation: many.npz}}}}
models: {{net: {{download: {{url: "{site.url()}", sha256: {DIGEST}}}}}}}
schemes: {{float32: []}}
builds: {{ort: onnxruntime}}
deploy: copy
measure: [size]
devices: [paper]
pareto: {{size_mb: min}}
"""
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "devices.yaml").write_text("paper: 'null'\n", encoding="utf-8")
    command = [Path(sys.executable).with_name("qpipe"), "run", "recipe.yaml", "--new"]
    for _ in range(2):
        ended = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        site.answers.clear()
    assert site.asked == ["/net.onnx"]
