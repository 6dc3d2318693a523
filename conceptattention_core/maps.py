"""From a recording to one heat map per concept: arXiv 2502.04320, section 4.3."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from . import ConceptAttentionError
from .attention import SPACES
from .concepts import ConceptSet
from .pixels import ImageLike, read_pixels, to_bytes
from .ranges import DEEP, check_range, name_span, select
from .recording import NOT_FINITE, FrameLayout, Grid, Recording, is_finite


def _softmax_then_mean(scores: Tensor, temperature: float) -> Tensor:
    return _softmax(scores, 3, temperature).mean(dim=(1, 2))


def _mean_then_softmax(scores: Tensor, temperature: float) -> Tensor:
    return _softmax(scores.mean(dim=(1, 2)), 1, temperature)


def _softmax(scores: Tensor, dim: int, temperature: float) -> Tensor:
    """The softmax at any temperature above 0: what is divided has 0 as its largest value."""
    below = scores - scores.amax(dim, keepdim=True)
    return (below / max(temperature, torch.finfo(below.dtype).tiny)).softmax(dim)


ORDERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "softmax, then mean": _softmax_then_mean,
    "mean, then softmax": _mean_then_softmax,
}
"""`b step block c y x` -> `b c y x`. The first is the paper's; the second is a different map."""


def _as_they_are(scores: Tensor, order: str, temperature: float) -> Tensor:
    return ORDERS[order](scores, temperature)


def _standardised(scores: Tensor, order: str, temperature: float) -> Tensor:
    """Each concept's scores get mean 0 and spread 1 over the image before they compete.

    So a concept that is strong everywhere no longer hides the others. A concept that is absent
    would be lifted, too: one whose map, as it is, nowhere reaches the share that chance would
    give it takes no part.
    """
    chance = 1 / scores.shape[3] - 1e-6  # rounding must not make all of them absent
    present = ORDERS[order](scores, 1.0).amax((2, 3)) >= chance  # b c
    mean = scores.mean((4, 5), keepdim=True)
    spread = scores.std((4, 5), correction=0, keepdim=True)
    level = (scores - mean) / spread.clamp_min(1e-6)
    absent = rearrange(~present, "b c -> b 1 1 c 1 1")
    return ORDERS[order](level.masked_fill(absent, -torch.inf), temperature)


SCALES: dict[str, Callable[[Tensor, str, float], Tensor]] = {
    "as they are": _as_they_are,
    "standardised": _standardised,
}
"""How scores `b step block c y x` compete in one of ORDERS: `b c y x`. The first is the paper's."""


@dataclass(frozen=True)
class ReadSpec:
    """How maps are read from a recording."""

    steps: str = "all"
    """Sampling steps, from 0: a range as `ranges.select` takes it."""
    blocks: str = DEEP
    """The model's joint-attention blocks, from 0: a range as `ranges.select` takes it."""
    order: str = "softmax, then mean"
    """One of ORDERS. The default is the paper's."""
    temperature: float = 1.0
    """Above 0. Scores are divided by it before the softmax over concepts: above 1 is softer."""
    scale: str = "as they are"
    """How scores compete, one of SCALES. The default is the paper's."""
    space: str | None = None
    """The space of the scores, one of `attention.SPACES`. None: that of the recording.

    It is chosen when a run is recorded: reading in another one is refused.
    """

    def __post_init__(self):
        check_range(self.steps, "steps")
        check_range(self.blocks, "blocks")
        for what, asked, accepted in (("order", self.order, ORDERS), ("scale", self.scale, SCALES)):
            if asked not in accepted:
                raise ConceptAttentionError(
                    f"Unknown {what} '{asked}'. Accepted: {', '.join(accepted)}."
                )
        if not 0 < self.temperature < math.inf:
            raise ConceptAttentionError(
                f"The temperature must be above 0 and finite, got {self.temperature}."
            )
        if self.space is not None and self.space not in SPACES:
            raise ConceptAttentionError(
                f"Unknown space '{self.space}'. Accepted: {', '.join(SPACES)}."
            )

    def resolve(self, recording: Recording) -> "ReadSpec":
        """The same with what it leaves to the recording filled in: its space and its blocks."""
        recorded = recording.spec.method.space
        if self.space not in (None, recorded):
            raise ConceptAttentionError(
                f"Asked for maps in the space '{self.space}', but '{recorded}' was recorded. "
                "Record with the space that you want to read."
            )
        blocks = recording.spec.blocks if self.blocks == "all" else self.blocks
        return replace(self, blocks=blocks, space=recorded)


