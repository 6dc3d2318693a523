"""From a recording to one heat map per concept: arXiv 2502.04320, section 4.3."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from . import ConceptAttentionError
from .concepts import ConceptSet
from .ranges import DEEP, name_span, select
from .recording import NOT_FINITE, Grid, Recording, Time, is_finite


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
    """Each concept's scores get mean 0 and spread 1 over the picture before they compete.

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
class ConceptMaps:
    """Per patch, how much of each concept: `b c y x`, float32, 0..1, summing to 1 over c.

    Each picture of a video is one of `b`.
    """

    maps: Tensor
    concepts: ConceptSet
    grid: Grid
    settings: dict[str, object]
    recording: Recording | None = None
    """What they were read from, for views that show its steps and blocks."""

    def __post_init__(self):
        if not is_finite(self.maps):
            raise ConceptAttentionError(
                f"The maps hold {NOT_FINITE}: nothing can be read off them."
            )

    @property
    def source(self) -> Recording:
        """Their recording, or an error where they came without it."""
        if self.recording is None:
            raise ConceptAttentionError("These maps came without their recording.")
        return self.recording

    def picture(self, b: int) -> "ConceptMaps":
        """The maps of one picture of the batch."""
        recording = self.recording
        if recording is not None:
            recording = recording.picture(b)
        return replace(self, maps=self.maps[b : b + 1], recording=recording)

    def of(self, name: str) -> Tensor:
        """The map of one concept, `b y x`."""
        return self.maps[:, self.concepts.find(name)]

    @property
    def shown(self) -> Tensor:
        """The maps of the concepts that get a mask, `b c y x`."""
        return self.maps[:, list(self.concepts.shown)]

    def winners(self) -> Tensor:
        """Which concept is strongest at each patch, `b y x`, positions in `concepts`."""
        return self.maps.argmax(dim=1)


@dataclass(frozen=True)
class Presence:
    """How much of a concept one picture shows. All figures 0..1."""

    name: str
    coverage: float
    """Share of the picture in which the concept is stronger than every other one."""
    peak: float
    mean: float

    @property
    def present(self) -> bool:
        """Whether the concept is strongest anywhere worth speaking of (0.5 % of the picture)."""
        return self.coverage >= 0.005


def reduce(
    recording: Recording,
    *,
    steps: str = "all",
    blocks: str = DEEP,
    order: str = "softmax, then mean",
    temperature: float = 1.0,
    scale: str = "as they are",
) -> ConceptMaps:
    """Maps from the chosen part of a recording.

    `steps` counts sampling steps and `blocks` the model's joint-attention blocks, both from 0
    (see `ranges.select`). Scores are divided by `temperature` (> 0) before the softmax over
    concepts: above 1 is softer, below 1 harder. `scale` is one of SCALES.
    """
    check_reading(order, temperature, scale)
    maps = SCALES[scale](choose(recording, steps, blocks), order, temperature)
    return ConceptMaps(
        _to_pictures(maps, recording.grid.time),
        recording.concepts,
        recording.grid,
        {
            "model": recording.model,
            "tokens": recording.spec.tokens,
            "attend to": recording.spec.method.attend,
            "space": recording.spec.method.space,
            "bounces": recording.spec.method.bounces,
            "steps": steps,
            "blocks": recording.spec.blocks if blocks == "all" else blocks,
            "order": order,
            "temperature": temperature,
            "scale": scale,
        },
        recording,
    )


def check_reading(
    order: str = "softmax, then mean", temperature: float = 1.0, scale: str = "as they are"
) -> None:
    """An error unless scores can be read so."""
    for what, asked, accepted in (("order", order, ORDERS), ("scale", scale, SCALES)):
        if asked not in accepted:
            raise ConceptAttentionError(
                f"Unknown {what} '{asked}'. Accepted: {', '.join(accepted)}."
            )
    if not 0 < temperature < math.inf:
        raise ConceptAttentionError(f"The temperature must be above 0, got {temperature}.")


def _to_pictures(maps: Tensor, time: Time) -> Tensor:
    """Maps of frames `(b frame) c y x` as maps of every picture of each video.

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


def choose(recording: Recording, steps: str = "all", blocks: str = "all") -> Tensor:
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


def presence(maps: ConceptMaps) -> list[list[Presence]]:
    """For each picture, the presence of each concept, hidden ones included, in order."""
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


def describe(maps: ConceptMaps) -> str:
    """Presence of each concept in each picture as a table for people."""
    width = max(len(name) for name in maps.concepts.names)
    lines = []
    for b, figures in enumerate(presence(maps)):
        if len(maps.maps) > 1:
            lines.append(f"picture {b + 1}")
        for c in maps.concepts.shown:
            figure = figures[c]
            said = "" if figure.present else "   absent"
            lines.append(
                f"{figure.name:{width}}  covers {figure.coverage:6.1%}  "
                f"peak {figure.peak:.2f}  mean {figure.mean:.2f}{said}"
            )
    return "\n".join(lines)
