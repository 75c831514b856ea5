"""Isolation of the web page from other machines; importable without gradio."""

import ipaddress
import os
import sys
from pathlib import Path


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
