"""What one call of the model covers: the whole image, or a window of a video's time."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...recording import Grid

TIME = 2  # the axis of a video's latent `b c t h w`


@dataclass(frozen=True)
class VisiblePart:
    """The part of a latent that a call of the model is given."""

    grid: Grid
    """Of this part."""
    frames: list[int] | None
    """Some frames of a video, in the order in which they are given; None: all there is."""


def visible_part(
    x: Tensor, latent: torch.Size, chunks: int, grid: Grid, window: Any
) -> VisiblePart | None:
    """What a call with `x` covers, if that is all of the batch and of the image; else None.

    `x` holds `chunks` prompts for a `latent` with this grid. A prompt for a part of the image, or
    a tile of it, is a smaller latent: another grid. A context window along the time of a video
    holds some of its frames, each of them whole.
    """
    batch, *shape = latent
    if window is None:
        return VisiblePart(grid, None) if list(x.shape) == [batch * chunks, *shape] else None
    if window.dim != TIME or len(latent) != 5 or grid.time.patch != 1:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    frames = [*([] if anchor is None else [anchor]), *window.index_list]
    channels, _, h, w = shape
    if list(x.shape) != [batch * chunks, channels, len(frames), h, w]:
        return None
    return VisiblePart(replace(grid, time=replace(grid.time, latents=len(frames))), frames)


class WindowedStep:
    """One step of a video that the model is given window by window."""

    def __init__(self, step: int, grid: Grid):
        self.step = step
        self._frames: list[list[Tensor]] = [[] for _ in range(grid.time.frames)]  # block b c p

    @property
    def complete(self) -> bool:
        """Whether every frame was in a window."""
        return all(self._frames)

    def add(self, frames: list[int], scores: list[Tensor]) -> None:
        """Add the scores of a window, `b c (frame p)` of each block."""
        own = torch.stack(scores).float().cpu()
        own = rearrange(own, "block b c (frame p) -> frame block b c p", frame=len(frames))
        for frame, of_frame in zip(frames, own, strict=True):
            self._frames[frame].append(of_frame)

    def scores(self) -> list[Tensor]:
        """For each block `b c (frame p)`, of every frame the mean over the windows it is in."""
        means = torch.stack([torch.stack(scores).mean(0) for scores in self._frames])
        return list(rearrange(means, "frame block b c p -> block b c (frame p)"))
