"""The commands of `make demo`, of the README and of the tutorial, at toy size."""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import yaml

from paraclap.model import sources

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = [
    "model.audio.config.num_hidden_layers=1",
    "model.text.config.num_hidden_layers=1",
    "text_pretraining.steps=1",
    "train.epochs=1",
    "train.batch_size=4",
    "train.device=cpu",
]


def script(*arguments, check=True):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=600,
    )
    assert not check or result.returncode == 0, result.stderr
    return result


# --- make demo -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the commands of `make demo` on six speakers; returns its folder and the last output."""
    folder = tmp_path_factory.mktemp("demo")
    dry_run = ["make", "--dry-run", "demo", f"DEMO={folder}", "WORKERS=2", "VENV=."]
    listed = subprocess.run(dry_run, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    smaller = {
        "preprocessing/synthetic_corpus.py": ["--speakers", 6, "--clips-per-emotion", 1],
        "train.py": TOY,
    }
    printed = {}
    for line in listed.stdout.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        if program.endswith("python") and words[0].endswith(".py"):
            printed[words[0]] = script(*words, *smaller.get(words[0], [])).stdout
    assert list(printed)[0] == "preprocessing/synthetic_corpus.py" and len(printed) == 5
    return folder, printed["evaluate.py"]


def test_demo_ends_in_scores_of_unseen_speakers(demo):
    folder, printed = demo
    scores = yaml.safe_load((folder / "results" / "scores.yaml").read_text())["corpora"]
    table = pd.read_parquet(folder / "captions.parquet")
    tested = table[table["split"] == "test"]
    assert not set(tested["speaker"]) & set(table[table["split"] == "train"]["speaker"])
    targets = {figures["target"]: figures for figures in scores.values()}
    assert set(targets) == {"emotion", "gender"}
    for target, chance in (("emotion", 1 / 6), ("gender", 1 / 2)):
        assert targets[target]["clips"] == len(tested)
        assert targets[target]["chance"] == pytest.approx(chance)
        assert f"{targets[target]['UAR']:.3f}" in printed


def test_no_absolute_path_in_tables(demo):
    folder, _ = demo
    for name in ("features.parquet", "captions.parquet"):
        files = pd.read_parquet(folder / name).index.get_level_values("file")
        assert not [file for file in files if file.startswith("/") or ".." in file]


def test_scripts_report_missing_files_without_traceback(tmp_path):
    output = ["-o", tmp_path / "out.parquet"]
    commands = [
        ["features.py", f"ravdess={tmp_path}", *output],
        ["preprocessing/template_creation.py", tmp_path / "no.parquet", *output],
        ["train.py", "configs/demo.yaml", f"data.root={tmp_path}", "data.captions=no.parquet"],
        ["evaluate.py", tmp_path / "no_model", tmp_path, "-o", tmp_path / "results"],
    ]
    for command in commands:
        result = script(*command, check=False)
        assert result.returncode != 0, command
        assert "Traceback" not in result.stderr, result.stderr
        assert result.stderr.strip(), command


# --- Commands of README and tutorial -------------------------------------------------------------

PAGES = ["README.md", "docs/tutorial.md"]
NOT_RUN = (
    r"git |cd |make |pip |python3? -m venv|source |\. ",  # environments
    r"hf |python models.py convert",  # needs the Hub
    r"python train.py configs/(paraclap|paper|whisper).yaml",  # pretrained encoders
    r"torchrun|python app.py|paraclap-app",  # several processes; a server
    r"python -m experiments",  # hours
    r"python evaluate.py .* --protocol",  # published weights
)


def commands_of(page):
    """Shell commands and Python blocks of a page, in order: (kind, text)."""
    text = (REPOSITORY / page).read_text()
    for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.M | re.S):
        if kind == "python":
            yield kind, block
            continue
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command = re.sub(r"(^|\s+)#.*", "", line)
            if command and not re.match("|".join(NOT_RUN), command):
                yield kind, command


