"""The documentation as a site: every link leads somewhere, and every page is in the menu."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_site_is_built_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "api.html").read_text()
    for name in ("ParaCLAP.score", "ParaCLAP.embed_text", "ParaCLAPModel", "CaptionDataset"):
        assert re.search(rf'id="[\w.]*\b{re.escape(name)}"', reference), name
