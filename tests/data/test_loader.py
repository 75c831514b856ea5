"""Errors of a dataset arrive unchanged from any number of workers."""

import pytest
import torch.utils.data

from paraclap.audio import AudioError
from paraclap.data import loader
from paraclap.data.loader import Loader, WorkerError


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


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_worker_that_dies_while_its_tensor_is_fetched_is_a_lost_worker(monkeypatch, error):
    def lost(self):
        raise error
        yield

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", lost)
    monkeypatch.setattr(loader, "DEATH", 0.0)
    with pytest.raises(RuntimeError, match="DataLoader worker exited") as stopped:
        list(Loader([0], collate_fn=dict, num_workers=1))
    with pytest.raises(WorkerError, match=r"\['a.wav'\]"):
        loader.raise_worker_error(stopped.value, ["a.wav"])
    with pytest.raises(type(error)):
        list(Loader([0], collate_fn=dict))
