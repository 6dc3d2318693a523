"""Storybook landscapes with an exact mask for every word.

A scene is laid out in unit coordinates (x to the right, y down, both 0..1) as a list of flat
polygons, each owned by one word. Rendering fills the polygons in order, at twice the wanted size,
so the same seed gives the same composition at any size, and the masks tile the picture: every
pixel belongs to exactly one word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

SKIES = ("day", "sunset", "night")
GROUNDS = ("grass", "water", "sand", "snow")
SKY_THINGS = ("sun", "moon", "clouds", "balloon", "mountains")
GROUND_THINGS = ("house", "tree", "boat", "flowers")
WORDS = ("sky", *GROUNDS, *SKY_THINGS, *GROUND_THINGS)
COLOURS = MappingProxyType(
    {
        "red": (216, 58, 52),
        "blue": (58, 104, 214),
        "yellow": (247, 206, 62),
        "green": (66, 166, 90),
        "purple": (142, 84, 192),
        "orange": (243, 142, 50),
        "pink": (243, 138, 180),
        "white": (246, 244, 238),
    }
)
ALIASES = MappingProxyType(
    {
        "grass": ("grass", "meadow"),
        "water": ("water", "lake"),
        "sand": ("sand", "beach"),
        "balloon": ("balloon", "hot-air balloon"),
    }
)

HELD_OUT_SEED = 10_000_000  # scenes from here on are never trained on

SUPERSAMPLING = 2
PROBE_SIZE = 64  # pixels at which a layout is checked for things hidden by others
MIN_VISIBLE = 0.68  # share of a thing that must stay uncovered
# Half of the scenes look up into the sky or down at the ground. In pictures that all have both,
# a caption need not say "sky", so that the word would mean nothing to the model.
VIEWS = MappingProxyType({"landscape": 0.5, "sky": 0.25, "ground": 0.25})
HORIZONS = MappingProxyType({"landscape": (0.5, 0.62), "sky": (1.3, 1.4), "ground": (-0.3, -0.2)})

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A picture (uint8, h w 3), its caption and one mask (bool, h w) per word; the masks tile."""

    image: np.ndarray
    prompt: str
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class Shape:
    """A polygon (float, n 2, unit coordinates) that belongs to `word`.

    Its colour runs linearly from `start` to `stop` along the axis (0: x, 1: y) of its bounding
    box. `alpha` below 1 lets what lies beneath shine through, for glows and ripples.
    """

    word: str
    points: np.ndarray
    start: RGB
    stop: RGB
    axis: int = 1
    alpha: float = 1.0


@dataclass(frozen=True)
class Thing:
    """A drawn thing: the word it shows, its shapes and the colour its caption may name."""

    word: str
    shapes: tuple[Shape, ...]
    colour: str | None = None


@dataclass(frozen=True)
class Layout:
    """What a scene shows, back to front, before anything is rendered.

    `sky` or `ground` is None in a view that has none of it.
    """

    sky: str | None
    ground: str | None
    backdrop: tuple[Shape, ...]
    things: tuple[Thing, ...]


