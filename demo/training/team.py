"""Several processes that train one model: torchrun --nproc-per-node 2 -m demo.train ...

Each draws its share of a batch, and the gradients are averaged. On a CPU this is faster than one
process with as many threads: the operations of a small model are too short to be split.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn


class Team:
    """This process and its fellows; alone unless torchrun started it."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come this far."""
        if self.size > 1:
            dist.barrier()

    def share(self, batch: int) -> int:
        """How many pictures of a batch are this process's own."""
        if batch % self.size:
            raise ValueError(f"{self.size} processes cannot share batches of {batch} evenly")
        return batch // self.size

    def average(self, model: nn.Module, *figures: float) -> list[float]:
        """Average the gradients, and some figures, over all; returns the figures."""
        if self.size == 1:
            return list(figures)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        told = torch.tensor(figures, device=gradients[0].device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), told]) / self.size
        dist.all_reduce(flat)
        *averaged, told = flat.split([*(gradient.numel() for gradient in gradients), len(told)])
        torch._foreach_copy_(gradients, [a.view_as(g) for a, g in zip(averaged, gradients)])
        return told.tolist()
