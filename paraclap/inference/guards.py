"""Isolation of the web page from other machines and sites; importable without gradio."""

import errno
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from paraclap.errors import ParaCLAPError
from paraclap.files import OutputError, make_folder
from paraclap.locks import lock

FOLDER = "paraclap-page-"
"""First part of the names of the page's temporary folders."""


class ServerError(ParaCLAPError, OSError):
    """The page cannot be served at this address."""


def check_address(host: str, port: int) -> None:
    """Check that the page can be served at an address.

    Raises:
        ServerError: if it is in use, or not of this machine.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "another program uses it, choose another --port" if in_use else error.strerror
        raise ServerError(f"{host}:{port} cannot be used: {reason}") from error


@contextmanager
def page_folder() -> Iterator[Path]:
    """Yield a new temporary folder, which is removed at the end, or by the next call after a kill.

    Raises:
        OutputError: if it cannot be written.
    """
    temporary = Path(tempfile.gettempdir())
    for folder in temporary.glob(f"{FOLDER}*"):
        if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            _remove_abandoned(folder)
    folder = temporary / f"{FOLDER}{uuid.uuid4().hex}"
    with lock(_owner(folder)):
        make_folder(folder).chmod(0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _owner(folder: Path) -> Path:
    """Return the path whose lock the process of a folder holds from before it exists."""
    return folder.with_name(f"{folder.name}.process")


def _remove_abandoned(folder: Path) -> None:
    """Remove a temporary folder whose process has ended."""
    try:
        with lock(_owner(folder)):
            shutil.rmtree(folder, ignore_errors=True)
    except OutputError:
        return  # its process still runs


def prepare_environment(uploads: Path) -> None:
    """Set the environment variables of gradio: no analytics, uploads in a separate folder.

    All other GRADIO_* variables (GRADIO_SHARE, GRADIO_ALLOWED_PATHS, ...) are removed.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)


def block_connections(host: str) -> None:
    """Block connections of this process to other machines, irrevocably, with an audit hook.

    Telemetry is not the only reason: gradio fetches URLs that are sent in place of an upload.
    """
    sys.addaudithook(lambda event, arguments: check_connection(event, arguments, host))


def check_connection(event: str, arguments: tuple, host: str) -> None:
    """Check an audit event.

    Raises:
        PermissionError: if it is a connection to, or a lookup of, another machine.
    """
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        other = address[0] if isinstance(address, tuple) else None  # else a local socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        other = arguments[0]
    else:
        return
    if other and not is_local(other, host):
        raise PermissionError(f"connection to {other!r} blocked: the page only serves this machine")


def is_local(name: str | bytes, host: str) -> bool:
    """Whether a name or address is loopback or the one that the page is bound to."""
    name = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if name in (host, "localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class RequestGuard:
    """ASGI middleware that refuses requests of other sites, and uploads beyond a total size.

    Args:
        application: ASGI application of the page.
        uploads: folder of the uploads.
        total: size that the folder may reach [bytes].
    """

    def __init__(self, application: Any, uploads: Path, total: int) -> None:
        self.application, self.uploads, self.total = application, uploads, total
        self._receiving = 0  # bytes of uploads in progress

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Answer a request."""
        headers = dict(scope.get("headers", ()))
        if is_foreign(headers):
            await _refuse(scope, send, 403, "requests of other sites are refused")
        elif scope["type"] == "http" and scope["path"].endswith("/upload"):
            await self._upload(headers, scope, receive, send)
        else:
            await self.application(scope, receive, send)

    async def _upload(self, headers: dict, scope: dict, receive: Any, send: Any) -> None:
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            await _refuse(scope, send, 411, "an upload must state its length")
            return
        size = int(length)
        if _folder_size(self.uploads) + self._receiving + size > self.total:
            await _refuse(scope, send, 413, "too many recordings are stored, try again later")
            return
        self._receiving += size
        try:
            await self.application(scope, receive, send)
        finally:
            self._receiving -= size


def is_foreign(headers: dict[bytes, bytes]) -> bool:
    """Return whether a request was sent by a page of another site (RFC 6454, section 7)."""
    origin = headers.get(b"origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != headers.get(b"host")
    except ValueError:  # no URL
        return True


async def _refuse(scope: dict, send: Any, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def _folder_size(folder: Path) -> int:
    """Return the size of all files in a folder [bytes]."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue  # deleted meanwhile
    return size
