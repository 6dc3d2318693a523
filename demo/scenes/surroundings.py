"""Sky and ground."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from .shapes import Shape, band, ellipse, mix, rectangle, rosette

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
