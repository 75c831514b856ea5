"""Exchanges between processes, loss and gradients of all, and errors that stop all."""

import os
import signal
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paraclap import distributed
from paraclap.model.modeling_paraclap import clip_loss, scaled_cosines
from paraclap.signals import Stopped
from paraclap.training import gradient_sum
from paraclap.training.losses import LOSSES

CPU = torch.device("cpu")
TOTAL = 7  # rows; no number of processes here divides it


# --- Exchanges -----------------------------------------------------------------------------------


def exchanges():
    with distributed.processes(CPU, 60):
        number = distributed.rank()
        rows = torch.arange(TOTAL * 2.0).view(TOTAL, 2)
        own = rows[distributed.share(TOTAL)].clone().requires_grad_()
        gathered = distributed.gather(own, TOTAL)
        ((number + 1) * gathered).sum().backward()
        replaced = torch.tensor([number + 5.0])
        distributed.broadcast_in_place([replaced])
        return {
            "share": [distributed.share(TOTAL).start, distributed.share(TOTAL).stop],
            "gathered": gathered.detach(),
            "gradient": own.grad,
            "sum": distributed.sum_in_place(torch.tensor([1.0, number])),
            "largest": distributed.largest(number, -number),
            "replaced": replaced.item(),
            "broadcast": distributed.broadcast({"by": number, "text": ["x"]}),
        }


@pytest.mark.parametrize("world", [2, 3])
def test_exchanges_give_every_process_the_values_of_all(together, world):
    run = together(world, exchanges)
    assert run.codes == [0] * world, run.errors
    limits = [edge for result in run.results for edge in result["share"]]
    assert limits[0] == 0 and limits[-1] == TOTAL and limits[1:-1:2] == limits[2::2]
    for result in run.results:
        assert torch.equal(result["gathered"], torch.arange(TOTAL * 2.0).view(TOTAL, 2))
        assert (result["gradient"] == sum(range(1, world + 1))).all()
        assert result["sum"].tolist() == [world, sum(range(world))]
        assert result["largest"] == [world - 1, 0]
        assert result["replaced"] == 5
        assert result["broadcast"] == {"by": 0, "text": ["x"]}


def test_a_single_process_exchanges_nothing():
    tensor = torch.ones(3, 2)
    with distributed.processes(CPU):
        assert not torch.distributed.is_initialized()
        assert (
            distributed.gather(tensor, 3) is tensor and distributed.sum_in_place(tensor) is tensor
        )
        assert distributed.share(5) == slice(0, 5) and distributed.largest(3, 1) == [3, 1]
        assert distributed.broadcast("x") == "x" and distributed.rank() == 0
        distributed.meet()


def wrong_share():
    with distributed.processes(CPU, 60):
        distributed.gather(torch.ones(5, 1), TOTAL)


def test_rows_that_are_not_the_share_are_refused(together):
    run = together(2, wrong_share)
    assert all("5 rows, expected" in result and "of 7" in result for result in run.results)


# --- Loss and gradients --------------------------------------------------------------------------


