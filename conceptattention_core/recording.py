"""The scores of a sampling run, kept apart by step and block.

Because steps and blocks stay apart, ranges, the order of softmax and mean, and the temperature
can change after sampling without sampling again. Memory is bounded by a stated budget: a run that
would exceed it keeps the running mean of neighbouring steps instead, and where one step alone
would exceed it, the mean of neighbouring blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor

from . import ConceptAttentionError
from .attention import Method
from .concepts import ConceptSet
from .ranges import name_span, share_out

TOKENS = ("all", "first")
BUDGET_MIB = 64
NOT_FINITE = "values that are not finite (NaN or infinity)"


def is_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor infinity. The sum tells fast, unless it overflows."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


@dataclass(frozen=True)
class RecordSpec:
    """What is recorded of a run."""

    concepts: ConceptSet
    """What to find."""
    tokens: str = "all"
    """Which text tokens stand for a concept, one of TOKENS. The paper's: first."""
    method: Method = field(default_factory=Method)
    """What concepts attend to and where they are compared."""
    blocks: str = "all"
    """Joint-attention blocks to record, from 0: a range as `ranges.select` takes it."""
    budget_mib: int = BUDGET_MIB
    """MiB of memory for the scores. What needs more is averaged over neighbouring steps."""

    def __post_init__(self):
        if self.tokens not in TOKENS:
            raise ConceptAttentionError(
                f"Unknown choice '{self.tokens}' for tokens. Accepted: {', '.join(TOKENS)}."
            )
        if not 1 <= self.budget_mib < math.inf:
            raise ConceptAttentionError(
                f"A memory budget of {self.budget_mib} MiB holds nothing; give 1 MiB or more."
            )


