"""Which things a scene shows and where, so that none is hidden by the others."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from .ground_things import draw_boat, draw_flowers, draw_house, draw_tree
from .rendering import fill
from .shapes import Layout, Thing
from .sky_things import draw_balloon, draw_cloud, draw_glow, draw_moon, draw_mountains, draw_sun
from .surroundings import draw_ground, draw_sky
from .words import COLOURS, GROUND_THINGS, GROUNDS, SKIES, SKY_THINGS

PROBE_SIZE = 64  # pixels at which a layout is checked for things hidden by others
MIN_VISIBLE = 0.68  # share of a thing that must stay uncovered
# Half of the scenes look up into the sky or down at the ground. In pictures that all have both,
# a caption need not say "sky", so that the word would mean nothing to the model.
VIEWS = MappingProxyType({"landscape": 0.5, "sky": 0.25, "ground": 0.25})
HORIZONS = MappingProxyType({"landscape": (0.5, 0.62), "sky": (1.3, 1.4), "ground": (-0.3, -0.2)})


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
