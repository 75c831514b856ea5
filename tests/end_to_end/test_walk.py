"""What the README and the pages of docs/ say, at toy size.

The walk of `make demo` runs by subprocess; then every command and every block of Python of every
page runs in one folder where its corpora and models are. What cannot run is in `NOT_RUN`, with the
reason.
"""

import ast
import contextlib
import importlib
import importlib.util
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

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = [
    "model.audio.config.num_hidden_layers=1",
    "model.text.config.num_hidden_layers=1",
    "train.epochs=2",
    "train.batch_size=4",
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


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Everything that the five commands of `make demo` leave."""
    folder = tmp_path_factory.mktemp("walk")
    names = ("corpus", "features.parquet", "captions.parquet", "run", "results")
    corpus, features, captions, run, results = (folder / name for name in names)
    size = ["--speakers", 6, "--clips-per-emotion", 1]
    script("preprocessing/synthetic_corpus.py", "-o", corpus, *size)
    script("features.py", corpus, "-o", features, "--workers", 2)
    script("preprocessing/template_creation.py", features, "-o", captions)
    data = [f"data.root={corpus}", f"data.captions={captions}", f"output={run}"]
    script("train.py", "configs/demo.yaml", *data, *TOY)
    options = ["--split", "test", "--prompts", "sentence", "--targets", "emotion", "gender"]
    printed = script("evaluate.py", run, corpus, *options, "-o", results).stdout
    return folder, printed


def test_walk_ends_in_scores_of_unseen_speakers(walk):
    folder, printed = walk
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


def test_python_of_the_readme_runs(walk):
    folder, _ = walk
    code = (REPOSITORY / "README.md").read_text().split("```python\n")[1].split("```")[0]
    clip = next((folder / "corpus" / "audio").rglob("*.wav"))
    code = code.replace("runs/ravdess", str(folder / "run")).replace("clip.wav", str(clip))
    printed = script("-c", code).stdout
    first, second = (float(number) for number in re.findall(r"\d\.\d+(?:e-\d+)?", printed))
    assert first + second == pytest.approx(1, abs=1e-3)


def test_nothing_absolute_stands_in_the_tables(walk):
    folder, _ = walk
    for name in ("features.parquet", "captions.parquet"):
        files = pd.read_parquet(folder / name).index.get_level_values("file")
        assert not [file for file in files if file.startswith("/") or ".." in file]


def test_scripts_fail_with_a_sentence_and_not_a_traceback(walk, tmp_path):
    folder, _ = walk
    commands = [
        ["features.py", f"ravdess={tmp_path}", "-o", tmp_path / "f.parquet"],
        [
            "preprocessing/template_creation.py",
            tmp_path / "no.parquet",
            "-o",
            tmp_path / "c.parquet",
        ],
        ["train.py", "configs/demo.yaml", f"data.root={tmp_path}", "data.captions=no.parquet"],
        [
            "evaluate.py",
            tmp_path / "no" / "model" / "here",
            folder / "corpus",
            "-o",
            tmp_path / "r",
        ],
    ]
    for command in commands:
        result = script(*command, check=False)
        assert result.returncode != 0, command
        assert "Traceback" not in result.stderr, result.stderr
        assert result.stderr.strip(), command


def test_planted_token_is_in_no_output(walk, tmp_path, monkeypatch):
    folder, _ = walk
    secret = "hf_PlantedTokenThatNobodyMayKeep"
    monkeypatch.setenv("HF_TOKEN", secret)
    data = [f"data.root={folder / 'corpus'}", f"data.captions={folder / 'captions.parquet'}"]
    result = script("train.py", "configs/demo.yaml", *data, f"output={tmp_path / 'run'}", *TOY)
    assert secret not in result.stdout + result.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if secret.encode() in path.read_bytes()]


# --- Every command of every page -----------------------------------------------------------------

PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))
COMMANDS = ("arecord", "cffconvert", "exec", "hf", "make", "pip", "python", "sbatch", "source")
NOT_RUN = {
    r"make |source |pip |python3? -m venv": "makes an environment; what it starts is tested here",
    r"sbatch |.*--backend (dask|ray)|.*torchrun": "needs a cluster; test_cluster.py makes one",
    r"python app.py": "serves until it is stopped; test_app.py asks it",
    r"hf upload": "needs an account on the Hub",
    r"arecord|exec ": "needs a microphone or a job; test_predict.py and test_train.py do it",
    r"python models.py convert": "the published weights are not here; test_models.py has others",
    r"python train.py .*configs/p(araclap|aper).yaml|python train.py( data| \[|$)":
        "downloads encoders; test_architecture.py loads the configuration",
    r".*(iemocap|tess)=": "needs a corpus that is not generated; test_evaluate.py has its protocol",
    r"python docs/pictures.py": "changes the repository; test_project.py shrinks another picture",
    r"python -m (benchmarks|experiments)": "takes minutes; they have tests of their own",
    r".*[A-Z]{3,}=ROOT|.*FILE.yaml": "a pattern, not a command",
}  # fmt: skip
NEEDS = {
    r".*(models.py export|--onnx)": ("onnx", "onnxscript", "onnxruntime"),
    r".*--approximate": ("faiss",),
}
SMALLER = {"--workers 8": "--workers 1", " /data/": " data/", "=/data/": "=data/"}
MORE = {"train.py": [*TOY, "text_pretraining.steps=1", "train.epochs=1", "train.device=cpu"]}
LEFT_OUT = {"train.py": ("model.audio.config", "model.text.config")}  # where model.start is given


def steps_of(page):
    """Commands and Python of a page: of its blocks in their order, then commands in its text.

    Every line of a block of `sh` is a command; of blocks without a kind, lines of known commands.
    """
    text = (REPOSITORY / page).read_text()
    found = []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if kind == "python":
            found.append(("python", block))
        lines = re.sub(r"\\\n\s*", "", block) if kind in ("", "sh") else ""
        for line in re.findall(r"^(?:[^'\n]|'[^']*')+$", lines, re.M):
            if kind == "sh" or line.split()[0] in COMMANDS:
                found.append(("sh", re.sub(r"\s+#.*", "", line)))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for span in re.findall(r"`([^`]+)`", prose):
        words = span.split()
        if words[0] in COMMANDS and len(words) > 1 and "..." not in words:
            found.append(("sh", " ".join(words)))
    return found


def is_listed(command, table):
    return next((entry for pattern, entry in table.items() if re.match(pattern, command)), None)


@pytest.fixture(scope="module")
def place(corpus, captions, model_folder, voice, tmp_path_factory):
    """Folder with everything that pages name: scripts, corpora, recordings, ignorant models.

    And the commands that ran in it already.
    """
    folder = tmp_path_factory.mktemp("place")
    (folder / "docs").mkdir()
    for name in ("configs", "preprocessing"):
        (folder / name).symlink_to(REPOSITORY / name)
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
    for speaker in ("03", "08", "09", "10"):  # two men, two women
        for emotion, level in (("F", 0.3), ("W", 1.0)):
            write(f"data/emodb/wav/{speaker}a01{emotion}a.wav", level=level)
    rows = ["file,emotion,speaker,gender"]
    for number in range(24):
        name, label = f"{'abcd'[number // 6]}/{number:03}.wav", ("angry", "calm")[number % 2]
        write(f"data/mine/{name}", level=(1.0, 0.2)[number % 2], f0=100 + 4 * number)
        rows.append(f"{name},{label},{name[0]},{('female', 'male')[number // 6 % 2]}")
    table = folder / "data" / "mine" / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    plain = [",".join(row.split(",")[:2]) for row in rows]
    table.with_name("plain.csv").write_text("\n".join(plain) + "\n")
    for path in ("clip.wav", "example.wav", "meeting.flac", "data/corpus/1.wav"):
        write(path, seconds=1.0)
    for path in ("recordings/1.wav", "recordings/2.wav", "more/a/3.flac", "data/corpus/2.wav"):
        write(path, f0=200)
    for name in ("demo/run/best", "runs/ravdess/best", "runs/small/best", "runs/paraclap/best"):
        shutil.copytree(model_folder, folder / name)
    shutil.copytree(model_folder, folder / "paraclap")
    for page in PAGES:
        text = (REPOSITORY / page).read_text()
        pattern = r"`(\w+\.yaml)`[^`]*\n```yaml\n(.*?)```"
        for name, content in re.findall(pattern, text, re.S):
            (folder / name).write_text(content)
    words = (REPOSITORY / "preprocessing" / "templates" / "paraclap.yaml").read_text()
    (folder / "mine.yaml").write_text("angry: an enraged voice\ncalm: [a calm voice, calm]\n")
    (folder / "my.yaml").write_text(words)
    return folder, set()


def run_command(command):
    """Run one command as its script would, in this process; returns its exit code."""
    for large, small in SMALLER.items():
        command = command.replace(large, small)
    words = shlex.split(command)
    target = None
    if ">" in words:
        words, target = words[: words.index(">")], words[words.index(">") + 1]
    assert words[0] == "python", f"{command}: neither runs here nor is in NOT_RUN"
    module = importlib.import_module(words[1].removesuffix(".py").replace("/", "."))
    with contextlib.ExitStack() as stack:
        if target:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(target, "w"))))
        more = MORE.get(words[1], [])
        if "model.start=" in command:
            more = [m for m in more if not m.startswith(LEFT_OUT[words[1]])]
        return module.main([*words[2:], *more])


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, place, monkeypatch):
    folder, done = place
    monkeypatch.chdir(folder)
    for kind, text in steps_of(page):
        if kind == "python":
            exec(compile(text, page, "exec"), {"__name__": "__page__"})
            continue
        needed = is_listed(text, NEEDS) or ()
        absent = [name for name in needed if importlib.util.find_spec(name) is None]
        if text in done or is_listed(text, NOT_RUN) or absent:
            continue
        done.add(text)
        assert run_command(text) == 0, text


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    text = (REPOSITORY / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in link or ((REPOSITORY / page).parent / link).exists(), link


def texts_of_sources():
    """Every piece of text that a program can print as it stands in its source."""
    for path in [*REPOSITORY.glob("*.py"), *(REPOSITORY / "preprocessing").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_of_the_troubleshooting_page_are_in_the_sources():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    assert len(messages) > 20
    known = "\0".join(texts_of_sources())
    for message in messages:
        pieces = [piece.strip() for piece in message.strip().split("...")]
        lost = [piece for piece in pieces if piece not in known]
        assert not lost, f"{message.strip()!r}: no program says {lost}"
