"""app.py: server, and the page in a browser.

The page is served by a process of its own; these tests are skipped without gradio, those in a
browser also without playwright and Chromium (`make extras`).
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
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from paraclap.audio.containers import read_duration
from paraclap.audio.reading import read_audio
from paraclap.corpora.table import read_clips
from paraclap.errors import ParaCLAPError
from paraclap.inference import about, guards
from paraclap.inference.api import ParaCLAP
from paraclap.inference.index_update import update_index
from paraclap.inference.limits import HOST, WHOLE_SECONDS
from paraclap.inference.page import Analyzer
from paraclap.inference.search import result_page
from paraclap.model.build import build_model
from paraclap.model.sources import default_model
from paraclap.settings import ModelSettings, TowerSettings
from tiny_models import TEXTS, TINY_AUDIO, TINY_TEXT

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("gradio"), reason="gradio is not installed (make extras)"
)
needs_browser = pytest.mark.skipif(
    not (importlib.util.find_spec("playwright") and CHROMIUM),
    reason="playwright and a Chromium are not installed (make extras)",
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
"""Logs every connection and name lookup of a process, also blocked ones."""


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
    """Recordings to upload."""
    folder = tmp_path_factory.mktemp("sounds")
    soundfile.write(folder / "short.wav", voice(1.5), 16_000)
    soundfile.write(folder / "other.flac", voice(2.0, f0=210), 16_000)
    soundfile.write(folder / "long.wav", np.tile(voice(1.3), 10), 16_000)
    soundfile.write(folder / "silence.wav", np.zeros(20_000), 16_000)
    noise = 0.05 * np.random.default_rng(0).standard_normal(30_000)
    soundfile.write(folder / "noise.wav", noise, 16_000)
    (folder / "broken.wav").write_bytes((folder / "short.wav").read_bytes()[:9_000])
    return folder


class Server:
    """The page, served by app.py in a process of its own."""

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
        self.function = next(d["id"] for d in dependencies if len(d["inputs"]) == 4)

    def others(self):
        """Other machines that the process tried to reach."""
        found = set(self.connections.read_text().split())
        return {name for name in found if name != "None" and not guards.is_local(name, HOST)}

    def open(self, path, content=None, **headers):
        request = urllib.request.Request(self.url + path, content, headers)
        return urllib.request.urlopen(request, timeout=180)

    def status(self, path, content=None, **headers):
        try:
            return self.open(path, content, **headers).status
        except urllib.error.HTTPError as error:
            return error.code

    def upload(self, name, content, **headers):
        """Return the path of an uploaded file, or the status of a refusal."""
        mark = "mark-of-the-parts"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        headers["Content-Type"] = f"multipart/form-data; boundary={mark}"
        try:
            with self.open("/gradio_api/upload", body, **headers) as answer:
                return json.load(answer)[0]
        except urllib.error.HTTPError as error:
            return error.code

    def request(self, recording):
        """Send a request without the page; returns whether it succeeded, and its output."""
        session = uuid.uuid4().hex
        request = {
            "data": [recording, None, "angry\ncalm", "{}"],
            "fn_index": self.function,
            "session_hash": session,
        }
        content = json.dumps(request).encode()
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
    limits = ["--max-seconds", "20", "--max-megabytes", "1"]
    server = Server(folder, model, "--index", str(folder / "index"), *limits)
    yield server
    server.process.kill()
    server.process.wait()


def file_data(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_only_uploads_are_read(server, sounds):
    path = server.upload("../../short.wav", (sounds / "short.wav").read_bytes())
    assert Path(path).is_relative_to(server.temporary) and path.endswith("/short.wav")
    assert server.status(f"/gradio_api/file={quote(str(path))}") == 200
    success, output = server.request(file_data(path))
    assert success and "<span class='prompt'>angry</span> <small>cosine" in output
    inside = sounds / "other.flac"  # in the index, but not an upload
    for other in ("/etc/passwd", inside, REPOSITORY / "app.py", f"{path}/../../../../log"):
        assert server.status(f"/gradio_api/file={quote(str(other))}") == 403
        success, output = server.request(file_data(other))
        assert not success and "cosine" not in output
    for recording in (str(inside), {"path": str(inside)}, {**file_data(inside), "is_stream": True}):
        assert not server.request(recording)[0]


def test_urls_in_place_of_an_upload_are_not_fetched(server):
    assert not server.others()  # no telemetry at the start either
    for url in ("http://192.0.2.1/a.wav", "http://elsewhere.invalid/a.wav", f"{server.url}/config"):
        assert server.status(f"/gradio_api/file={url}") == 403
        assert not server.request(file_data(url))[0]
    assert "elsewhere.invalid" in server.others()  # gradio tried to
    assert "connection to 'elsewhere.invalid' blocked" in server.log.read_text()
    server.connections.write_text("")


def test_too_large_upload_is_refused(server):
    assert server.upload("big.wav", bytes(1_100_000)) == 413


def test_requests_of_other_sites_are_refused(server, sounds):
    content = (sounds / "short.wav").read_bytes()
    for origin in ("https://elsewhere.example", "null", "http://[", f"{server.url}.example"):
        assert server.upload("a.wav", content, Origin=origin) == 403
        assert server.status("/gradio_api/queue/join", b"{}", Origin=origin) == 403
    assert Path(server.upload("a.wav", content, Origin=server.url)).is_file()


def test_only_this_machine_reaches_the_page(server):
    assert "127.0.0.1" in server.first_line and "gradio.live" not in server.first_line
    with pytest.raises(OSError):  # another address of this machine, where 0.0.0.0 would answer
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
    assert server.status("/", Host="elsewhere.example") == 400  # a name that points here
    for path in ("/docs", "/monitoring", "/gradio_api/mcp/"):
        assert server.status(path) in (403, 404)


def test_head_states_training_data_and_scores_with_intervals():
    card = default_model() / "README.md"
    scores = about.card_scores(card)
    provenance = {"corpora": ["emodb", "nemo"], "speakers": 19}
    text = about.header("m<b>", provenance, scores)
    assert "m&lt;b&gt;" in text and about.PAPER in text and about.CODE in text
    assert "Trained on emodb, nemo (19 speakers)." in text
    (row,) = (
        r for _, r in scores.iterrows() if (r["corpus"], r["target"]) == ("ravdess", "emotion")
    )
    low, high = row["95 %"].split("-")
    assert f"ravdess {row['UAR']} [{low}, {high}] ({row['speakers']} speakers" in text
    assert "speakers that it was not trained on" in text
    attributes = {"emotion": {"anger": [], "sad<b>": []}}
    table = about.details({"attributes": attributes}, scores)
    assert "emotion (anger, sad&lt;b&gt;)" in table and table.count("<tr") == len(scores) + 1


def test_model_without_a_card_has_a_head(tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n\n## Scores\n\nNot recorded.\n")
    for card in (None, tmp_path / "README.md"):
        scores = about.card_scores(card)
        assert scores.empty and "UAR" not in about.header("m", {}, scores)
        assert "no card with scores" in about.details({}, scores)


def test_old_uploads_are_deleted(tiny, tmp_path, monkeypatch):
    from paraclap.inference import app

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(app, "KEPT_SECONDS", 2)
    monkeypatch.setattr(app, "SWEEP_SECONDS", 1)
    blocks = app.build_page(Analyzer(ParaCLAP(*tiny)), [], "tiny", 1)
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


def test_port_in_use_is_one_sentence(tiny, tmp_path, monkeypatch):
    from paraclap.inference import app

    monkeypatch.setattr(app.signal, "signal", lambda *arguments: None)
    page = app.build_page(Analyzer(ParaCLAP(*tiny)), [], "tiny", 1)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ParaCLAPError, match="another program uses it"):
            app.serve(page, HOST, taken.getsockname()[1], tmp_path, 1)


def test_examples_are_audible_and_one_has_a_timeline(tmp_path):
    from paraclap.inference import app

    examples = dict(app.write_examples(tmp_path / "examples"))
    assert all(np.abs(read_audio(path)).max() > 0.01 for path in examples.values())
    assert sum(read_duration(path) > WHOLE_SECONDS for path in examples.values()) == 1


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
    """A function that opens the page for another visitor and logs requests and errors."""
    contexts = []

    def open_page(width=1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 812}))
        opened = contexts[-1].new_page()
        opened.set_default_timeout(180_000)  # ms; a busy machine is slow, not wrong
        opened.addresses, opened.faults = [], []
        opened.on("request", lambda request: opened.addresses.append(request.url))
        opened.on("pageerror", lambda error: opened.faults.append(str(error)))
        opened.goto(server.url)
        opened.get_by_role("button", name="Analyse").wait_for()
        return opened

    yield open_page
    for context in contexts:
        context.close()


def choose(opened, path):
    with opened.expect_response(lambda response: "/upload" in response.url):
        opened.locator("#recording input[type=file]").set_input_files(path)
    opened.get_by_label("Clear").wait_for()


def analyse(opened):
    opened.get_by_role("button", name="Analyse").click()


def cosines(opened):
    """The rows of scores that are shown."""
    return opened.locator("ul.scores li")


def fill_prompts(opened, text):
    opened.get_by_label("Prompts, separated").fill(text)


@needs_browser
def test_page_shows_scores_timeline_acoustics_and_similar_clips(visit, server, sounds):
    opened = visit()
    choose(opened, sounds / "short.wav")
    fill_prompts(opened, "angry, a calm voice\n<b>sad</b>")
    analyse(opened)
    for prompt in ("angry", "a calm voice", "<b>sad</b>"):
        cosines(opened).get_by_text(prompt, exact=True).wait_for()
    opened.get_by_text("Sound level").first.wait_for()
    opened.get_by_text("Similar clip").nth(1).wait_for()
    assert opened.get_by_text("Probability over time").count() == 0

    opened.get_by_label("Clear").first.click()
    cosines(opened).first.wait_for(state="hidden")  # results of another recording
    choose(opened, sounds / "long.wav")
    analyse(opened)
    opened.get_by_text("Probability over time").wait_for()
    assert not [a for a in opened.addresses if not a.startswith((server.url, "data:", "blob:"))]
    assert not opened.faults
    assert not server.others()


@needs_browser
def test_click_on_a_curve_plays_from_there(visit, sounds):
    opened = visit()
    choose(opened, sounds / "long.wav")
    analyse(opened)
    area = opened.locator(".timeline svg .root > g > path.background").first
    area.wait_for()
    box = area.bounding_box()
    opened.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 20)
    opened.wait_for_function("document.querySelector('audio.player').currentTime > 6")
    seconds = read_duration(sounds / "long.wav")
    reached = opened.evaluate("document.querySelector('audio.player').currentTime")
    assert reached == pytest.approx(seconds / 2, abs=2)  # it plays on meanwhile


@needs_browser
def test_answers_can_be_downloaded_and_prompts_kept_in_a_link(visit, server, sounds, tmp_path):
    opened = visit()
    choose(opened, sounds / "long.wav")
    fill_prompts(opened, '"calm, deep", sad & <b>')
    opened.get_by_label("Template").fill("{} voice")
    analyse(opened)
    for suffix, name in (("CSV", "long.csv"), ("TextGrid", "long.TextGrid")):
        with opened.expect_download() as found:
            opened.get_by_role("link", name=suffix).click()
        assert found.value.suggested_filename == name
        found.value.save_as(tmp_path / name)
    scores = pd.read_csv(tmp_path / "long.csv")
    assert set(scores["file"]) == {"long.wav"} and len(scores) > 1
    assert "probability.calm, deep" in scores and "cosine.sad & <b>" in scores
    assert 'name = "calm, deep"' in (tmp_path / "long.TextGrid").read_text()

    link = opened.get_by_role("link", name="Link with these prompts").get_attribute("href")
    opened.goto(f"{server.url}/{link}")
    prompts = opened.get_by_label("Prompts, separated")
    opened.wait_for_function("document.querySelector('textarea')?.value.includes('deep')")
    assert prompts.input_value() == '"calm, deep", sad & <b>'
    assert opened.get_by_label("Template").input_value() == "{} voice"


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_two_recordings_are_compared(visit, sounds, width):
    opened = visit(width=width)
    choose(opened, sounds / "short.wav")
    opened.get_by_text("Compare with a second recording").click()
    opened.locator("#second input[type=file]").set_input_files(sounds / "noise.wav")
    opened.locator("#second").get_by_label("Clear").wait_for()
    analyse(opened)
    headings = opened.locator(".result h2")
    headings.nth(1).wait_for()
    assert [text.split()[0] for text in headings.all_inner_texts()] == ["short.wav", "noise.wav"]
    left, right = (headings.nth(number).bounding_box() for number in range(2))
    assert (left["y"] == right["y"]) == (width == 1280)  # side by side, or below each other
    assert opened.locator(".stop").inner_text().startswith("No voice found")
    assert opened.locator("ul.scores.doubtful").count() == 1
    assert opened.evaluate("document.documentElement.scrollWidth") == width


@needs_browser
def test_silence_has_no_scores(visit, sounds):
    opened = visit(width=390)
    choose(opened, sounds / "silence.wav")
    analyse(opened)
    opened.get_by_text("Silence:").wait_for()
    assert opened.locator("ul.scores, .downloads, .timeline svg").count() == 0
    assert opened.get_by_text("Similar clip").count() == 0


@needs_browser
def test_invalid_recordings_give_a_warning_and_examples_answer_on_a_click(visit, sounds):
    opened = visit(width=375)
    analyse(opened)
    opened.get_by_text("Upload or record an audio clip first").wait_for()
    choose(opened, sounds / "broken.wav")
    analyse(opened)
    opened.get_by_text("broken.wav: header announces 48044 bytes").wait_for()
    seen = opened.locator("body").inner_text()
    assert "Traceback" not in seen and str(tempfile.gettempdir()) not in seen
    assert cosines(opened).count() == 0
    opened.get_by_text("Man, sad").click()  # a synthetic example
    cosines(opened).get_by_text("angry").wait_for()
    assert opened.locator(".result h2").inner_text().startswith("man_sad.wav")
    assert opened.evaluate("document.documentElement.scrollWidth") == 375


@needs_browser
def test_two_visitors_get_their_own_results(visit, sounds):
    visitors = [
        (visit(), sounds / "short.wav", ["angry", "bored"]),
        (visit(), sounds / "long.wav", ["tired", "lively", "hoarse"]),
    ]
    for opened, path, prompts in visitors:
        choose(opened, path)
        fill_prompts(opened, "\n".join(prompts))
    for opened, _, _ in visitors:  # neither waits for the other
        opened.get_by_role("button", name="Analyse").click(no_wait_after=True)
    for opened, _, prompts in visitors:
        for prompt in prompts:
            cosines(opened).get_by_text(prompt).wait_for()
        assert cosines(opened).count() == len(prompts)


@needs_browser
def test_search_results_fit_a_phone(browser, tmp_path):
    columns = {
        "query": "x" * 90,
        "rank": 1,
        "cosine": 0.5,
        "name": "recordings/" * 20,
        "file": "a.wav",
    }
    about = {"trained": False, "start": 1.0, "end": 2.0, "root": "/r", "quality": "silent;" * 9}
    hits = pd.DataFrame([columns | about | {"file_state": "missing"}])
    (tmp_path / "hits.html").write_text(result_page(hits, tmp_path / "hits.html", 1))
    size = {"width": 390, "height": 844}
    opened = browser.new_context(viewport=size, is_mobile=True).new_page()
    opened.goto((tmp_path / "hits.html").as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    opened.context.close()


def test_nothing_is_left_behind(server):
    assert list(server.temporary.glob("paraclap-*/uploads/*"))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    assert not list(server.temporary.iterdir())