@pytest.fixture(scope="module")
def place(corpus, captions, model_folder, voice, tmp_path_factory):
    """A folder with everything the pages name: corpora, recordings and models from random weights.

    Paths below /data become paths below data/.
    """
    folder = tmp_path_factory.mktemp("place")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    shutil.copytree(corpus, folder / "demo" / "corpus")
    for path in (captions, captions.with_name("features.parquet")):
        shutil.copy(path, folder / "demo" / path.name)

    def write(path, seconds=0.5, level=1.0, f0=120.0):
        path = folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, level * voice(seconds, f0=f0), 16_000)

    for actor in range(1, 25):
        for emotion, level in (("03", 0.3), ("05", 1.0)):
            name = f"03-01-{emotion}-01-01-01-{actor:02}.wav"
            write(f"data/RAVDESS/Actor_{actor:02}/{name}", level=level, f0=100 + 5 * actor)
    rows = ["file,emotion,speaker,gender,split"]
    splits = ("train", "train", "dev", "test", "test")
    for number in range(30):
        name, label = f"{'abcde'[number // 6]}/{number:03}.wav", ("angry", "calm")[number % 2]
        write(f"data/mine/{name}", level=(1.0, 0.2)[number % 2], f0=100 + 4 * number)
        gender = ("female", "male")[number // 6 % 2]
        rows.append(f"{name},{label},{name[0]},{gender},{splits[number // 6]}")
    table = folder / "data" / "mine" / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    plain = [",".join(row.split(",")[:2]) for row in rows]
    table.with_name("plain.csv").write_text("\n".join(plain) + "\n")
    texts = ("A woman shouts.", "A man whispers.")
    own = [f"{row.split(',')[0]},{texts[n % 2]},{row[0]}" for n, row in enumerate(rows[1:])]
    (folder / "my.csv").write_text("\n".join(["file,caption,speaker", *own]) + "\n")
    for path in ("clip.wav", "meeting.wav", "recordings/1.wav", "recordings/2.wav"):
        write(path, seconds=1.0)
    for name in ("demo/run/best", "runs/ravdess/best"):
        shutil.copytree(model_folder, folder / name)
        written = "model: {}\ndata: {}\noptim: {}\ntrain: {}\n"
        (folder / name).with_name("config.yaml").write_text(written)
    tutorial = (REPOSITORY / "docs" / "tutorial.md").read_text()
    for name, content in re.findall(r"`(\w+\.yaml)`[^`]*\n```yaml\n(.*?)```", tutorial, re.S):
        (folder / name).write_text(content)
    return folder


def run_command(command):
    """Run a command in this process, through the `main` of its script; returns the exit code."""
    command = command.replace("--workers 8", "--workers 1")
    program, *words = shlex.split(re.sub(r"(?<=[ =])/data/", "data/", command))
    if program.startswith("paraclap-"):
        name = f"cli.{program.removeprefix('paraclap-').replace('-', '_')}"
    elif words[0] == "-m":
        name, words = f"{words[1].removeprefix('paraclap.')}.__main__", words[2:]
    else:
        name, words = f"cli.{Path(words[0]).stem}", words[1:]
    if name == "cli.train":
        encoders = ("model.audio.", "model.text.")
        given = any(word.startswith("model.start=") for word in words)
        words += [word for word in TOY if not (given and word.startswith(encoders))]
    return importlib.import_module(f"paraclap.{name}").main(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_page_run(page, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sources, "PUBLISHED_MODEL", place / "runs/ravdess/best")
    found = list(commands_of(page))
    assert len(found) > 4
    for kind, text in found:
        if kind == "python":
            exec(compile(text, page, "exec"), {"__name__": "__page__"})
        else:
            assert run_command(text) == 0, text


def test_notebook_runs_and_names_no_folder_of_a_machine(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sources, "PUBLISHED_MODEL", place / "runs/ravdess/best")
    text = (REPOSITORY / "docs" / "example.ipynb").read_text()
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    names = {"__name__": "__notebook__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), "example.ipynb", "exec"), names)
    assert len(names["scores"]) == len(names["embeddings"]) == 36
    assert set(names["recalls"]) == {"emotion", "gender"} and len(names["timeline"]) > 4
    assert all(cell["outputs"] for cell in cells[1:-1]), "run it again, with its outputs"


# --- What pages refer to -------------------------------------------------------------------------

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS += sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))


@pytest.mark.parametrize("page", DOCUMENTS)
def test_links_lead_to_files(page):
    text = (REPOSITORY / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert "://" in link or ((REPOSITORY / page).parent / link).exists(), link


def test_tests_named_in_documents_exist():
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    pages = "\n".join((REPOSITORY / page).read_text() for page in DOCUMENTS)
    named = set(re.findall(r"`(test_\w+)`", pages))
    assert len(named) > 10 and not [name for name in named if f"def {name}(" not in tests]


def test_messages_of_troubleshooting_exist():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    printed = "\0".join(
        node.value
        for path in (REPOSITORY / "paraclap").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    messages = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    assert len(messages) > 20
    for message in messages:
        pieces = [piece.strip() for piece in message.strip().split("...")]
        lost = [piece for piece in pieces if piece not in printed]
        assert not lost, f"{message.strip()!r}: no message contains {lost}"
