"""Networks that come over https."""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.types import Progress
from qpipe_plugins.models.onnx_file import read_network

PIECE = 1 << 20  # bytes


def download(
    workdir: Path,
    progress: Progress,
    *,
    url: str,
    sha256: str,
    shapes: dict[str, list[int]] | None = None,
    limit_mb: float = 2048,
    timeout_s: float = 30,
) -> ir.Model:
    """Fetch an ONNX file over https, check its SHA-256, and read it as `onnx` does; once, then it is in the cache.

    Nothing parses the file before its digest is that of `sha256`. Proxies are those of the environment (https_proxy,
    no_proxy), authorities the system's or those of SSL_CERT_FILE; redirects must stay with https. `timeout_s` is for
    the connection and for each wait between bytes. The network must be in one file, without external data.
    """
    where = _shown(url)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise StageError(
            f"{where}: sha256 is '{sha256}'; it has 64 hexadecimal digits: sha256sum FILE"
        )
    _check(url, where)
    file = workdir / "network.onnx"
    try:
        with _opener().open(url, timeout=timeout_s) as answer, file.open("wb") as out:
            found = _copy(answer, out, where, limit_mb * 1e6, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StageError(f"{where}: {_told(error, timeout_s)}") from error
    if found != sha256.lower():
        raise StageError(
            f"{where}: its sha256 is {found}, not {sha256.lower()}; set that one only if you trust it"
        )
    return read_network(file, shapes, where)


def _shown(url: str) -> str:
    """Without what may be secret: user, password and query."""
    try:
        parts = urlsplit(url)
        place = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return "url '" + re.sub("//.*@", "//", url.partition("?")[0]) + "'"
    return f"{parts.scheme}://{place[0]}{place[1]}{parts.path}"


def _check(url: str, where: str) -> None:
    try:
        parts = urlsplit(url)
        named = (
            parts.hostname and parts.username is None and parts.port != 0
        )  # to ask for it is to check it
    except ValueError as error:
        raise StageError(f"{where}: {error}; give https://HOST/PATH") from error
    if parts.scheme == "http":
        raise StageError(
            f"{where}: http is refused: anybody on the way can read and change it; give an https url"
        )
    if parts.scheme != "https" or not named or re.search(r"[\s\x00-\x1f]", url):
        raise StageError(
            f"{where}: is no url that is fetched; give https://HOST/PATH, without a user or blanks"
        )


class _StayWithHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check(newurl, f"{_shown(req.full_url)}: it redirects to {_shown(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    trusted = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    return urllib.request.build_opener(trusted, _StayWithHttps)


def _copy(answer: Any, out: IO[bytes], where: str, limit: float, progress: Progress) -> str:
    """The sha256 of what was copied; StageError where that is too long or cut short."""
    announced = answer.headers.get("Content-Length", "")
    total = int(announced) if announced.isdigit() else None
    sha = hashlib.sha256()
    done = 0
    while done <= limit and (total is None or total <= limit) and (piece := answer.read(PIECE)):
        out.write(piece)
        sha.update(piece)
        done += len(piece)
        progress(done, total, "bytes")
    if max(done, total or 0) > limit:
        raise StageError(f"{where}: more than {limit / 1e6:g} MB; set limit_mb if that is right")
    if total is not None and done < total:
        raise StageError(f"{where}: cut short after {done} of {total} bytes; run it again")
    return sha.hexdigest()


def _told(error: Exception, timeout: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server says {error.code} {error.reason}; check the url"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return f"nothing came for {timeout:g} s; run it again, or set timeout_s"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {reason.verify_message}; name an authority of your own in SSL_CERT_FILE"
    text = " ".join(str(reason).split()) or type(reason).__name__
    return f"cannot be fetched: {text}; check the url, the network, and https_proxy where there is a proxy"
