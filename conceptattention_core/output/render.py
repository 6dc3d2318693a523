"""Drawings of maps: heat maps, overlays with a legend, sheets, label maps."""

import colorsys
from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from .. import ConceptAttentionError
from ..concepts import ConceptSet
from ..maps import ORDERS, SCALES, ConceptMaps, Presence
from ..pixels import ImageArray
from ..ranges import name_span
from .fonts import draw_text, text_width

LabelMap: TypeAlias = NDArray[np.uint8]
"""Positions of concepts, `h w`."""

MOST_TILES = 20
PAPER = (250, 250, 248)

# Colours that stay apart for most eyes, close ones far from each other in the list.
COLOURS = (
    (230, 57, 70), (29, 125, 220), (244, 180, 26), (42, 157, 88), (155, 89, 208), (20, 184, 194),
    (245, 124, 41), (233, 105, 172), (139, 195, 50), (121, 85, 62), (92, 107, 192), (150, 160, 170),
)  # fmt: skip


def concept_colour(index: int) -> tuple[int, int, int]:
    """The colour of the concept at this position."""
    if index < len(COLOURS):
        return COLOURS[index]
    hue = index * 0.618034 % 1
    r, g, b = colorsys.hls_to_rgb(hue, 0.45 + 0.2 * (index % 2), 0.65)
    return round(r * 255), round(g * 255), round(b * 255)


def draw_heat_map(heat: Tensor, low: float, high: float) -> ImageArray:
    """One map `h w` in the colours of plasma, from `low` (dark) to `high` (bright)."""
    scaled = ((heat - low) / max(high - low, 1e-12)).clamp(0, 1)
    grey = (scaled.cpu().numpy() * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)


def find_strongest(pixels: Tensor) -> LabelMap:
    """The position of the strongest of maps `c h w` at each pixel, `h w`."""
    return pixels.argmax(dim=0).cpu().numpy().astype(np.uint8)


def draw_overlay(
    image: ImageArray,
    labels: LabelMap,
    concepts: ConceptSet,
    presence: Sequence[Presence],
    strength: float = 0.7,
) -> ImageArray:
    """Each region of the image in the colour of its concept, with a legend below.

    `strength` (0..1) is how much of the image the colour hides. Hidden concepts stay uncoloured.
    """
    if not 0 <= strength <= 1:
        raise ConceptAttentionError(f"The strength must lie between 0 and 1, got {strength}.")
    palette = np.array([concept_colour(c) for c in range(len(concepts))], np.float32)
    shown = np.isin(labels, concepts.shown)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = grey * 0.8 + image * 0.2  # so that the legend's colours are not mixed with others
    tint = palette[labels] * (0.3 + 0.7 * grey.astype(np.float32) / 255)
    mixed = pale * (1 - strength) + tint * strength
    out = np.where(shown[..., None], mixed, pale).round().astype(np.uint8)
    out[_borders(labels)] = 255
    return np.vstack([out, draw_legend(concepts, presence, image.shape[1])])


def draw_sheet(tiles: Sequence[tuple[str, ImageArray]]) -> ImageArray:
    """Images of one size side by side, each under its name."""
    h, w = tiles[0][1].shape[:2]
    columns, _ = count_tiles(len(tiles))
    gap, caption = _gap(w), _caption_height(w)
    canvas = np.full((*sheet_size(len(tiles), h, w), 3), PAPER, np.uint8)
    for i, (name, tile) in enumerate(tiles):
        y, x = gap + i // columns * (caption + h + gap), gap + i % columns * (w + gap)
        canvas[y : y + caption, x : x + w] = _caption(name, w)
        canvas[y + caption : y + caption + h, x : x + w] = tile
    return canvas


def sheet_size(count: int, h: int, w: int) -> tuple[int, int]:
    """Height and width of a sheet of so many images of `h` by `w` pixels."""
    columns, rows = count_tiles(count)
    gap = _gap(w)
    return rows * (_caption_height(w) + h + gap) + gap, columns * (w + gap) + gap