class Towers(nn.Module):
    """Two small branches in float64, one with a part that no step uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.audio = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))
        self.text = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 5))
        self.unused = nn.Linear(5, 5)
        self.sometimes = nn.Linear(5, 5)
        self.double()

    def forward(self, audio, text, skip=False):
        audio = F.normalize(self.audio(audio), dim=-1)
        if not skip:
            audio = F.normalize(audio + self.sometimes(audio), dim=-1)
        return audio, F.normalize(self.text(text), dim=-1)


def batch_of(seed):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(TOTAL, 6, generator=generator, dtype=torch.float64)
    text = torch.randn(TOTAL, 4, generator=generator, dtype=torch.float64)
    true = (torch.rand(TOTAL, TOTAL, generator=generator) < 0.3) | torch.eye(TOTAL).bool()
    return audio, text, true.double()  # row: clip, column: caption


def trained(name, steps=2, skipping=-1, chunks=1):
    """Losses and gradients of some steps; process `skipping` skips a layer in the second."""
    with distributed.processes(CPU, 60):
        model, objective = Towers(), LOSSES[name]().double()
        parameters = [*model.parameters(), *objective.parameters()]
        together, optimizer = (
            gradient_sum.GradientSum(parameters),
            torch.optim.AdamW(parameters, 0.01),
        )
        losses, own = [], distributed.share(TOTAL)
        for step in range(steps):
            audio, text, true = batch_of(step)
            embedded = model(
                audio[own], text[own], skip=step == 1 and distributed.rank() == skipping
            )
            loss = objective(*embedded, model.logit_scale, (true[own], true.T[own]))
            optimizer.zero_grad()
            together.expect()
            loss.backward()
            together.finish()
            losses.append(distributed.sum_in_place(loss.detach().clone()))
            gradients = {n: p.grad for n, p in model.named_parameters()}
            gradients |= {f"loss.{n}": p.grad for n, p in objective.named_parameters()}
            optimizer.step()
        return {"losses": torch.stack(losses), "gradients": gradients}


def expected_gradients(name):
    """The same steps by formulas over the whole batch, without the tested code."""
    model, bias = Towers(), nn.Parameter(torch.tensor(-10.0, dtype=torch.float64))
    parameters = [*model.parameters(), *([bias] if name == "sigmoid" else [])]
    optimizer, losses = torch.optim.AdamW(parameters, 0.01), []
    for step in range(2):
        audio, text, true = batch_of(step)
        logits = scaled_cosines(*model(audio, text), model.logit_scale)
        if name == "sigmoid":
            loss = F.binary_cross_entropy_with_logits(logits + bias, true, reduction="sum") / TOTAL
        else:
            loss = clip_loss(logits, true)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    return torch.stack(losses), gradients | ({"loss.bias": bias.grad} if name == "sigmoid" else {})


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("world", [2, 3])
def test_loss_and_gradients_equal_those_of_one_process_on_the_whole_batch(together, name, world):
    losses, gradients = expected_gradients(name)
    assert gradients["unused.weight"] is None and gradients["logit_scale"] != 0
    run = together(world, trained, name)
    assert run.codes == [0] * world, run.errors
    for result in run.results:
        assert torch.allclose(result["losses"], losses, rtol=1e-10, atol=0)
        assert result["gradients"].keys() == gradients.keys()
        for parameter, gradient in gradients.items():
            if gradient is None:
                assert result["gradients"][parameter] is None
            else:
                error = (result["gradients"][parameter] - gradient).norm() / gradient.norm()
                assert error < 1e-10, parameter


def test_without_gathering_shapes_do_not_match(together, monkeypatch):
    monkeypatch.setattr("paraclap.training.losses.gather", lambda tensor, total: tensor)
    run = together(2, trained, "contrastive")
    assert all("RuntimeError" in result for result in run.results)  # shapes do not match


def test_small_buckets_and_logits_by_rows_change_nothing(together, monkeypatch):
    monkeypatch.setattr(gradient_sum, "BUCKET_BYTES", 200)
    monkeypatch.setattr("paraclap.training.losses.LOGITS_AT_ONCE", TOTAL)
    losses, gradients = expected_gradients("sigmoid")
    run = together(2, trained, "sigmoid")
    for result in run.results:
        assert torch.allclose(result["losses"], losses, rtol=1e-10, atol=0), run.errors
        for parameter, gradient in gradients.items():
            if gradient is not None:
                found = result["gradients"][parameter]
                assert torch.allclose(found, gradient, rtol=1e-9, atol=1e-14)


def test_a_layer_that_one_process_skips_gets_the_gradients_of_the_others(together):
    run = together(2, trained, "contrastive", 3, 1)
    assert run.codes == [0, 0], run.errors
    first, second = (result["gradients"] for result in run.results)
    for name, gradient in first.items():
        assert gradient is None or torch.equal(gradient, second[name])
    assert first["sometimes.weight"].norm() > 0 and first["unused.weight"] is None


def changed_after_sending():
    with distributed.processes(CPU, 60):
        model = nn.Linear(2, 2)
        together = gradient_sum.GradientSum(model.parameters())
        together.expect()
        for _ in range(2):
            model(torch.ones(1, 2)).sum().backward()


def test_a_gradient_that_changes_after_it_was_sent_is_an_error(together):
    run = together(2, changed_after_sending)
    assert all("changed after it was sent" in result for result in run.results)


# --- Errors --------------------------------------------------------------------------------------

NEVER = 1000  # s; tests that would wait for it fail first


@pytest.fixture
def impatient(monkeypatch):
    """Shorter waiting times, but long enough for a busy machine."""
    for name, seconds in {"BEAT": 0.3, "PATIENCE": 1.0, "GRACE": 5.0}.items():
        monkeypatch.setattr(distributed, name, seconds)


def failing(fault, timeout):
    with distributed.processes(CPU, timeout):
        distributed.meet()
        if distributed.rank() == 1:
            FAULTS[fault]()
        distributed.sum_in_place(torch.ones(10))
        distributed.meet()
    return "went on"


def raise_error():
    raise OSError("the disk is full")


def raise_in_flight():
    work = torch.distributed.all_reduce(torch.ones(10), async_op=True)
    raise OSError("the disk is full") if work else None  # keeps the connections open


def raise_stopped():
    raise Stopped(signal.SIGTERM, "saved")


FAULTS = {
    "error": raise_error,
    "error in flight": raise_in_flight,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exited": lambda: os._exit(3),
    "hangs": lambda: time.sleep(NEVER),
}


@pytest.mark.parametrize("fault", ["error", "error in flight"])
def test_an_error_of_one_process_stops_all_with_its_message(together, impatient, fault):
    run = together(3, failing, fault, NEVER)
    assert run.results.pop(1) == "OSError: the disk is full"
    assert set(run.results) == {"PeerError: process 1: OSError: the disk is full"}
    assert 0 not in run.codes


@pytest.mark.parametrize("fault, code", [("killed", -signal.SIGKILL), ("exited", 3)])
def test_a_lost_process_is_named_by_the_others(together, impatient, fault, code):
    run = together(3, failing, fault, NEVER)
    assert run.codes.pop(1) == code and set(run.codes) == {1}
    assert run.results.pop(1) is None
    for result in run.results:
        assert "PeerError: process 1 exited without an error message" in result


def test_a_process_that_hangs_is_named_and_ended(together, impatient):
    run = together(2, failing, "hangs", 5)
    assert "PeerError: process 1 did not answer in time" in run.results[0]
    assert run.codes == [1, 1] and "process 1 ends: process 1 did not answer" in run.errors[1]


def first_fails():
    with distributed.processes(CPU, NEVER):
        distributed.meet()
        if distributed.rank() == 0:
            raise OSError("no space")
        time.sleep(NEVER)  # outside of any exchange, such as reading


def test_a_process_that_does_not_notice_is_ended_although_the_store_is_gone(together, impatient):
    run = together(2, first_fails)
    assert run.codes == [1, 1] and "OSError: no space" in run.errors[1]


def stopped():
    with distributed.processes(CPU, NEVER):
        distributed.meet()
        raise_stopped()


def test_all_stop_together_on_an_agreed_signal(together):
    run = together(3, stopped)
    assert run.codes == [75] * 3 and set(run.results) == {"Stopped: SIGTERM: saved"}


def printing():
    with distributed.processes(CPU, 60):
        print(f"printed by {distributed.rank()}", flush=True)


def test_only_process_0_prints(together, capfd):
    assert together(2, printing).codes == [0, 0]
    assert capfd.readouterr().out == "printed by 0\n"


def test_float32_convolutions_on_a_gpu_are_not_rounded_to_tf32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert str(distributed.device_named("auto")) == "cuda:0"
    assert not torch.backends.cudnn.allow_tf32
