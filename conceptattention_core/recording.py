"""A sampling run, listened to: raw scores kept apart by step and block.

Because steps and blocks stay apart, ranges, the order of softmax and mean, and the temperature
can change after sampling without sampling again. Memory is bounded by a stated budget: a run that
would exceed it keeps the running mean of neighbouring steps instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from . import ConceptAttentionError
from .attention import Method
from .concepts import ConceptSet

TOKENS = ("all", "first")
BUDGET_MIB = 64


@dataclass(frozen=True)
class RecordSpec:
    """What to listen to. `tokens`: which text tokens stand for a concept (the paper: first)."""

    concepts: ConceptSet
    tokens: str = "all"
    method: Method = field(default_factory=Method)
    blocks: str = "all"
    budget_mib: int = BUDGET_MIB

    def __post_init__(self):
        if self.tokens not in TOKENS:
            raise ConceptAttentionError(
                f"Unknown choice '{self.tokens}' for tokens. Accepted: {', '.join(TOKENS)}."
            )
        if self.budget_mib < 1:
            raise ConceptAttentionError(
                f"A memory budget of {self.budget_mib} MiB holds nothing; give 1 MiB or more."
            )


@dataclass(frozen=True)
class Grid:
    """The patch grid and the picture it covers. Padding lies at the right and at the bottom."""

    y: int
    x: int
    patch: int
    """Pixels along one side of a patch."""
    h: int
    w: int

    @classmethod
    def of_latent(cls, h: int, w: int, patch: int = 2, scale: int = 8) -> "Grid":
        """The grid over a latent of `h` by `w`, padded up to whole patches."""
        return cls(-(-h // patch), -(-w // patch), patch * scale, h * scale, w * scale)


@dataclass(frozen=True)
class Recording:
    """The raw scores of one run, on the host."""

    scores: Tensor  # b step block c y x, float32
    spec: RecordSpec
    grid: Grid
    steps: tuple[tuple[int, int], ...]
    """For each entry of the step axis the first and last sampling step it is the mean of."""
    blocks: tuple[int, ...]
    """The model's own number of each entry of the block axis."""
    model: str
    """The family's name."""

    @property
    def concepts(self) -> ConceptSet:
        return self.spec.concepts

    @property
    def nbytes(self) -> int:
        return self.scores.nbytes


class Recorder:
    """Collects one run. Born when sampling starts, gone when it ends."""

    def __init__(
        self, spec: RecordSpec, grid: Grid, blocks: Sequence[int], steps: int, model: str
    ):
        self.spec, self.grid, self.blocks, self.model = spec, grid, tuple(blocks), model
        self.steps = steps
        self._sums: dict[int, Tensor] = {}  # slot -> b block c y x
        self._counts: dict[int, int] = {}
        self._seen: dict[int, list[int]] = {}
        self._slots = 0

    def add(self, step: int, scores: Sequence[Tensor]) -> None:
        """One forward of the model at sampling step `step`: `b c p` for each scored block.

        Several forwards in a step (second-order samplers, several prompts) are averaged.
        """
        stacked = torch.stack(list(scores), dim=1).float().cpu()
        forward = rearrange(stacked, "b block c (y x) -> b block c y x", y=self.grid.y)
        self._slots = self._slots or self._affordable(forward.nbytes)
        slot = step * self._slots // self.steps
        if slot in self._sums:
            self._sums[slot] += forward
            self._counts[slot] += 1
            self._seen[slot].append(step)
        else:
            self._sums[slot], self._counts[slot], self._seen[slot] = forward, 1, [step]

    def finish(self) -> Recording:
        """The frozen recording; an error when nothing was captured."""
        if not self._sums:
            raise ConceptAttentionError(
                f"Nothing was captured while {self.model} sampled: another node seems to replace "
                "its blocks or its attention as a whole. Try without that node."
            )
        slots = sorted(self._sums)
        means = [self._sums.pop(slot).div_(self._counts[slot]) for slot in slots]
        steps = tuple((min(self._seen[slot]), max(self._seen[slot])) for slot in slots)
        scores = torch.stack(means, dim=1)
        return Recording(scores, self.spec, self.grid, steps, self.blocks, self.model)

    def _affordable(self, step_bytes: int) -> int:
        return max(1, min(self.steps, self.spec.budget_mib * 2**20 // step_bytes))