def count_tiles(count: int) -> tuple[int, int]:
    """Columns and rows of a sheet of so many images."""
    columns = min(count, 4 if count <= 8 else 6)
    return columns, -(-count // columns)


def draw_label_map(
    labels: LabelMap, concepts: ConceptSet, presence: Sequence[Presence]
) -> ImageArray:
    """A label map in flat colours with a legend below; hidden concepts are pale."""
    palette = np.array(
        [concept_colour(c) if c in concepts.shown else PAPER for c in range(len(concepts))],
        np.uint8,
    )
    return np.vstack([palette[labels], draw_legend(concepts, presence, labels.shape[1])])


def draw_blocks_by_steps(maps: ConceptMaps, name: str, b: int = 0, tile: int = 96) -> ImageArray:
    """The map of one concept in each block (rows) and step (columns), on one scale.

    With the temperature and the scale that the maps were read with. Where there are more than
    `MOST_TILES` of either, evenly chosen ones are shown.
    """
    recording, spec = maps.recording.of_image(b), maps.spec
    c = recording.concepts.index_of(name)
    steps, blocks = (_choose_evenly(len(x)) for x in (recording.steps, recording.blocks))
    scores = recording.scores
    read, order = SCALES[spec.scale], next(iter(ORDERS))  # of a single step and block all are alike
    heats = torch.stack(
        [
            torch.stack(
                [read(scores[:, [i]][:, :, [j]], order, spec.temperature)[0, c] for j in blocks]
            )
            for i in steps
        ]
    )  # step block y x
    low, high = heats.min().item(), heats.max().item()
    y, x = heats.shape[-2:]
    w, h = tile, max(1, round(tile * y / x))
    size, gap = _text_size(tile * 8), 3
    left, top = round(6.5 * size), round(1.8 * size)
    rows, columns = len(blocks), len(steps)
    shape = (top + rows * (h + gap), left + columns * (w + gap), 3)
    canvas = np.full(shape, PAPER, np.uint8)
    for row in range(rows):
        for column in range(columns):
            heat = draw_heat_map(heats[column, row], low, high)
            at = (top + row * (h + gap), left + column * (w + gap))
            resized = cv2.resize(heat, (w, h), interpolation=cv2.INTER_NEAREST)
            canvas[at[0] : at[0] + h, at[1] : at[1] + w] = resized
    page = Image.fromarray(canvas)
    pen = ImageDraw.Draw(page)
    for row, block in enumerate(blocks):
        text = f"block {name_span(recording.blocks[block])}"
        middle = top + row * (h + gap) + h / 2
        draw_text(pen, (left - size / 2, middle), text, size, anchor="rm")
    for column, step in enumerate(steps):
        text = name_span(recording.steps[step])
        text = text if "-" in text else f"step {text}"
        middle = left + column * (w + gap) + w / 2
        draw_text(pen, (middle, top / 2), text, size, anchor="mm")
    return np.asarray(page)


def _choose_evenly(count: int) -> list[int]:
    if count <= MOST_TILES:
        return list(range(count))
    return np.linspace(0, count - 1, MOST_TILES).round().astype(int).tolist()


def draw_legend(concepts: ConceptSet, presence: Sequence[Presence], width: int) -> ImageArray:
    """A strip of this width: a swatch, the name and the share of the image for each concept."""
    size = _text_size(width)
    pad, swatch, row = size // 2, round(size * 0.9), round(size * 1.7)
    entries = []
    x = y = 0
    for c, figure in enumerate(presence):
        if c in concepts.shown:
            text = f"{figure.name} {figure.coverage:.0%}" if figure.present else f"{figure.name} -"
            widest = f"{figure.name} 100%"  # so that all images of a batch get the same layout
            extent = swatch + pad + round(text_width(widest, size)) + 2 * pad
            if x and x + extent > width - pad:
                x, y = 0, y + row
            entries.append((x + pad, y + pad, c, text))
            x += extent
    strip = Image.new("RGB", (width, y + row + pad), PAPER)
    pen = ImageDraw.Draw(strip)
    for x, y, c, text in entries:
        pen.rounded_rectangle(
            (x, y, x + swatch, y + swatch), radius=swatch // 4, fill=concept_colour(c)
        )
        middle = y + swatch / 2
        draw_text(pen, (x + swatch + pad * 0.7, middle), text, size, anchor="lm")
    return np.asarray(strip)


def _text_size(width: int) -> int:
    return max(13, round(width / 36))


def _gap(width: int) -> int:
    return max(4, width // 64)


def _caption_height(width: int) -> int:
    return round(_text_size(width) * 1.6)


def _caption(text: str, width: int) -> ImageArray:
    size = _text_size(width)
    strip = Image.new("RGB", (width, _caption_height(width)), PAPER)
    draw_text(ImageDraw.Draw(strip), (1, size * 0.7), text, size, anchor="lm")
    return np.asarray(strip)


def _borders(labels: LabelMap) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    width = max(1, round(labels.shape[1] / 512))
    return cv2.dilate(edges.astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool)
