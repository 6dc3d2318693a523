"""Maps as pictures to look at: heat maps, overlays with a legend, label maps."""

import colorsys
from functools import lru_cache
from itertools import groupby
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .. import ConceptAttentionError
from ..maps import ORDERS, SCALES, ConceptMaps, presence
from ..masks import sharpen, upsample
from ..ranges import name_span
from ..texts import clean_text

Picture = NDArray[np.uint8]  # h w rgb
Face: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
LabelMap = NDArray[np.uint8]  # h w: positions of concepts

MOST_TILES = 20
FONTS = (
    "NotoSansCJK-Regular.ttc", "msyh.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "NotoSans-Regular.ttf",
    "DejaVuSans.ttf", "segoeui.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "seguiemj.ttf",
    "NotoEmoji-Regular.ttf", "Symbola.ttf",
)  # fmt: skip
"""Fonts of Linux, Windows and macOS, those that write most first. Bitmaps have one size: none."""
INVISIBLE = " \ufe0e\ufe0f"
PAPER = (250, 250, 248)
INK = (32, 33, 36)

# Colours that stay apart for most eyes, close ones far from each other in the list.
COLOURS = (
    (230, 57, 70), (29, 125, 220), (244, 180, 26), (42, 157, 88), (155, 89, 208), (20, 184, 194),
    (245, 124, 41), (233, 105, 172), (139, 195, 50), (121, 85, 62), (92, 107, 192), (150, 160, 170),
)  # fmt: skip


def colour(index: int) -> tuple[int, int, int]:
    """The colour of the concept at this position."""
    if index < len(COLOURS):
        return COLOURS[index]
    hue = index * 0.618034 % 1
    r, g, b = colorsys.hls_to_rgb(hue, 0.45 + 0.2 * (index % 2), 0.65)
    return round(r * 255), round(g * 255), round(b * 255)


def heat_map(heat: Tensor, low: float, high: float) -> Picture:
    """One map `h w` in the colours of plasma, from `low` (dark) to `high` (bright)."""
    scaled = ((heat - low) / max(high - low, 1e-12)).clamp(0, 1)
    grey = (scaled.cpu().numpy() * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)


def heat_maps(
    maps: ConceptMaps,
    b: int,
    size: tuple[int, int] | None = None,
    scale: tuple[float, float] | None = None,
) -> list[Picture]:
    """The maps of the shown concepts of picture `b`, on one scale: that of all of them.

    `scale` is another one, from the darkest to the brightest: that of a video, say.
    """
    pixels = upsample(maps.shown[b : b + 1], maps.grid, size)[0]
    low, high = scale or (pixels.min().item(), pixels.max().item())
    return [heat_map(heat, low, high) for heat in pixels]


def label_map(maps: ConceptMaps, b: int, image: Picture | None = None) -> LabelMap:
    """The position in `maps.concepts` of the strongest concept at each pixel, `h w`.

    With the picture it follows its edges.
    """
    maps = maps.picture(b)
    if image is None:
        pixels = upsample(maps.maps, maps.grid)[0]
    else:
        pixels = sharpen(maps, to_image(image)[None])[0]
    return strongest(pixels)


def strongest(pixels: Tensor) -> LabelMap:
    """The position of the strongest of maps `c h w` at each pixel, `h w`."""
    return pixels.argmax(dim=0).cpu().numpy().astype(np.uint8)