@dataclass(frozen=True, eq=False, repr=False)
class ConceptMaps:
    """Per patch, how much of each concept: what `read_maps` gives."""

    maps: Tensor
    """`b c y x`, float32, 0..1, summing to 1 over c. Each image of a video is one of `b`."""
    recording: Recording
    """What they were read from."""
    spec: ReadSpec = field(default_factory=ReadSpec)
    """How they were read, with what it left to the recording filled in."""

    def __post_init__(self):
        if not is_finite(self.maps):
            raise ConceptAttentionError(
                f"The maps hold {NOT_FINITE}: nothing can be read off them."
            )

    @property
    def concepts(self) -> ConceptSet:
        """The concepts in the order of axis c."""
        return self.recording.concepts

    @property
    def grid(self) -> Grid:
        """The patch grid y x, and the image that it covers."""
        return self.recording.grid

    def __len__(self) -> int:
        """How many images they are of; those of a video count one by one."""
        return len(self.maps)

    def __repr__(self) -> str:
        count, (y, x) = len(self), self.maps.shape[2:]
        return (
            f"ConceptMaps({', '.join(self.concepts.names)}: {count} image{'s' * (count > 1)} of "
            f"{y} x {x} patches, steps {self.spec.steps}, blocks {self.spec.blocks})"
        )

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the heat maps of the first image."""
        from .output.rendered import RenderedMaps

        file = io.BytesIO()
        Image.fromarray(RenderedMaps(self.of_image(0)).sheet()).save(file, "PNG")
        return file.getvalue()

    def of_image(self, b: int) -> "ConceptMaps":
        """The maps of one image of the batch, from 0."""
        return replace(self, maps=self.maps[b : b + 1], recording=self.recording.of_image(b))

    def of(self, name: str) -> Tensor:
        """The map of one concept, `b y x`."""
        return self.maps[:, self.concepts.index_of(name)]

    @property
    def shown(self) -> Tensor:
        """The maps of the concepts that get a mask, `b c y x`."""
        return self.maps[:, list(self.concepts.shown)]

    def winners(self) -> Tensor:
        """Which concept is strongest at each patch, `b y x`, positions in `concepts`."""
        return self.maps.argmax(dim=1)

    # What is done with the maps of one image. `image` is that image, of any kind that
    # `pixels.read_pixels` takes. Drawing needs OpenCV, which is slow to import: where it is used.

    def masks(
        self, image: ImageLike | None = None, **settings: Any
    ) -> dict[str, NDArray[np.float32]]:
        """The mask `h w`, 0..1, of each shown concept by its name.

        Masks have the size and the edges of the image; without one they have the size that the
        latent decodes to. `settings` are fields of `masks.MaskSpec`.
        """
        from .masks import MaskSpec, draw_masks

        maps, names = self.require_one(), [self.concepts.names[c] for c in self.concepts.shown]
        pixels = None if image is None else read_pixels(image)[None]
        drawn = draw_masks(maps, names, MaskSpec(**settings), image=pixels)
        return dict(zip(names, drawn[:, 0].numpy(), strict=True))

    def overlay(self, image: ImageLike, strength: float = 0.7) -> Image.Image:
        """The image with each region in the colour of its strongest concept, above a legend.

        `strength` (0..1) is how much of the image the colour hides.
        """
        from .output.rendered import RenderedMaps

        rendered = RenderedMaps(self.require_one(), to_bytes(read_pixels(image)))
        return Image.fromarray(rendered.overlay(strength))

    def heat_maps(self) -> dict[str, Image.Image]:
        """The map of each shown concept by its name, on one scale, at the size that the latent
        decodes to.
        """
        from .output.rendered import RenderedMaps

        rendered = RenderedMaps(self.require_one())
        shown = zip(rendered.names, self.concepts.shown)
        return {name: Image.fromarray(rendered.heat_map(c)) for name, c in shown}

    def save(
        self, folder: str | Path, image: ImageLike, *, full_size: bool = False, **settings: Any
    ) -> dict[str, Any]:
        """Write masks, heat maps, overlay, sheet and label map of the image into a folder.

        Their figures are written as report.json, too, and returned. Overlay and sheet have at
        most 2,048 pixels to a side unless `full_size`. `settings` are fields of `masks.MaskSpec`.
        """
        from .files import write_json
        from .masks import MaskSpec
        from .output.export import save_image_files

        out, pixels, spec = Path(folder), to_bytes(read_pixels(image)), MaskSpec(**settings)
        maps = self.require_one()
        out.mkdir(parents=True, exist_ok=True)
        report = save_image_files(out, pixels, maps, spec, full_size)
        write_json(out / "report.json", report)
        return report

    def require_one(self) -> "ConceptMaps":
        """Itself, or an error where they are of several images."""
        if len(self) != 1:
            raise ConceptAttentionError(
                f"These maps are of {len(self)} images: take those of one, as maps.of_image(0)."
            )
        return self


@dataclass(frozen=True)
class Presence:
    """How much of a concept one image shows. All figures 0..1."""

    name: str
    coverage: float
    """Share of the image in which the concept is stronger than every other one."""
    peak: float
    mean: float

    @property
    def present(self) -> bool:
        """Whether the concept is strongest anywhere worth speaking of (0.5 % of the image)."""
        return self.coverage >= 0.005


def read_maps(recording: Recording, spec: ReadSpec = ReadSpec()) -> ConceptMaps:
    """Maps from the chosen part of a recording."""
    spec = spec.resolve(recording)
    scores = choose_scores(recording, spec.steps, spec.blocks)
    maps = SCALES[spec.scale](scores, spec.order, spec.temperature)
    return ConceptMaps(_to_images(maps, recording.grid.time), recording, spec)


def _to_images(maps: Tensor, time: FrameLayout) -> Tensor:
    """Maps of frames `(b frame) c y x` as maps of every image of each video.

    Between two frames maps blend.
    """
    if time.pictures == time.frames:
        return maps
    at = torch.tensor([time.frame_of(picture) for picture in range(time.pictures)])
    before = at.long()
    after = (before + 1).clamp_max(time.frames - 1)
    frames = rearrange(maps, "(b frame) c y x -> b frame c y x", frame=time.frames)
    weight = rearrange(at - before, "picture -> picture 1 1 1")
    blended = torch.lerp(frames[:, before], frames[:, after], weight)
    return rearrange(blended, "b picture c y x -> (b picture) c y x")


def choose_scores(recording: Recording, steps: str = "all", blocks: str = "all") -> Tensor:
    """The raw scores `b step block c y x` of the chosen part of a recording."""
    at, within = choose_entries(recording, steps, blocks)
    return recording.scores[:, at][:, :, within]


def choose_entries(recording: Recording, steps: str, blocks: str) -> tuple[list[int], list[int]]:
    """Where the chosen steps and blocks stand in a recording's scores: neither is empty."""
    last_step = recording.steps[-1][1]
    wanted_steps = select(steps, last_step + 1, "steps")
    wanted_blocks = select(blocks, recording.blocks[-1][1] + 1, "blocks")
    at, within = (
        [i for i, (first, last) in enumerate(spans) if first < wanted.stop and last >= wanted.start]
        for spans, wanted in (
            (recording.steps, wanted_steps),
            (recording.blocks, wanted_blocks),
        )
    )
    if not at:
        raise ConceptAttentionError(
            f"Steps '{steps}' were not recorded; recorded: "
            f"{', '.join(name_span(span) for span in recording.steps)}."
        )
    if not within:
        raise ConceptAttentionError(
            f"Blocks '{blocks}' were not recorded; recorded: "
            f"{name_span((recording.blocks[0][0], recording.blocks[-1][1]))}."
        )
    return at, within