# --- shapes -------------------------------------------------------------------------------------


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Blend two colours; share 0 gives a, 1 gives b."""
    red, green, blue = ((1 - share) * p + share * q for p, q in zip(a, b))
    return red, green, blue


def lighten(colour: RGB, share: float) -> RGB:
    return mix(colour, (255, 255, 255), share)


def darken(colour: RGB, share: float) -> RGB:
    return mix(colour, (18, 14, 40), share)


def polygon(*corners: tuple[float, float]) -> np.ndarray:
    return np.array(corners, dtype=np.float64)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, corners: int = 40
) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + (ry or rx) * np.sin(turn)], axis=1)


def rosette(
    x: float, y: float, radius: float, petals: int, depth: float, turn: float
) -> np.ndarray:
    """A flower or a sunburst: a circle whose radius swings by `depth` once per petal."""
    angle = np.linspace(0, 2 * np.pi, 12 * petals, endpoint=False)
    swing = radius * (1 - depth + depth * np.cos(petals * (angle - turn)))
    return np.stack([x + swing * np.cos(angle), y + swing * np.sin(angle)], axis=1)


def band(top: Callable[[np.ndarray], np.ndarray], bottom: float = 1.0) -> np.ndarray:
    """Everything below the curve y = top(x), across the whole picture."""
    x = np.linspace(0, 1, 49)
    return np.concatenate([np.stack([x, top(x)], axis=1), [[1, bottom], [0, bottom]]])


# --- sky and ground -----------------------------------------------------------------------------

SKY_COLOURS = MappingProxyType(
    {
        "day": ((92, 168, 240), (214, 238, 252)),
        "sunset": ((112, 82, 164), (255, 176, 104)),
        "night": ((16, 20, 62), (58, 64, 128)),
    }
)


def draw_sky(kind: str, horizon: float, rng: np.random.Generator) -> list[Shape]:
    top, bottom = SKY_COLOURS[kind]
    shapes = [Shape("sky", rectangle(0, 0, 1, horizon + 0.06), top, bottom)]
    if kind == "night":
        columns, rows = np.meshgrid(np.arange(6), np.arange(4))
        jitter = rng.uniform(0.15, 0.85, (2, 24))
        xs = (columns.ravel() + jitter[0]) / 6
        ys = (rows.ravel() + jitter[1]) / 4 * horizon
        for x, y, radius in zip(xs, ys, rng.uniform(0.008, 0.013, 24)):
            star = rosette(x, y, radius, 4, 0.35, 0.0)
            shapes.append(Shape("sky", star, (255, 250, 214), (255, 250, 214)))
    return shapes


def draw_ground(kind: str, sky: str, horizon: float, rng: np.random.Generator) -> list[Shape]:
    """The ground from the horizon down, with two or three tone bands; dusk dims it."""
    far, near, tone = {
        "grass": ((150, 200, 96), (72, 150, 66), (92, 170, 74)),
        "water": ((116, 190, 218), (30, 96, 162), (176, 224, 240)),
        "sand": ((246, 226, 172), (222, 184, 120), (236, 206, 146)),
        "snow": ((250, 252, 255), (212, 226, 244), (230, 238, 250)),
    }[kind]
    shade = {"day": (0, 0, 0, 0.0), "sunset": (170, 70, 90, 0.13), "night": (34, 44, 120, 0.36)}[
        sky
    ]
    far, near, tone = (mix(c, shade[:3], shade[3]) for c in (far, near, tone))
    phase = rng.uniform(0, 2 * np.pi, 4)

    if kind == "water":
        shapes = [Shape(kind, band(lambda x: 0 * x + horizon), far, near)]
        for row, y in enumerate(np.linspace(horizon + 0.05, 0.97, 6)):
            for x in (np.arange(3) + 0.5 * (row % 2) + rng.uniform(-0.12, 0.12, 3) + 0.2) / 3:
                ripple = ellipse(x, y, 0.09, 0.007 + 0.004 * row / 5, 16)
                shapes.append(Shape(kind, ripple, tone, tone, alpha=0.55))
        return shapes

    swell = {"grass": 0.022, "sand": 0.016, "snow": 0.018}[kind]
    hills = [Shape(kind, band(lambda x: horizon + swell * np.sin(4 * x + phase[0])), far, near)]
    for step, height in enumerate((0.34, 0.68)):
        top = horizon + (1 - horizon) * height

        def crest(x: np.ndarray, top: float = top, shift: float = phase[step + 1]) -> np.ndarray:
            return top + 1.7 * swell * np.sin(5 * x + shift)

        hills.append(Shape(kind, band(crest), tone, mix(tone, near, 0.9)))
    return hills


# --- things in the sky --------------------------------------------------------------------------


def draw_glow(x: float, y: float, radius: float, colour: RGB) -> tuple[Shape, ...]:
    """Faint rings around a light; they stay sky."""
    rings = (1.9, 1.55)
    return tuple(Shape("sky", ellipse(x, y, radius * r), colour, colour, alpha=0.16) for r in rings)


def draw_sun(x: float, y: float, sky: str, rng: np.random.Generator) -> Thing:
    radius = rng.uniform(0.082, 0.1)
    outer, inner = (
        ((255, 196, 60), (255, 224, 96)) if sky == "day" else ((255, 150, 62), (255, 206, 92))
    )
    burst = Shape("sun", rosette(x, y, radius * 1.36, 10, 0.13, rng.uniform(0, 0.6)), outer, outer)
    disc = Shape("sun", ellipse(x, y, radius), inner, mix(inner, outer, 0.35))
    return Thing("sun", (burst, disc))


def draw_moon(x: float, y: float, sky: str, rng: np.random.Generator) -> Thing:
    radius = rng.uniform(0.088, 0.108)
    face, crater = (246, 242, 222), (216, 212, 200)
    shapes = [Shape("moon", ellipse(x, y, radius), face, darken(face, 0.08))]
    for dx, dy, size in ((-0.36, -0.22, 0.24), (0.3, 0.32, 0.3), (0.36, -0.42, 0.15)):
        spot = ellipse(x + dx * radius, y + dy * radius, size * radius)
        shapes.append(Shape("moon", spot, crater, crater))
    return Thing("moon", tuple(shapes))


def draw_cloud(x: float, y: float, sky: str, rng: np.random.Generator) -> Thing:
    size = rng.uniform(0.068, 0.09)
    light, dark = {
        "day": ((255, 255, 255), (226, 236, 248)),
        "sunset": ((255, 224, 214), (232, 172, 178)),
        "night": ((150, 156, 196), (104, 110, 160)),
    }[sky]
    puffs = ((-1.35, 0.3, 0.72), (1.4, 0.34, 0.68), (-0.55, -0.15, 0.95), (0.6, -0.05, 0.9))
    shapes = [
        Shape("clouds", ellipse(x + dx * size, y + dy * size, r * size), light, dark)
        for dx, dy, r in puffs
    ]
    base = rectangle(x - 1.35 * size, y + 0.2 * size, x + 1.4 * size, y + 1.02 * size)
    shapes.append(Shape("clouds", base, mix(light, dark, 0.5), dark))
    return Thing("clouds", tuple(shapes))


def draw_balloon(x: float, y: float, colour: str, rng: np.random.Generator) -> Thing:
    """x, y is the middle of the envelope."""
    r = rng.uniform(0.13, 0.165)
    main = COLOURS[colour]
    pale = lighten(main, 0.38) if colour != "white" else (222, 220, 226)
    neck = y + 1.42 * r

    def gore(share: float) -> np.ndarray:
        """The envelope, squeezed to `share` of its width: round above, tapering below."""
        turn = np.linspace(np.pi, 2 * np.pi, 25)
        dome = np.stack([x + share * r * np.cos(turn), y + r * np.sin(turn)], axis=1)
        taper = [(0.9, 0.5), (0.62, 0.98), (0.26, 1.42)]
        right = [(x + share * w * r, y + h * r) for w, h in taper]
        left = [(x - share * w * r, y + h * r) for w, h in reversed(taper)]
        return np.concatenate([dome, right, left])

    rope = darken((120, 84, 52), 0.3)
    shapes = [
        Shape(
            "balloon",
            polygon(
                (x + s * 0.24 * r, neck),
                (x + s * 0.16 * r, neck),
                (x + s * 0.13 * r, neck + 0.3 * r),
                (x + s * 0.21 * r, neck + 0.3 * r),
            ),
            rope,
            rope,
        )
        for s in (-1, 1)
    ]
    shapes += [
        Shape("balloon", gore(1.0), main, darken(main, 0.18), axis=0),
        Shape("balloon", gore(0.66), pale, mix(pale, main, 0.3), axis=0),
        Shape("balloon", gore(0.3), main, darken(main, 0.1), axis=0),
        Shape(
            "balloon",
            rectangle(x - 0.27 * r, neck + 0.25 * r, x + 0.27 * r, neck + 0.62 * r),
            (168, 118, 70),
            (124, 82, 48),
        ),
    ]
    return Thing("balloon", tuple(shapes), colour)


def draw_mountains(horizon: float, sky: str, rng: np.random.Generator) -> Thing:
    tint = {"day": (128, 140, 172), "sunset": (140, 108, 150), "night": (74, 80, 124)}[sky]
    count = int(rng.integers(2, 4))
    shapes = []
    for slot in rng.permutation(count):
        x = (slot + rng.uniform(0.2, 0.8)) / count
        height, half = rng.uniform(0.22, 0.34), rng.uniform(0.24, 0.34)
        top, base = horizon - height, horizon + 0.04
        lit, dark = lighten(tint, 0.12), darken(tint, 0.14)
        snow = mix((250, 252, 255), tint, 0.08 if sky == "day" else 0.25)
        cap = 0.3 * (height + 0.04)
        edge = half * 0.3
        shapes += [
            Shape("mountains", polygon((x - half, base), (x, top), (x + half, base)), lit, tint),
            Shape(
                "mountains",
                polygon((x, top), (x + half, base), (x + 0.12 * half, base)),
                dark,
                dark,
            ),
            Shape(
                "mountains",
                polygon(
                    (x, top),
                    (x + edge, top + cap),
                    (x + 0.42 * edge, top + 0.74 * cap),
                    (x, top + 1.12 * cap),
                    (x - 0.46 * edge, top + 0.74 * cap),
                    (x - edge, top + cap),
                ),
                snow,
                mix(snow, tint, 0.2),
            ),
        ]
    return Thing("mountains", tuple(shapes))


# --- things on the ground -----------------------------------------------------------------------


def draw_house(x: float, foot: float, colour: str, rng: np.random.Generator) -> Thing:
    half, height = rng.uniform(0.125, 0.155), rng.uniform(0.17, 0.21)
    wall, roof = COLOURS[colour], (142, 74, 62)
    eaves, top = foot - height, foot - height - 0.95 * half
    pane = (255, 238, 170)
    shapes = [
        Shape(
            "house",
            rectangle(x + 0.42 * half, top - 0.02, x + 0.68 * half, eaves),
            (150, 92, 78),
            (120, 70, 62),
        ),
        Shape(
            "house",
            rectangle(x - half, eaves, x + half, foot),
            lighten(wall, 0.06),
            darken(wall, 0.14),
            axis=0,
        ),
        Shape(
            "house",
            polygon((x - 1.24 * half, eaves), (x, top), (x + 1.24 * half, eaves)),
            roof,
            darken(roof, 0.2),
        ),
        Shape(
            "house",
            rectangle(x - 0.2 * half, foot - 0.56 * height, x + 0.2 * half, foot),
            (112, 72, 50),
            (92, 58, 42),
        ),
    ]
    for side in (-1, 1):
        middle = x + side * 0.6 * half
        frame = rectangle(
            middle - 0.2 * half, eaves + 0.18 * height, middle + 0.2 * half, eaves + 0.54 * height
        )
        shapes.append(Shape("house", frame, pane, pane))
    return Thing("house", tuple(shapes), colour)


def draw_tree(x: float, foot: float, rng: np.random.Generator) -> Thing:
    height = rng.uniform(0.32, 0.4)
    leaf, bark = (42, 124, 66), (122, 84, 54)
    r = 0.3 * height
    middle = foot - 0.66 * height
    trunk = polygon((x - 0.035, foot), (x - 0.024, middle), (x + 0.024, middle), (x + 0.035, foot))
    shapes = [Shape("tree", trunk, bark, darken(bark, 0.2), axis=0)]
    for dx, dy, size in ((-0.55, 0.3, 0.85), (0.55, 0.3, 0.85), (0, -0.35, 1.0)):
        crown = ellipse(x + dx * r, middle + dy * r, size * r)
        shapes.append(Shape("tree", crown, lighten(leaf, 0.12), darken(leaf, 0.16)))
    shine = ellipse(x - 0.25 * r, middle - 0.55 * r, 0.42 * r, 0.34 * r)
    return Thing("tree", (*shapes, Shape("tree", shine, lighten(leaf, 0.28), lighten(leaf, 0.2))))


def draw_boat(x: float, foot: float, colour: str, rng: np.random.Generator) -> Thing:
    half = rng.uniform(0.15, 0.185)
    hull, sail = COLOURS[colour], (252, 248, 238)
    deck = foot - 0.46 * half
    mast = (110, 78, 56)
    shapes = (
        Shape(
            "boat",
            rectangle(x - 0.05 * half, deck - 1.55 * half, x + 0.05 * half, deck),
            mast,
            mast,
        ),
        Shape(
            "boat",
            polygon(
                (x + 0.08 * half, deck - 1.5 * half),
                (x + 0.86 * half, deck - 0.14 * half),
                (x + 0.08 * half, deck - 0.14 * half),
            ),
            sail,
            darken(sail, 0.08),
        ),
        Shape(
            "boat",
            polygon(
                (x - 0.08 * half, deck - 1.22 * half),
                (x - 0.72 * half, deck - 0.14 * half),
                (x - 0.08 * half, deck - 0.14 * half),
            ),
            darken(sail, 0.06),
            darken(sail, 0.16),
        ),
        Shape(
            "boat",
            polygon(
                (x - half, deck), (x + half, deck), (x + 0.66 * half, foot), (x - 0.66 * half, foot)
            ),
            hull,
            darken(hull, 0.22),
        ),
        Shape(
            "boat",
            polygon(
                (x - half, deck),
                (x + half, deck),
                (x + 0.92 * half, deck + 0.11 * half),
                (x - 0.92 * half, deck + 0.11 * half),
            ),
            lighten(hull, 0.45),
            lighten(hull, 0.45),
        ),
    )
    return Thing("boat", shapes, colour)


def draw_flowers(x: float, foot: float, colour: str, rng: np.random.Generator) -> Thing:
    """A leafy bed with seven large blossoms."""
    half = rng.uniform(0.15, 0.18)
    leaf, petal = (52, 128, 72), COLOURS[colour]
    heart = (250, 214, 84) if colour not in ("yellow", "orange") else (150, 84, 40)
    middle = foot - 0.5 * half
    bed = Shape(
        "flowers", ellipse(x, middle + 0.12 * half, half, 0.46 * half), leaf, darken(leaf, 0.2)
    )
    shapes = [bed]
    spots = (
        (-0.62, 0.02),
        (-0.2, -0.26),
        (0.24, -0.28),
        (0.66, 0.0),
        (-0.38, 0.32),
        (0.06, 0.18),
        (0.46, 0.36),
    )
    for dx, dy in spots:
        cx, cy = (
            x + (dx + rng.uniform(-0.05, 0.05)) * half,
            middle + (dy + rng.uniform(-0.04, 0.04)) * half,
        )
        blossom = rosette(cx, cy, 0.27 * half, 5, 0.16, rng.uniform(0, 1.2))
        shapes.append(Shape("flowers", blossom, lighten(petal, 0.08), darken(petal, 0.08)))
        shapes.append(Shape("flowers", ellipse(cx, cy, 0.085 * half, corners=12), heart, heart))
    return Thing("flowers", tuple(shapes), colour)


# --- layout -------------------------------------------------------------------------------------


def propose_layout(rng: np.random.Generator) -> Layout:
    """One random composition; things may still hide each other."""
    sky, ground = str(rng.choice(SKIES)), str(rng.choice(GROUNDS))
    view = str(rng.choice(list(VIEWS), p=list(VIEWS.values())))
    horizon = rng.uniform(*HORIZONS[view])
    lowest = min(horizon, 0.95)
    chance = {
        "sun": {"day": 0.45, "sunset": 0.45, "night": 0.0}[sky],
        "moon": {"day": 0.15, "sunset": 0.2, "night": 0.6}[sky],
        "clouds": 0.4,
        "balloon": 0.42,
        "mountains": 0.42,
        "house": 0.24 if ground == "water" else 0.4,
        "tree": 0.24 if ground == "water" else 0.4,
        "boat": 0.6 if ground == "water" else 0.22,
        "flowers": 0.15 if ground == "water" else 0.36,
    }
    # The balloon is at home everywhere: it also floats low, or has landed.
    possible = {
        "landscape": (*SKY_THINGS, *GROUND_THINGS),
        "sky": ("sun", "moon", "clouds", "balloon"),
        "ground": ("balloon", *GROUND_THINGS),
    }[view]
    shown: list[str] = []
    while not shown:
        shown = [word for word in possible if rng.random() < chance[word]]

    def pick_colour() -> str:
        return str(rng.choice(list(COLOURS)))

    def aloft(margin: float) -> tuple[float, float]:
        return rng.uniform(0.12, 0.88), rng.uniform(0.12, lowest - margin)

    behind, above = [], []
    backdrop = draw_sky(sky, horizon, rng)
    for word in ("sun", "moon"):
        if word in shown:
            draw = draw_sun if word == "sun" else draw_moon
            x, y = aloft(0.1)
            thing = draw(x, y, sky, rng)
            backdrop += draw_glow(x, y, 0.09, (255, 240, 190))
            (above if rng.random() < 0.5 else behind).append(thing)
    mountains = [draw_mountains(horizon, sky, rng)] if "mountains" in shown else []
    if "clouds" in shown:
        clouds = [draw_cloud(*aloft(0.14), sky, rng) for _ in range(rng.integers(1, 3))]
        (above if rng.random() < 0.6 else behind).append(
            Thing("clouds", tuple(shape for cloud in clouds for shape in cloud.shapes))
        )
    flying = []
    if "balloon" in shown:
        x, y = rng.uniform(0.16, 0.84), rng.uniform(0.19, 0.66)
        flying = [draw_balloon(x, y, pick_colour(), rng)]

    standing = [word for word in shown if word in GROUND_THINGS]
    farthest = float(np.clip(horizon, 0.22, 0.8)) + 0.13
    feet = np.sort(rng.uniform(farthest, 0.95, len(standing)))  # the nearer, the later drawn
    placed = []
    for word, foot in zip(rng.permutation(standing), feet):
        x = rng.uniform(0.16, 0.84)
        if word == "tree":
            placed.append(draw_tree(x, foot, rng))
        else:
            draw = {"house": draw_house, "boat": draw_boat, "flowers": draw_flowers}[word]
            placed.append(draw(x, foot, pick_colour(), rng))

    land = [Thing(ground, tuple(draw_ground(ground, sky, horizon, rng)))] if view != "sky" else []
    return Layout(
        sky if view != "ground" else None,
        ground if land else None,
        tuple(backdrop),
        (*behind, *mountains, *above, *land, *flying, *placed),
    )


def fill(points: np.ndarray, size: int) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """Fill a polygon on a size x size raster: its mask and where the mask's box lies."""
    low = np.clip(np.floor(points.min(0) * size).astype(int), 0, size)
    high = np.clip(np.ceil(points.max(0) * size).astype(int) + 1, 0, size)
    if (high <= low).any():
        return None
    box = Image.new("1", tuple(int(n) for n in high - low))
    corners = points * size - 0.5 - low
    ImageDraw.Draw(box).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    return np.asarray(box), (slice(low[1], high[1]), slice(low[0], high[0]))


