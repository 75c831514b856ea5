"""app.py: its command line, what it serves and to whom, and a person's way through it.

The page is served by a process of its own, as a person would start it; these tests are skipped
without gradio, those in a browser also without playwright and a Chromium (`make browser`).
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from paraclap.audio.containers import read_duration
from paraclap.audio.reading import read_audio
from paraclap.cli import app as cli_app
from paraclap.corpora.table import read_clips
from paraclap.inference import app, page
from paraclap.inference.api import ParaCLAP
from paraclap.inference.index import update_index
from paraclap.model.build import build_model
from paraclap.settings import ModelSettings, TowerSettings
from tiny_models import TEXTS, TINY_AUDIO, TINY_TEXT

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
needs_gradio = pytest.mark.skipif(
    not importlib.util.find_spec("gradio"), reason="gradio is not installed (make browser)"
)
needs_browser = pytest.mark.skipif(
    not (importlib.util.find_spec("playwright") and CHROMIUM),
    reason="playwright and a Chromium are not installed (make browser)",
)
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        other = arguments[1][0]
    elif event == "socket.getaddrinfo":
        other = arguments[0]
    else:
        return
    with open(os.environ["CONNECTIONS"], "a") as stream:
        stream.write(f"{other}\\n")

sys.addaudithook(watch)
"""
"""Writes down whatever machine a process turns to, also where it is barred from it."""


# --- Without gradio ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--features", "f.parquet"], "--features needs --edges"),
        (["--hop", "5", "--window", "4"], "0 < --hop <= --window <= --whole"),
        (["--window", "20"], "0 < --hop <= --window <= --whole"),
        (["--max-seconds", "0"], "must be above 0"),
    ],
)
def test_options_that_do_not_fit_are_told(arguments, told, capsys):
    with pytest.raises(SystemExit):
        cli_app.main(["MODEL", *arguments])
    assert told in capsys.readouterr().err


def test_examples_are_clips_to_hear_and_one_gets_a_timeline(tmp_path):
    examples = dict(app.write_examples(tmp_path / "a"))
    again = dict(app.write_examples(tmp_path / "b"))
    assert list(examples) == [title for title, _, _ in app.EXAMPLES]
    assert all(examples[t].read_bytes() == again[t].read_bytes() for t in examples)
    assert all(np.abs(read_audio(path)).max() > 0.01 for path in examples.values())
    long = [title for title, path in examples.items() if read_duration(path) > page.Limits().whole]
    assert long == ["Man, calm, then angry"]


def test_what_the_shell_says_to_gradio_does_not_count(monkeypatch, tmp_path):
    for name, value in (("SHARE", "True"), ("ALLOWED_PATHS", "/"), ("ANALYTICS_ENABLED", "True")):
        monkeypatch.setenv(f"GRADIO_{name}", value)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "elsewhere")  # put back after the test
    app.prepare_environment(tmp_path)
    found = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert found == {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)}


