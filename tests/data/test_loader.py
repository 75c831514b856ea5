"""Errors of a dataset arrive unchanged from any number of workers."""

import pytest
import torch.utils.data

from paraclap.audio import AudioError
from paraclap.data.loader import Loader


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, row):
        if row == 4:
            raise AudioError("truncated", "clip4.wav is truncated")
        return row


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_errors_unchanged(workers):
    batches = iter(Loader(Numbers(), list, batch_size=2, num_workers=workers))
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    with pytest.raises(AudioError, match=r"^clip4\.wav is truncated$") as caught:
        next(batches)
    assert caught.value.reason == "truncated"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        list(Loader(Numbers(), lambda items: 1 / 0, batch_size=2))