def measure_presence(maps: ConceptMaps) -> list[list[Presence]]:
    """For each image, the presence of each concept, hidden ones included, in order."""
    winners = maps.winners()
    return [
        [
            Presence(
                name,
                coverage=(winners[b] == c).sum().item() / winners[b].numel(),
                peak=maps.maps[b, c].max().item(),
                mean=maps.maps[b, c].mean().item(),
            )
            for c, name in enumerate(maps.concepts.names)
        ]
        for b in range(len(maps.maps))
    ]


def select_images(maps: ConceptMaps, concepts: Sequence[int], coverage: float) -> list[int]:
    """The images, from 0, of which each of these concepts covers this share (0..1) or more."""
    return [
        b
        for b, figures in enumerate(measure_presence(maps))
        if all(figures[c].coverage >= coverage for c in concepts)
    ]


def describe_presence(maps: ConceptMaps) -> str:
    """Presence of each concept in each image as a table for people."""
    width = max(len(name) for name in maps.concepts.names)
    lines = []
    for b, figures in enumerate(measure_presence(maps)):
        if len(maps.maps) > 1:
            lines.append(f"picture {b + 1}")
        for c in maps.concepts.shown:
            figure = figures[c]
            note = "" if figure.present else "   absent"
            lines.append(
                f"{figure.name:{width}}  covers {figure.coverage:6.1%}  "
                f"peak {figure.peak:.2f}  mean {figure.mean:.2f}{note}"
            )
    return "\n".join(lines)