@pytest.mark.parametrize(
    ("event", "arguments", "host", "passes"),
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
def test_connections_to_other_machines_are_barred(event, arguments, host, passes):
    if passes:
        app.check_connection(event, arguments, host)
        return
    with pytest.raises(PermissionError, match="is barred"):
        app.check_connection(event, arguments, host)


def test_fault_of_the_program_is_a_sentence_here_and_a_traceback_in_the_terminal(capsys):
    class Broken:
        def answer(self, *arguments):
            raise KeyError("secret")

    changes = app.respond(Broken(), "a.wav", "angry", "{}", {})
    assert "The program failed" in changes[0]["value"] and "secret" not in str(changes)
    assert [change["visible"] for change in changes] == [True] + [False] * 4
    assert "KeyError: 'secret'" in capsys.readouterr().err


def test_what_there_is_nothing_of_is_hidden(tiny, tmp_path, voice):
    soundfile.write(tmp_path / "a.wav", voice(3.0), 16_000)
    paraclap = ParaCLAP(*tiny)
    for limits, seen in ((page.Limits(), False), (page.Limits(whole=2, window=1, hop=1), True)):
        listener = page.Listener(paraclap, limits=limits)
        changes = app.respond(listener, tmp_path / "a.wav", "angry", "{}", {})
        assert [c["visible"] for c in changes] == [False, True, seen, True, False]
    refused = app.respond(listener, None, "angry", "{}", {})
    assert [change["visible"] for change in refused] == [True] + [False] * 4


# --- The server ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model."""
    torch.manual_seed(0)
    settings = ModelSettings(
        audio=TowerSettings(config=dict(TINY_AUDIO)),
        text=TowerSettings(config=dict(TINY_TEXT)),
        projection_dim=24,
        input_gain=10.0,
    )
    folder = tmp_path_factory.mktemp("model")
    for part in build_model(settings, TEXTS):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory, voice):
    """Recordings that a person may choose."""
    folder = tmp_path_factory.mktemp("sounds")
    soundfile.write(folder / "short.wav", voice(1.5), 16_000)
    soundfile.write(folder / "other.flac", voice(2.0, f0=210), 16_000)
    soundfile.write(folder / "long.wav", np.tile(voice(1.3), 4), 16_000)
    (folder / "broken.wav").write_bytes((folder / "short.wav").read_bytes()[:9_000])
    return folder


