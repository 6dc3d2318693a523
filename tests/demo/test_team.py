"""Processes that train together."""

import socket

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from torch import nn

from demo.training.team import Team


def average_in_process(rank: int, port: int, folder: str) -> None:
    import os

    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    team = Team()
    model = nn.Linear(2, 1)
    model.weight.grad = torch.full((1, 2), float(rank))
    model.bias.grad = torch.tensor([10.0 * rank])
    figures = team.average(model, 4.0 * rank)
    result = model.weight.grad.flatten().tolist() + model.bias.grad.tolist() + figures
    torch.save((team.leads, team.share(32), result), f"{folder}/{rank}.pt")
    team.wait()
    torch.distributed.destroy_process_group()


def test_a_team_averages_gradients_and_figures(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(average_in_process, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == (True, 16, [0.5, 0.5, 5.0, 2.0])
    assert second == (False, 16, [0.5, 0.5, 5.0, 2.0])


def test_one_process_keeps_what_it_has():
    team = Team()
    model = nn.Linear(2, 1)
    model.weight.grad = torch.ones(1, 2)
    assert team.average(model, 3.0, 0.5) == [3.0, 0.5]
    assert model.weight.grad.tolist() == [[1.0, 1.0]]
    assert team.leads
    assert team.share(7) == 7
    team.wait()


def test_a_batch_must_divide():
    team = Team()
    team.size = 2
    with pytest.raises(ValueError, match="2 processes cannot share batches of 7"):
        team.share(7)