def overlay(
    image: Picture,
    maps: ConceptMaps,
    b: int,
    strength: float = 0.7,
    labels: LabelMap | None = None,
) -> Picture:
    """Each region of the picture in the colour of its strongest concept, with a legend below.

    `strength` (0..1) is how much of the picture the colour hides. Hidden concepts stay uncoloured.
    `labels` spares finding the label map where it is at hand.
    """
    if not 0 <= strength <= 1:
        raise ConceptAttentionError(f"The strength must lie between 0 and 1, got {strength}.")
    labels = label_map(maps, b, image) if labels is None else labels
    palette = np.array([colour(c) for c in range(len(maps.concepts))], np.float32)
    shown = np.isin(labels, maps.concepts.shown)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = grey * 0.8 + image * 0.2  # so that the legend's colours are not mixed with others
    tint = palette[labels] * (0.3 + 0.7 * grey.astype(np.float32) / 255)
    mixed = pale * (1 - strength) + tint * strength
    out = np.where(shown[..., None], mixed, pale).round().astype(np.uint8)
    out[_borders(labels)] = 255
    return np.vstack([out, legend(maps, b, image.shape[1])])


def sheet(
    image: Picture, maps: ConceptMaps, b: int, scale: tuple[float, float] | None = None
) -> Picture:
    """The picture and the heat map of each shown concept side by side, named."""
    tiles = [("", image)]
    names = [maps.concepts.names[c] for c in maps.concepts.shown]
    tiles += list(zip(names, heat_maps(maps, b, image.shape[:2], scale), strict=True))
    columns, rows = count_tiles(len(tiles))
    gap = max(4, image.shape[1] // 64)
    captioned = [np.vstack([_caption(name, image.shape[1]), tile]) for name, tile in tiles]
    h, w = captioned[0].shape[:2]
    canvas = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), PAPER, np.uint8)
    for i, tile in enumerate(captioned):
        y, x = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        canvas[y : y + h, x : x + w] = tile
    return canvas


