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
from .attention import Method, token_mean
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


def board(spec: RecordSpec, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Who rides: the rows `t n` of all concepts, and their `token_mean`, from each one's own."""
    for concept, own in zip(spec.concepts.concepts, rows, strict=True):
        if len(own) == 0:
            raise ConceptAttentionError(
                f"The text encoder reads nothing in '{concept.words}' ({concept.name}). "
                "Give it words: 'name: words'."
            )
    if spec.tokens == "first":
        rows = [own[:1] for own in rows]
    owners = torch.tensor([c for c, own in enumerate(rows) for _ in own])
    return torch.cat(rows), token_mean(owners)


@dataclass(frozen=True)
class Grid:
    """The patch grid and the picture it covers. Padding lies at the right and at the bottom."""

    y: int
    x: int
    patch: int
    """Pixels along one side of a patch."""
    h: int
    w: int
    size: tuple[int, int] | None = None
    """The picture's own h and w, where it was resized to be looked at."""

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

    def __init__(self, spec: RecordSpec, grid: Grid, blocks: Sequence[int], steps: int, model: str):
        self.spec, self.grid, self.blocks, self.model = spec, grid, tuple(blocks), model
        self.steps = steps
        self._scores: Tensor | None = None  # b slot block c y x; a slot is a step or a few
        self._heard: list[list[int]] = []  # for each slot the steps that were added to it

    def add(self, step: int, scores: Sequence[Tensor]) -> None:
        """One forward of the model at sampling step `step`: `b c p` for each scored block.

        Several forwards in a step (second-order samplers, several prompts) are averaged.
        """
        stacked = torch.stack(list(scores), dim=1).float().cpu()
        forward = rearrange(stacked, "b block c (y x) -> b block c y x", y=self.grid.y)
        kept = self._scores
        if kept is None:
            affordable = self.spec.budget_mib * 2**20 // forward.nbytes
            slots = max(1, min(self.steps, affordable))
            kept = forward.new_zeros(len(forward), slots, *forward.shape[1:])
            self._scores = kept
            self._heard = [[] for _ in range(slots)]
        slot = step * len(self._heard) // self.steps
        self._heard[slot].append(step)
        mean = kept[:, slot]
        mean += (forward - mean) / len(self._heard[slot])

    def finish(self) -> Recording:
        """The frozen recording; an error when nothing was captured."""
        if self._scores is None:
            raise ConceptAttentionError(
                f"Nothing was captured while {self.model} sampled: something else seems to "
                "replace its blocks or its attention as a whole. Try without it."
            )
        used = [slot for slot, steps in enumerate(self._heard) if steps]
        scores = self._scores if len(used) == len(self._heard) else self._scores[:, used]
        steps = tuple((min(self._heard[slot]), max(self._heard[slot])) for slot in used)
        return Recording(scores, self.spec, self.grid, steps, self.blocks, self.model)