class Server:
    """The page, served by a process of its own as a person would start it."""

    def __init__(self, folder, model, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = folder / "connections"
        self.log = folder / "log"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        (folder / "sitecustomize.py").write_text(WATCH)
        environment = {
            "CONNECTIONS": str(self.connections),
            "GRADIO_SHARE": "True",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(folder),
            "TMPDIR": str(self.temporary),
        }
        command = [sys.executable, "app.py", str(model), "--port", str(self.port), *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.first_line = self.process.stdout.readline()
        assert self.url in self.first_line, self.log.read_text()
        with self.open("/config") as answer:
            dependencies = json.load(answer)["dependencies"]
        self.function = next(d["id"] for d in dependencies if len(d["inputs"]) == 3)

    def others(self):
        """Names and addresses of other machines that the process turned to."""
        found = set(self.connections.read_text().split())
        return {name for name in found if name != "None" and not app.is_here(name, app.HOST)}

    def open(self, path, content=None, **headers):
        request = urllib.request.Request(self.url + path, content, headers)
        return urllib.request.urlopen(request, timeout=60)

    def status(self, path, content=None, **headers):
        try:
            return self.open(path, content, **headers).status
        except urllib.error.HTTPError as error:
            return error.code

    def upload(self, name, content):
        """Path of an uploaded file, or the status of a refusal."""
        mark = "mark-of-the-parts"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        try:
            with self.open("/gradio_api/upload", body, **headers) as answer:
                return json.load(answer)[0]
        except urllib.error.HTTPError as error:
            return error.code

    def ask(self, recording):
        """Whether a program that asks without the page gets an answer, and what it gets."""
        session = uuid.uuid4().hex
        asked = {
            "data": [recording, "angry\ncalm", "{}"],
            "fn_index": self.function,
            "session_hash": session,
        }
        content = json.dumps(asked).encode()
        self.open("/gradio_api/queue/join", content, **{"Content-Type": "application/json"})
        with self.open(f"/gradio_api/queue/data?session_hash={session}") as lines:
            for line in lines:
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        return message["success"], json.dumps(message["output"])
        raise AssertionError("no answer")


@pytest.fixture(scope="module")
def server(tmp_path_factory, model, sounds):
    folder = tmp_path_factory.mktemp("server")
    paraclap = ParaCLAP.from_pretrained(model, "cpu")
    clips = read_clips([str(sounds / name) for name in ("short.wav", "other.flac")])
    update_index(folder / "index", paraclap, str(model), clips)
    limits = ["--max-seconds", "6", "--max-megabytes", "1"]
    limits += ["--whole", "3", "--window", "1", "--hop", "0.5"]
    server = Server(folder, model, "--index", str(folder / "index"), *limits)
    yield server
    server.process.kill()
    server.process.wait()


def file_data(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


@needs_gradio
def test_uploads_are_answered_and_nothing_else_is_read(server, sounds):
    path = server.upload("../../short.wav", (sounds / "short.wav").read_bytes())
    assert Path(path).is_relative_to(server.temporary) and path.endswith("/short.wav")
    assert server.status(f"/gradio_api/file={path}") == 200
    success, output = server.ask(file_data(path))
    assert success and "short.wav" in output and "cosine" in output
    inside = sounds / "other.flac"  # of the index, and a sound; still no upload
    for other in ("/etc/passwd", inside, REPOSITORY / "app.py", f"{path}/../../../../log"):
        assert server.status(f"/gradio_api/file={other}") == 403
        success, output = server.ask(file_data(other))
        assert not success and "cosine" not in output
    for recording in (str(inside), {"path": str(inside)}, {**file_data(inside), "is_stream": True}):
        assert not server.ask(recording)[0]


@needs_gradio
def test_urls_in_place_of_an_upload_are_not_fetched(server):
    assert not server.others()  # no telemetry at the start either
    for url in ("http://192.0.2.1/a.wav", "http://elsewhere.invalid/a.wav", f"{server.url}/config"):
        assert server.status(f"/gradio_api/file={url}") == 403
        assert not server.ask(file_data(url))[0]
    assert "elsewhere.invalid" in server.others()  # gradio tried to
    assert "connecting to 'elsewhere.invalid' is barred" in server.log.read_text()
    server.connections.write_text("")


@needs_gradio
def test_too_large_upload_is_refused(server):
    assert server.upload("big.wav", bytes(1_100_000)) == 413


@needs_gradio
def test_only_this_machine_reaches_the_page(server):
    assert "127.0.0.1" in server.first_line and "gradio.live" not in server.first_line
    with pytest.raises(OSError):  # another address of this machine, where 0.0.0.0 would answer
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
    assert server.status("/", Host="elsewhere.example") == 400  # a name that points here
    for path in ("/docs", "/monitoring", "/gradio_api/mcp/"):
        assert server.status(path) in (403, 404)


@needs_gradio
def test_uploads_are_deleted_when_their_time_is_over(tiny, tmp_path, monkeypatch, voice):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(app, "KEPT_SECONDS", 2)
    monkeypatch.setattr(app, "SWEEP_SECONDS", 1)
    blocks = app.build_page(page.Listener(ParaCLAP(*tiny)), [], "tiny", 1)
    blocks.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
    try:
        server = Server.__new__(Server)
        server.url = blocks.local_url.rstrip("/")
        path = Path(server.upload("a.wav", bytes(100)))
        assert path.is_relative_to(tmp_path) and path.is_file()
        end = time.monotonic() + 30
        while path.exists() and time.monotonic() < end:
            time.sleep(0.2)
        assert not path.exists()
    finally:
        blocks.close()


# --- In a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser, server):
    """A function that opens the page as another person; notes what their browser asks for."""
    contexts = []

    def open_page(width=1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 812}))
        opened = contexts[-1].new_page()
        opened.addresses, opened.faults = [], []
        opened.on("request", lambda request: opened.addresses.append(request.url))
        opened.on("pageerror", lambda error: opened.faults.append(str(error)))
        opened.goto(server.url)
        opened.get_by_role("button", name="Ask").wait_for()
        return opened

    yield open_page
    for context in contexts:
        context.close()


def choose(opened, path):
    with opened.expect_response(lambda response: "/upload" in response.url):
        opened.locator("#recording input[type=file]").set_input_files(path)
    opened.get_by_label("Clear").wait_for()


@needs_gradio
@needs_browser
def test_from_upload_to_chart_timeline_and_similar_clips(visit, server, sounds):
    opened = visit()
    assert opened.get_by_text("Answers appear here").is_visible()
    choose(opened, sounds / "short.wav")
    opened.get_by_label("Prompts, one a line").fill("angry\na calm voice\nsad")
    opened.get_by_role("button", name="Ask").click()
    chart = opened.locator("table.pc-bars")
    chart.wait_for()
    assert opened.get_by_role("heading", name="short.wav").is_visible()
    rows = chart.locator("th").all_inner_texts()
    assert sorted(rows) == ["a calm voice", "angry", "sad"]
    widths = [bar.bounding_box()["width"] for bar in chart.locator(".pc-fill").all()]
    assert widths == sorted(widths, reverse=True) and widths[0] > 20
    assert opened.get_by_role("heading", name="Measured acoustics").is_visible()
    assert opened.get_by_role("heading", name="Over time").count() == 0
    hits = opened.locator(".pc-hits li")
    assert hits.count() == 2 and "short.wav" in hits.first.inner_text()
    opened.wait_for_function("document.querySelector('.pc-hits audio').duration > 1.4")

    opened.get_by_label("Clear").click()
    opened.get_by_text("Answers appear here").wait_for()  # none is about what is not there
    choose(opened, sounds / "long.wav")
    opened.get_by_role("button", name="Ask").click()
    opened.get_by_role("heading", name="Over time").wait_for()
    assert opened.locator(".pc-line").count() == 3
    assert not [a for a in opened.addresses if not a.startswith((server.url, "data:", "blob:"))]
    assert not opened.faults
    assert not server.others()


@needs_gradio
@needs_browser
def test_bad_file_is_told_in_words_and_the_next_one_is_answered(visit, sounds):
    opened = visit(width=375)
    opened.get_by_role("button", name="Ask").click()
    alert = opened.get_by_role("alert").filter(has_text="There is no recording yet")
    alert.wait_for()
    choose(opened, sounds / "broken.wav")
    alert.wait_for(state="hidden")
    opened.get_by_role("button", name="Ask").click()
    told = opened.locator(".pc-refusal")
    told.filter(has_text="broken.wav: header announces 48000 bytes of sound, found").wait_for()
    seen = opened.locator("body").inner_text()
    assert "Traceback" not in seen and str(tempfile.gettempdir()) not in seen
    assert opened.locator("table.pc-bars").count() == 0
    opened.get_by_text("Man, sad").click()  # a synthetic voice
    told.wait_for(state="hidden")
    opened.get_by_role("button", name="Ask").click()
    opened.get_by_role("heading", name="man_sad.wav").wait_for()
    width = "document.documentElement.scrollWidth"
    assert opened.evaluate(width) == 375  # a phone does not have to scroll sideways
    opened.wait_for_function(
        "document.querySelector('.pc h2').getBoundingClientRect().top < innerHeight"
    )  # the answer was brought into view


@needs_gradio
@needs_browser
def test_two_people_at_once_get_their_own_answers(visit, sounds):
    people = [
        (visit(), sounds / "short.wav", "angry\nbored"),
        (visit(), sounds / "long.wav", "tired\nlively\nhoarse"),
    ]
    for opened, path, prompts in people:
        choose(opened, path)
        opened.get_by_label("Prompts, one a line").fill(prompts)
    for _ in range(2):
        for opened, _, _ in people:  # neither waits for the other
            opened.get_by_role("button", name="Ask").click(no_wait_after=True)
        for opened, path, prompts in people:
            opened.get_by_role("heading", name=path.name).wait_for()
            rows = opened.locator("table.pc-bars th")
            assert sorted(rows.all_inner_texts()) == sorted(prompts.split("\n"))
            assert opened.get_by_role("alert").count() == 0


@needs_gradio
def test_nothing_is_left_behind(server):
    assert list(server.temporary.glob("paraclap-*/uploads/*"))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    assert not list(server.temporary.iterdir())
