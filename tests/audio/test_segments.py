"""Windows of recordings; segments and crops are tested with reading."""

import pytest

from paraclap.audio.segments import WindowError, windows


@pytest.mark.parametrize(
    ("length", "window", "hop", "expected"),
    [
        (10, 4, 3, [(0, 4), (3, 7), (6, 10)]),
        (11, 4, 3, [(0, 4), (3, 7), (6, 10), (7, 11)]),  # the rest: full, and ends at the end
        (3, 4, 1, [(0, 3)]),
        (4, 4, 4, [(0, 4)]),
        (9, 4, 4, [(0, 4), (4, 8), (5, 9)]),
    ],
)
def test_windows_are_full_and_leave_nothing_out(length, window, hop, expected):
    assert list(windows(length, window, hop)) == expected


def test_rounding_adds_no_window():
    ends = [end for _, end in windows(10.0, 3.0, 0.1)]
    assert len(ends) == 71 and ends[-1] == pytest.approx(10)


@pytest.mark.parametrize("hop", [0, -1, 5])
def test_hop_that_leaves_gaps_is_refused(hop):
    with pytest.raises(WindowError, match="hop"):
        list(windows(10, 4, hop))
