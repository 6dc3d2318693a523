"""What a scene shows, in words."""

from __future__ import annotations

import numpy as np

from .shapes import Layout
from .words import ALIASES, GROUNDS


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
