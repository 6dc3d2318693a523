"""The growing map of one concept as the sampler's preview."""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.utils
from PIL import Image
from torch import Tensor

from ...concepts import ConceptSet
from ...maps import ReadSpec, read_maps
from ...masks import upsample
from ...output.render import draw_heat_map
from ...recording import Recording
from .store import NotRecorded

MOST_PIXELS = 512  # along the longer side of a preview


@dataclass(frozen=True)
class Live:
    """Which concept to show, and after how many steps each time."""

    name: str
    every: int = 4

    def check(self, concepts: ConceptSet) -> "Live":
        """Itself, or an error for a name that is no concept."""
        concepts.index_of(self.name)
        return self

    def begin(self) -> "View":
        return View(self)


@dataclass
class View:
    """The previews of one run."""

    live: Live
    mean: Tensor | None = None
    """Of the maps looked at so far, `y x`."""
    count: int = 0

    def show(self, step: int, total: int, recorded: Callable[[], Recording | NotRecorded]) -> None:
        """After a step: the mean over the steps looked at so far, of the first picture.

        Only the step at hand is read, so that the cost does not grow with the run.
        """
        if (step + 1) % self.live.every:
            return
        recording = recorded()
        if isinstance(recording, NotRecorded) or recording.steps[-1][1] != step:
            return
        maps = read_maps(recording, ReadSpec(steps=str(step))).of_image(0)
        now = maps.of(self.live.name)
        self.count += 1
        mean = self.mean = now if self.mean is None else self.mean + (now - self.mean) / self.count
        shrink = min(1.0, MOST_PIXELS / max(maps.grid.h, maps.grid.w))
        size = (round(maps.grid.h * shrink), round(maps.grid.w * shrink))
        heat = upsample(mean[None], maps.grid, size)[0, 0]
        picture = Image.fromarray(draw_heat_map(heat, heat.min().item(), heat.max().item()))
        bar = comfy.utils.ProgressBar(total)
        bar.update_absolute(step + 1, total, ("JPEG", picture, MOST_PIXELS))