@dataclass(frozen=True)
class FrameLayout:
    """How the images of a video lie in its latent; an image is a video of one."""

    latents: int = 1
    """Cells of the latent along time. The first one is one image."""
    frames_per_latent: int = 1
    """Images in each of the others."""
    patch: int = 1
    """Cells along the side of a patch that goes along time. Padding comes last."""
    lead_padding: int = 0
    """Cells in front of the first image: padding that is thrown away after sampling."""

    @property
    def frames(self) -> int:
        """Patches along time."""
        return -(-self.latents // self.patch)

    @property
    def pictures(self) -> int:
        return 1 + (self.latents - self.lead_padding - 1) * self.frames_per_latent

    def frame_of(self, picture: int) -> float:
        """Where an image lies among the frames, each of which stands in the middle of its own."""
        second = (self.frames_per_latent + 1) / 2  # the middle of the second cell
        cell = (
            picture / second
            if picture < second
            else 1 + (picture - second) / self.frames_per_latent
        )
        frame = (self.lead_padding + cell + 0.5) / self.patch - 0.5
        return min(max(frame, 0.0), self.frames - 1.0)


@dataclass(frozen=True)
class Grid:
    """The patch grid and the image it covers. Padding lies at the right and at the bottom."""

    y: int
    x: int
    patch: int
    """Pixels along one side of a patch."""
    h: int
    w: int
    size: tuple[int, int] | None = None
    """The image's own h and w, where the model saw it in another size."""
    time: "FrameLayout" = FrameLayout()

    @classmethod
    def of_latent(
        cls, h: int, w: int, patch: int = 2, scale: int = 8, time: "FrameLayout | None" = None
    ) -> "Grid":
        """The grid over a latent of `h` by `w`, padded up to whole patches."""
        y, x = -(-h // patch), -(-w // patch)
        return cls(y, x, patch * scale, h * scale, w * scale, time=time or FrameLayout())

    @property
    def patches(self) -> int:
        """How many patches an image or a video has."""
        return self.time.frames * self.y * self.x


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """The raw scores of one run, on the host. The frames of a video follow one another in `b`."""

    scores: Tensor  # b step block c y x, float32
    spec: RecordSpec
    grid: Grid
    steps: tuple[tuple[int, int], ...]
    """For each entry of the step axis the first and last sampling step it is the mean of."""
    blocks: tuple[tuple[int, int], ...]
    """For each entry of the block axis the first and last block it is the mean of."""
    model: str
    """The family's name."""

    def __post_init__(self):
        if not is_finite(self.scores):
            step, block = (~self.scores.isfinite()).nonzero()[0, 1:3].tolist()
            raise ConceptAttentionError(
                f"{self.model} gave {NOT_FINITE} for concepts at step "
                f"{name_span(self.steps[step])} in block {name_span(self.blocks[block])}: its "
                "weights are broken, or need another precision (bfloat16 or float32)."
            )

    def __repr__(self) -> str:
        count, entries = self.pictures, self.scores.shape
        return (
            f"Recording({self.model}, {', '.join(self.concepts.names)}: {count} "
            f"image{'s' * (count > 1)}, {entries[1]} steps x {entries[2]} blocks, "
            f"{self.nbytes / 2**20:.1f} MiB)"
        )

    @property
    def concepts(self) -> ConceptSet:
        """What was recorded, in the order of axis c."""
        return self.spec.concepts

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.scores.nbytes

    @property
    def pictures(self) -> int:
        """How many images were recorded, those of a video one by one."""
        time = self.grid.time
        return len(self.scores) // time.frames * time.pictures

    def of_length(self, pictures: int) -> "Recording":
        """The same with as many images as each video came out with.

        Where those are fewer than were recorded, cells in front were padding.
        """
        time = self.grid.time
        lead = time.latents - 1 - (pictures - 1) // time.frames_per_latent
        layout = replace(time, lead_padding=lead)
        if not 0 <= lead < time.patch or layout.pictures != pictures:
            raise ConceptAttentionError(
                f"Videos of {time.pictures} pictures were recorded, none of {pictures}."
            )
        return replace(self, grid=replace(self.grid, time=layout))

    def of_image(self, b: int) -> "Recording":
        """One image by itself; of a video, the frame next to it."""
        if not 0 <= b < self.pictures:
            raise ConceptAttentionError(
                f"There is no image {b} in the recording; it has {self.pictures}, from 0."
            )
        time = self.grid.time
        video, picture = divmod(b, time.pictures)
        at = video * time.frames + round(time.frame_of(picture))
        return replace(
            self, scores=self.scores[at : at + 1], grid=replace(self.grid, time=FrameLayout())
        )


class Recorder:
    """Collects the scores of one run while it samples."""

    def __init__(self, spec: RecordSpec, grid: Grid, blocks: Sequence[int], steps: int, model: str):
        self.spec, self.grid, self.blocks, self.model = spec, grid, tuple(blocks), model
        self.steps = steps
        self._scores: Tensor | None = None  # b slot block c y x; a slot is a step or a few
        self._added: list[list[int]] = []  # for each slot the steps that were added to it
        self._parts: list[range] = []  # neighbouring blocks that are kept as one

    def add(self, step: int, scores: Sequence[Tensor]) -> None:
        """One forward of the model at sampling step `step`: `b c p` for each scored block.

        Several forwards in a step (second-order samplers, several prompts) are averaged.
        """
        stacked = torch.stack(list(scores), dim=1).float().cpu()
        forward = rearrange(
            stacked,
            "b block c (frame y x) -> (b frame) block c y x",
            frame=self.grid.time.frames,
            y=self.grid.y,
        )
        budget = self.spec.budget_mib * 2**20
        parts = share_out(len(self.blocks), budget // forward[:, 0].nbytes)
        if len(parts) < len(self.blocks):
            forward = torch.stack([forward[:, list(part)].mean(1) for part in parts], dim=1)
        kept = self._scores
        if kept is None:
            self._parts = parts
            slots = max(1, min(self.steps, budget // forward.nbytes))
            kept = forward.new_zeros(len(forward), slots, *forward.shape[1:])
            self._scores = kept
            self._added = [[] for _ in range(slots)]
        slot = step * len(self._added) // self.steps
        self._added[slot].append(step)
        mean = kept[:, slot]
        mean += (forward - mean) / len(self._added[slot])

    def finish(self) -> Recording:
        """The frozen recording; an error when nothing was captured."""
        if self._scores is None:
            raise ConceptAttentionError(
                f"Nothing was captured while {self.model} sampled: something else seems to "
                "replace its blocks or its attention as a whole. Try without it."
            )
        used = [slot for slot, steps in enumerate(self._added) if steps]
        scores = self._scores if len(used) == len(self._added) else self._scores[:, used]
        steps = tuple((min(self._added[slot]), max(self._added[slot])) for slot in used)
        blocks = tuple((self.blocks[part[0]], self.blocks[part[-1]]) for part in self._parts)
        return Recording(scores, self.spec, self.grid, steps, blocks, self.model)