def crowded(layout: Layout) -> bool:
    """Whether a thing is hidden too much by what is drawn after it, or runs off the picture."""
    labels = np.zeros((PROBE_SIZE, PROBE_SIZE), np.uint8)
    drawn = {}
    for index, thing in enumerate(layout.things, start=1):
        own = np.zeros_like(labels, dtype=bool)
        for shape in thing.shapes:
            if filled := fill(shape.points, PROBE_SIZE):
                mask, box = filled
                own[box] |= mask
        labels[own] = index
        drawn[index] = own.sum()
    least = dict.fromkeys(drawn, MIN_VISIBLE)
    for index, thing in enumerate(layout.things, start=1):
        if thing.word in (*GROUNDS, "mountains"):
            least[index] = 0.4
    return any((labels == index).sum() < least[index] * drawn[index] for index in drawn)


def lay_out(rng: np.random.Generator) -> Layout:
    """Propose compositions until everything in one of them can be seen."""
    while crowded(layout := propose_layout(rng)):
        continue
    return layout


# --- captions -----------------------------------------------------------------------------------


def name_thing(word: str, rng: np.random.Generator) -> str:
    """The canonical word, or now and then another name for the same thing."""
    names = ALIASES.get(word, (word,))
    return names[0] if rng.random() < 0.75 else str(rng.choice(names))


