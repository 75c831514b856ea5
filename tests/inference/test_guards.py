"""app.py without gradio: wrong options, environment, connections to other machines."""

import os

import pytest

from paraclap.cli import app as cli_app
from paraclap.errors import MissingPackageError
from paraclap.inference import guards


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "f.parquet"], "--features requires --edges"),
        (["--edges", "absent.json"], "absent.json does not exist"),
        (["--max-seconds", "0"], "must be positive"),
    ],
)
def test_wrong_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        cli_app.main(["MODEL", *arguments])
    assert message in capsys.readouterr().err


def test_missing_gradio_names_the_extra(monkeypatch):
    monkeypatch.setattr(cli_app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "paraclap\[demo\]"'):
        cli_app.main(["MODEL"])


def test_gradio_variables_of_the_shell_are_ignored(monkeypatch, tmp_path):
    for name, value in (("SHARE", "True"), ("ALLOWED_PATHS", "/"), ("ANALYTICS_ENABLED", "True")):
        monkeypatch.setenv(f"GRADIO_{name}", value)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "elsewhere")  # restored after the test
    guards.prepare_environment(tmp_path)
    found = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert found == {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)}


@pytest.mark.parametrize(
    ("event", "arguments", "host", "allowed"),
    [
        ("socket.connect", (None, ("127.0.0.1", 80)), "127.0.0.1", True),
        ("socket.connect", (None, ("::1", 80, 0, 0)), "127.0.0.1", True),
        ("socket.connect", (None, "/run/local.socket"), "127.0.0.1", True),
        ("socket.connect", (None, ("192.0.2.1", 80)), "127.0.0.1", False),
        ("socket.connect", (None, ("192.0.2.1", 80)), "192.0.2.1", True),
        ("socket.connect", (None, ("192.0.2.1", 80)), "0.0.0.0", False),
        ("socket.sendto", (None, ("192.0.2.1", 53)), "127.0.0.1", False),
        ("socket.getaddrinfo", ("api.gradio.app", 443, 0, 0, 0), "127.0.0.1", False),
        ("socket.getaddrinfo", (b"localhost", 443, 0, 0, 0), "127.0.0.1", True),
        ("socket.getaddrinfo", (None, 443, 0, 0, 0), "127.0.0.1", True),
        ("socket.bind", (None, ("192.0.2.1", 80)), "127.0.0.1", True),
    ],
)
def test_connections_to_other_machines_are_blocked(event, arguments, host, allowed):
    if allowed:
        guards.check_connection(event, arguments, host)
        return
    with pytest.raises(PermissionError, match="blocked"):
        guards.check_connection(event, arguments, host)
