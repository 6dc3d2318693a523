"""What stands on the ground: house, tree, boat, flowers."""

from __future__ import annotations

import numpy as np

from .shapes import Shape, Thing, darken, ellipse, lighten, polygon, rectangle, rosette
from .words import COLOURS


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