def join_phrases(phrases: list[str], rng: np.random.Generator) -> str:
    if len(phrases) > 1 and rng.random() < 0.5:
        return ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return ", ".join(phrases)


def write_caption(
    layout: Layout, rng: np.random.Generator, complete: bool = False, coloured: bool = True
) -> str:
    """Name most of what the layout shows, in varying order and wording; never what it lacks.

    A complete caption names everything, and `coloured` ones its colours, too.
    """
    plural = ("clouds", "mountains", "flowers")
    phrases = []
    for thing in layout.things:
        if thing.word in GROUNDS or (rng.random() < 0.12 and not complete):
            continue
        noun = name_thing(thing.word, rng)
        if coloured and thing.colour and (rng.random() < 0.88 or complete):
            noun = f"{thing.colour} {noun}"
        if thing.word in ("sun", "moon"):
            article = "the " if rng.random() < 0.5 else "a "
        elif thing.word in plural:
            article = ""
        else:
            article = "an " if noun[0] == "o" else "a "
        phrases.append(article + noun)
    sky = f"a {layout.sky} sky" if rng.random() < 0.9 or complete else "a sky"
    ground = name_thing(layout.ground or GROUNDS[0], rng)
    rng.shuffle(phrases)
    if layout.sky is None and layout.ground is None:  # a close-up of things alone
        return join_phrases(phrases, rng)
    if layout.sky and layout.ground:
        setting, turned = f"{sky} above {ground}", f"{ground} under {sky}"
        parts = [sky, ground]
    else:
        setting = turned = sky if layout.sky else ground
        parts = [setting]
    wording = rng.integers(4 if complete else 5)
    if not phrases:
        return turned if wording % 2 else setting
    listed = join_phrases(phrases, rng)
    if wording == 0:
        places = [*phrases, *parts]
        rng.shuffle(places)
        return join_phrases(places, rng)
    if wording == 4:  # says nothing of the sky, or of the ground, or of both
        return ", ".join([listed, *rng.permutation(parts)[: rng.integers(len(parts))]])
    return [f"{listed}, {setting}", f"{setting} with {listed}", f"{listed}, {turned}"][wording - 1]


