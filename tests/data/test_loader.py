"""Batches and errors are the same for any number of threads and processes."""

import gc
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
import torch.utils.data

from paraclap.audio import AudioError
from paraclap.cores import usable_cores
from paraclap.data import loader
from paraclap.data.loader import Loader, WorkerError

PAIRS = [[0, 1], [2, 3], [4, 5]]
WAYS = [(0, False), (2, False), (1, True), (3, True)]


class Numbers(torch.utils.data.Dataset):
    """Numbers, read by threads if they are in memory; one cannot be read."""

    def __init__(self, in_memory=False, fault=None):
        self.in_memory, self.fault, self.threads = in_memory, fault, set()

    def files(self, rows):
        return [f"clip{row}.wav" for row in rows]

    def __getitem__(self, row):
        self.threads.add(threading.current_thread().name)
        if row == 4:
            if self.fault is not None:
                self.fault()
            raise AudioError("truncated", "clip4.wav is truncated")
        return row


@pytest.mark.parametrize("workers, in_memory", WAYS)
def test_batches_come_in_order_and_errors_unchanged(workers, in_memory):
    batches = iter(Loader(Numbers(in_memory), list, PAIRS, workers))
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    with pytest.raises(AudioError, match=r"^clip4\.wav is truncated$") as caught:
        next(batches)
    assert caught.value.reason == "truncated"


def test_what_is_in_memory_is_read_by_threads():
    numbers = Numbers(in_memory=True)
    next(iter(Loader(numbers, list, PAIRS, 2)))
    assert {name.split("_")[0] for name in numbers.threads} == {"loader"}
    numbers = Numbers(in_memory=True)
    next(iter(Loader(numbers, list, PAIRS)))
    assert numbers.threads == {threading.main_thread().name}


@pytest.mark.parametrize("workers, in_memory", WAYS)
def test_tensors_arrive_unchanged(workers, in_memory):
    small, large = torch.arange(6).view(2, 3).T, torch.arange(loader.SMALL, dtype=torch.float32)

    def collate(rows):
        return {"row": rows, "pair": (small, small.bool()), "large": large}

    (batch,) = Loader(Numbers(in_memory), collate, [[3]], workers)
    assert batch["row"] == [3]
    for found, sent in zip(
        (*batch["pair"], batch["large"]), (small, small.bool(), large), strict=True
    ):
        assert torch.equal(found, sent) and found.dtype == sent.dtype


@pytest.mark.parametrize("workers, in_memory", WAYS)
def test_other_errors_keep_their_traceback(workers, in_memory):
    with pytest.raises(ZeroDivisionError):
        list(Loader(Numbers(in_memory), lambda items: 1 / 0, PAIRS, workers))


def test_lost_worker_is_an_error_that_names_the_files_being_read():
    numbers = Numbers(fault=lambda: os._exit(3))
    batches = iter(Loader(numbers, list, PAIRS, 1))
    assert next(batches) == [0, 1]
    with pytest.raises(WorkerError, match=r"exited.*being read: .*'clip4.wav', 'clip5.wav'\]"):
        list(batches)


def test_more_workers_than_cores_are_no_warning(recwarn):
    workers = usable_cores() + 1
    assert list(Loader(Numbers(), list, PAIRS[:1], workers)) == [[0, 1]]
    assert not [str(w.message) for w in recwarn if "DataLoader" in str(w.message)]


def test_workers_end_with_an_error():
    begin = time.monotonic()
    with pytest.raises(AudioError) as caught:
        list(Loader(Numbers(), list, PAIRS, 2))
    del caught
    gc.collect()
    assert time.monotonic() - begin < 4  # torch waits 5 s for a worker that does not react


@pytest.mark.parametrize("in_memory", [False, True])
def test_hanging_worker_is_an_error_that_names_the_files_being_read(in_memory):
    slow = Numbers(in_memory, fault=lambda: time.sleep(2))
    with pytest.raises(WorkerError, match=r"timed out after .*\['clip4.wav', 'clip5.wav'\]"):
        list(Loader(slow, list, PAIRS, 1, timeout=0.5))


def test_worker_that_does_not_react_is_killed(monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    stopped = Numbers(fault=lambda: os.kill(os.getpid(), signal.SIGSTOP))
    with pytest.raises(WorkerError, match="timed out"):
        list(Loader(stopped, list, PAIRS, 1, timeout=0.5))
    for worker in multiprocessing.active_children():  # which the interpreter waits for at its end
        worker.join(5)
        assert not worker.is_alive()


def raising(error):
    def fault():
        raise error

    return fault


@pytest.mark.parametrize("workers, in_memory", WAYS)
@pytest.mark.parametrize("error", [RuntimeError("wrong size"), TimeoutError("no server")])
def test_error_of_the_dataset_is_not_that_of_a_lost_worker(workers, in_memory, error):
    with pytest.raises(type(error), match=str(error)) as caught:
        list(Loader(Numbers(in_memory, raising(error)), list, PAIRS, workers))
    assert not isinstance(caught.value, WorkerError)


@pytest.mark.parametrize("workers, in_memory", WAYS)
def test_end_of_an_iterator_in_the_dataset_is_not_the_end_of_the_batches(workers, in_memory):
    with pytest.raises(RuntimeError):
        list(Loader(Numbers(in_memory, raising(StopIteration())), list, PAIRS, workers))


def test_full_shared_memory_is_one_sentence(monkeypatch):
    full = raising(RuntimeError("unable to allocate shared memory(shm): No space left on device"))
    monkeypatch.setattr(torch.Tensor, "share_memory_", lambda tensor: full())
    with pytest.raises(WorkerError, match=r"^unable to .* on device; fewer workers"):
        list(Loader(Numbers(), lambda rows: {"large": torch.zeros(loader.SMALL)}, PAIRS, 1))


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_worker_that_dies_while_its_tensor_is_fetched_is_a_lost_worker(monkeypatch, error):
    def lost(self):
        raise error

    monkeypatch.setattr(torch.utils.data.dataloader._BaseDataLoaderIter, "__next__", lost)
    monkeypatch.setattr(loader, "DEATH", 0.0)
    with pytest.raises(WorkerError, match="DataLoader worker exited"):
        list(Loader(Numbers(), list, PAIRS, 1))


def test_shared_memory_is_used_again_but_never_changes_a_batch():
    batches = [[row % 3] * (1 + row) for row in range(12)]

    def collate(rows):
        return {"large": torch.tensor(rows)[:, None].expand(-1, loader.SMALL)}

    read = list(Loader(Numbers(), collate, batches, 2))
    for rows, batch in zip(batches, read, strict=True):
        assert torch.equal(batch["large"], collate(rows)["large"])
