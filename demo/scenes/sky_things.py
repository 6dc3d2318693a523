"""What is seen in the sky: sun, moon, clouds, balloon, and mountains before it."""

from __future__ import annotations

import numpy as np

from .shapes import RGB, Shape, Thing, darken, ellipse, lighten, mix, polygon, rectangle, rosette
from .words import COLOURS


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