# --- rendering ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def ramp(length: int) -> np.ndarray:
    return np.linspace(0, 1, length, dtype=np.float32)


def paint(canvas: np.ndarray, labels: np.ndarray, shape: Shape, word: int) -> None:
    """Fill one shape into canvas (float32, h w 3) and labels (uint8, h w), both in place."""
    filled = fill(shape.points, len(labels))
    if filled is None:
        return
    mask, box = filled
    blend = ramp(mask.shape[1 - shape.axis])[:, None]
    start, stop = (np.asarray(colour, np.float32) for colour in (shape.start, shape.stop))
    gradient = (1 - blend) * start + blend * stop
    gradient = np.broadcast_to(
        gradient[None] if shape.axis == 0 else gradient[:, None], (*mask.shape, 3)
    )
    if shape.alpha < 1:
        gradient = canvas[box] + shape.alpha * (gradient - canvas[box])
    np.copyto(canvas[box], gradient, where=mask[..., None])
    labels[box][mask] = word


def render(layout: Layout, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw the layout: picture (uint8, size size 3) and one mask (bool, size size) per word."""
    k = SUPERSAMPLING
    canvas = np.zeros((k * size, k * size, 3), np.float32)
    labels = np.zeros((k * size, k * size), np.uint8)
    shapes = [*layout.backdrop, *(shape for thing in layout.things for shape in thing.shapes)]
    for shape in shapes:
        paint(canvas, labels, shape, WORDS.index(shape.word))
    picture = canvas.reshape(size, k, size, k, 3).mean((1, 3)).round().astype(np.uint8)
    present = np.unique(labels)
    votes = [(labels == word).reshape(size, k, size, k).sum((1, 3)) for word in present]
    winner = present[np.argmax(votes, axis=0)]
    masks = {WORDS[word]: winner == word for word in present}
    return picture, {word: mask for word, mask in masks.items() if mask.any()}


def scene(seed: int | np.random.Generator, size: int = 128) -> Scene:
    """The scene of a seed (or the next one of a generator), `size` pixels wide and high."""
    rng = np.random.default_rng(seed)
    layout = lay_out(rng)
    prompt = write_caption(layout, rng)
    image, masks = render(layout, size)
    return Scene(image, prompt, masks)
