"""The maps of one image on its pixels: what all of its files and views are drawn from."""

from functools import cached_property

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from .. import ConceptAttentionError
from ..maps import ConceptMaps, Presence, measure_presence
from ..masks import DEFAULTS, MaskSpec, draw_mask, follow_image, upsample
from ..pixels import ImageArray, to_floats
from .render import (
    LabelMap,
    draw_heat_map,
    draw_label_map,
    draw_overlay,
    draw_sheet,
    find_strongest,
)


class RenderedMaps:
    """The maps of one image on its pixels. Each part is computed once, when it is first needed."""

    def __init__(
        self, maps: ConceptMaps, image: ImageArray | None = None, spec: MaskSpec = DEFAULTS
    ):
        """`maps` are of one image, `image` is that image, which gives them its size and edges.

        Without it they have the size that the latent decodes to. Of `spec` masks need all, maps
        the radius and the smoothness.
        """
        self.maps, self.image, self.spec = maps.require_one(), image, spec

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.image is not None:
            return self.image.shape[0], self.image.shape[1]
        return self.maps.grid.size or (self.maps.grid.h, self.maps.grid.w)

    @property
    def names(self) -> list[str]:
        """The concepts that get a mask, in order."""
        return [self.maps.concepts.names[c] for c in self.maps.concepts.shown]

    @cached_property
    def smooth(self) -> Tensor:
        """The maps on pixels, `c h w`, 0..1."""
        return upsample(self.maps.maps, self.maps.grid, self.size)[0]

    @cached_property
    def sharp(self) -> Tensor:
        """The maps on pixels with the edges of the image, `c h w`, 0..1; without one, `smooth`."""
        if self.image is None:
            return self.smooth
        image = rearrange(to_floats(self.image), "h w rgb -> 1 h w rgb")
        return follow_image(self.smooth[None], self.maps, image, self.spec)[0]

    @cached_property
    def labels(self) -> LabelMap:
        """The position of the strongest concept at each pixel, `h w`, hidden ones included."""
        return find_strongest(self.sharp)

    @cached_property
    def presence(self) -> list[Presence]:
        """How much of each concept the image shows, hidden ones included, in order."""
        return measure_presence(self.maps)[0]

    @cached_property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest value of the shown maps: the ends of the heat maps' scale."""
        planes = [self.smooth[c] for c in self.maps.concepts.shown]
        return min(p.min().item() for p in planes), max(p.max().item() for p in planes)

    def mask(self, c: int) -> NDArray[np.float32]:
        """The mask `h w`, 0..1, of the concept at position `c`."""
        pixels = self.sharp if self.spec.edges else self.smooth
        present = self.presence[c].present
        return draw_mask(self.maps.maps[0], pixels, c, self.spec, present).numpy()

    def heat_map(self, c: int, span: tuple[float, float] | None = None) -> ImageArray:
        """The map of the concept at position `c` in the colours of plasma, `h w rgb`.

        `span` is the value of the darkest and of the brightest colour, where it is not the image's
        own: that of a video, say.
        """
        return draw_heat_map(self.smooth[c], *(span or self.span))

    def overlay(self, strength: float = 0.7) -> ImageArray:
        """The image with each region in the colour of its strongest concept, above a legend.

        `strength` (0..1) is how much of the image the colour hides.
        """
        if self.image is None:
            raise ConceptAttentionError("An overlay is drawn on the image that the maps are of.")
        return draw_overlay(self.image, self.labels, self.maps.concepts, self.presence, strength)

    def label_map(self) -> ImageArray:
        """The labels in flat colours above a legend; hidden concepts are pale."""
        return draw_label_map(self.labels, self.maps.concepts, self.presence)

    def sheet(self, span: tuple[float, float] | None = None) -> ImageArray:
        """The image, where there is one, and the heat map of each shown concept, named."""
        tiles = [] if self.image is None else [("", self.image)]
        shown = self.maps.concepts.shown
        tiles += [(name, self.heat_map(c, span)) for name, c in zip(self.names, shown)]
        return draw_sheet(tiles)