def count_tiles(count: int) -> tuple[int, int]:
    """Columns and rows of a sheet of so many tiles."""
    columns = min(count, 4 if count <= 8 else 6)
    return columns, -(-count // columns)


def paint_labels(found: LabelMap, maps: ConceptMaps, b: int) -> Picture:
    """A label map in flat colours with a legend below; hidden concepts are pale."""
    palette = np.array(
        [colour(c) if c in maps.concepts.shown else PAPER for c in range(len(maps.concepts))],
        np.uint8,
    )
    return np.vstack([palette[found], legend(maps, b, found.shape[1])])


def blocks_by_steps(maps: ConceptMaps, name: str, b: int = 0, tile: int = 96) -> Picture:
    """The map of one concept in each block (rows) and step (columns), on one scale.

    With the temperature and the scale that the maps were read with. Where there are more than
    `MOST_TILES` of either, evenly chosen ones are shown.
    """
    recording, spec = maps.recording.picture(b), maps.spec
    c = recording.concepts.find(name)
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
            heat = heat_map(heats[column, row], low, high)
            at = (top + row * (h + gap), left + column * (w + gap))
            resized = cv2.resize(heat, (w, h), interpolation=cv2.INTER_NEAREST)
            canvas[at[0] : at[0] + h, at[1] : at[1] + w] = resized
    page = Image.fromarray(canvas)
    pen = ImageDraw.Draw(page)
    for row, block in enumerate(blocks):
        text = f"block {name_span(recording.blocks[block])}"
        middle = top + row * (h + gap) + h / 2
        write(pen, (left - size / 2, middle), text, size, anchor="rm")
    for column, step in enumerate(steps):
        text = name_span(recording.steps[step])
        text = text if "-" in text else f"step {text}"
        middle = left + column * (w + gap) + w / 2
        write(pen, (middle, top / 2), text, size, anchor="mm")
    return np.asarray(page)


def _choose_evenly(count: int) -> list[int]:
    if count <= MOST_TILES:
        return list(range(count))
    return np.linspace(0, count - 1, MOST_TILES).round().astype(int).tolist()


def legend(maps: ConceptMaps, b: int, width: int) -> Picture:
    """A strip of this width: a swatch, the name and the share of the picture for each concept."""
    size = _text_size(width)
    pad, swatch, row = size // 2, round(size * 0.9), round(size * 1.7)
    entries = []
    x = y = 0
    for c, figure in enumerate(presence(maps)[b]):
        if c in maps.concepts.shown:
            text = f"{figure.name} {figure.coverage:.0%}" if figure.present else f"{figure.name} -"
            widest = f"{figure.name} 100%"  # so that all pictures of a batch get the same layout
            extent = swatch + pad + round(length(widest, size)) + 2 * pad
            if x and x + extent > width - pad:
                x, y = 0, y + row
            entries.append((x + pad, y + pad, c, text))
            x += extent
    strip = Image.new("RGB", (width, y + row + pad), PAPER)
    pen = ImageDraw.Draw(strip)
    for x, y, c, text in entries:
        pen.rounded_rectangle((x, y, x + swatch, y + swatch), radius=swatch // 4, fill=colour(c))
        middle = y + swatch / 2
        write(pen, (x + swatch + pad * 0.7, middle), text, size, anchor="lm")
    return np.asarray(strip)


def write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, anchor: str
) -> None:
    """Write a label of any scripts; `anchor` is Pillow's, of a line."""
    x, y = at
    x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * length(text, size)
    for part, face in _parts(text, size):
        pen.text((x, y), part, INK, face, anchor=f"l{anchor[1]}")
        x += face.getlength(part)


def length(text: str, size: int) -> float:
    """How wide a label is, in pixels."""
    return sum(face.getlength(part) for part, face in _parts(text, size))


@lru_cache(maxsize=256)
def _parts(text: str, size: int) -> list[tuple[str, Face]]:
    """A label cut where its font has to change, each part with its font.

    One that has most of the label writes what it can; some have no letters but those of a script.
    """
    text = clean_text(text).replace("\n", " ")
    names: list[str] = []
    usual = _best(text)
    for one in text:
        if one in INVISIBLE or not one.isprintable():
            names.append(names[-1] if names else usual)
        else:
            names.append(usual if _has(usual, one) else _best(one))
    runs = groupby(zip(names, text, strict=True), key=lambda pair: pair[0])
    return [("".join(one for _, one in run), _open(name, size)) for name, run in runs]


def font(text: str, size: int) -> Face:
    """The font that has most of the characters of `text`: Pillow's own or one of FONTS."""
    return _open(_best(text), size)


def _best(text: str) -> str:
    letters = {one for one in text if one.isprintable() and one not in INVISIBLE}
    return max(_found(), key=lambda name: sum(_has(name, letter) for letter in letters))


@lru_cache(maxsize=1)
def _found() -> tuple[str, ...]:
    """Where the fonts are that this system has, before them "" for Pillow's own."""
    found = [""]
    for name in FONTS:
        try:
            found.append(str(ImageFont.truetype(name).path))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=64)
def _open(name: str, size: int) -> Face:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has(name: str, letter: str) -> bool:
    """Whether a font has a character: those it lacks look like one that nobody has."""
    face = _open(name, 16)
    drawn, box = (
        bytes(face.getmask(one))  # pyright: ignore[reportArgumentType]
        for one in (letter, "\U0010ffff")
    )
    return drawn != box


def _text_size(width: int) -> int:
    return max(13, round(width / 36))


def _caption(text: str, width: int) -> Picture:
    size = _text_size(width)
    strip = Image.new("RGB", (width, round(size * 1.6)), PAPER)
    write(ImageDraw.Draw(strip), (1, size * 0.7), text, size, anchor="lm")
    return np.asarray(strip)


def _borders(labels: LabelMap) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    width = max(1, round(labels.shape[1] / 512))
    return cv2.dilate(edges.astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool)


def to_picture(image: Tensor) -> Picture:
    """A picture `h w rgb`, 0..1, as bytes."""
    return (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def to_image(picture: Picture) -> Tensor:
    """Bytes as a picture `h w rgb`, 0..1, float32."""
    return torch.from_numpy(picture.astype(np.float32)) / 255
