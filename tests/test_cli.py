import warnings

import pytest

import paraclap.cli
from paraclap.errors import ParaCLAPError


def test_warnings_and_errors_for_users_are_one_line_each(capsys):
    def main():
        warnings.warn("2 files are skipped", stacklevel=1)
        warnings.warn("for developers", RuntimeWarning, stacklevel=1)
        raise ParaCLAPError("no files are left")

    with pytest.warns(RuntimeWarning):
        assert paraclap.cli.run(main, "features.py") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: 2 files are skipped", "features.py: no files are left"]
