"""Networks that are downloaded over https."""

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

CHUNK = 1 << 20  # bytes


def download(
    workdir: Path,
    progress: Progress,
    *,
    url: str,
    sha256: str,
    shapes: dict[str, list[int | str]] | None = None,
    batch_axis: dict[str, int] | None = None,
    states: dict[str, str] | None = None,
    values: dict[str, float] | None = None,
    limit_mb: float = 2048,
    timeout_s: float = 30,
) -> ir.Model:
    """Download an ONNX file over https, check its SHA-256, and read it as `onnx` does.

    It is downloaded once; then it is in the cache. Nothing parses the file before its digest is
    that of `sha256`. Proxies are those of the environment (https_proxy, no_proxy); certificate
    authorities are the system's or those of SSL_CERT_FILE; redirects must stay with https.
    `timeout_s` applies to the connection and to each wait between bytes. The network must be in
    one file, without external data.
    """
    where = _redact(url)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise StageError(
            f"{where}: sha256 is '{sha256}'; it must be 64 hexadecimal digits, "
            "as sha256sum FILE prints them"
        )
    _check_url(url, where)
    path = workdir / "network.onnx"
    try:
        with _opener().open(url, timeout=timeout_s) as response, path.open("wb") as file:
            digest = _copy(response, file, where, limit=limit_mb * 1e6, progress=progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StageError(f"{where}: {_describe_failure(error, timeout_s)}") from error
    if digest != sha256.lower():
        raise StageError(
            f"{where}: the sha256 of the file is {digest}, not {sha256.lower()}; "
            "change the recipe to it only if you trust the file"
        )
    return read_network(
        path, where, shapes=shapes, batch_axes=batch_axis, states=states, values=values
    )


def _redact(url: str) -> str:
    """Return the URL without what may be secret: user, password and query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        without_query = url.partition("?")[0]
        without_user = re.sub("//.*@", "//", without_query)
        return f"url '{without_user}'"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _check_url(url: str, where: str) -> None:
    """Raise StageError unless the URL is one of https, with a host and without a user."""
    try:
        parts = urlsplit(url)
        # the port last: reading it raises ValueError where it is not a number
        names_host = bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError as error:
        raise StageError(f"{where}: {error}; give https://HOST/PATH") from error
    if parts.scheme == "http":
        raise StageError(
            f"{where}: http is refused, because anybody on the way can read and change the file; "
            "give an https url"
        )
    has_blanks = re.search(r"[\s\x00-\x1f]", url)
    if parts.scheme != "https" or not names_host or has_blanks:
        raise StageError(
            f"{where}: not a valid url; give https://HOST/PATH, without a user or blanks"
        )


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_url(newurl, f"{_redact(req.full_url)}: it redirects to {_redact(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    return urllib.request.build_opener(https, _HttpsRedirects)


def _copy(response: Any, file: IO[bytes], where: str, *, limit: float, progress: Progress) -> str:
    """Copy the response to the file and return its SHA-256.

    Raise StageError for more than `limit` bytes, and where the connection ends early.
    """
    announced = response.headers.get("Content-Length", "")
    total = int(announced) if announced.isdigit() else None
    is_too_long = total is not None and total > limit
    digest = hashlib.sha256()
    size = 0
    while not is_too_long:
        chunk = response.read(CHUNK)
        if not chunk:
            break
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
        progress(size, total, "bytes")
        is_too_long = size > limit
    if is_too_long:
        raise StageError(
            f"{where}: the file has more than {limit / 1e6:g} MB; raise limit_mb if that is right"
        )
    if total is not None and size < total:
        raise StageError(f"{where}: the download ended after {size} of {total} bytes; run it again")
    return digest.hexdigest()


def _describe_failure(error: Exception, timeout_s: float) -> str:
    """Return what went wrong and what to do."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server answered {error.code} {error.reason}; check the url"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return f"no data for {timeout_s:g} s; run it again, or raise timeout_s"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted: {reason.verify_message}; "
            "name your own authority in SSL_CERT_FILE"
        )
    text = " ".join(str(reason).split()) or type(reason).__name__
    return (
        f"cannot be downloaded: {text}; check the url, the network, "
        "and https_proxy if there is a proxy"
    )
