"""Close-ups: a layout seen through a square window around one of its things.

Things fill more of the picture there, so that more patches depend on each word: a model trained on
half close-ups locates words after fewer steps, and its cross-attention does, too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..scenes import GROUNDS, PROBE_SIZE, Layout, Shape, Thing, render

CLOSENESS = (1.1, 3.0)  # the window's side, in sizes of the thing it is around
LEAST_SHARE = 0.015  # of the picture; what shows less is not named


def close_up(layout: Layout, rng: np.random.Generator) -> Layout:
    """The layout through a window around one of its things, which the window shows whole.

    The layout itself comes back where it has no thing that is smaller than the picture.
    """
    things = [thing for thing in layout.things if thing.word not in GROUNDS]
    thing = things[rng.integers(len(things))]
    points = np.concatenate([shape.points for shape in thing.shapes]).clip(0, 1)
    low, high = points.min(0), points.max(0)
    side = min(1.0, (high - low).max() * rng.uniform(*CLOSENESS))
    # the window stays inside the layout, which is drawn no farther
    first, last = (high - side).clip(0, 1 - side), low.clip(0, 1 - side)
    corner = rng.uniform(np.minimum(first, last), np.maximum(first, last))

    def move(shape: Shape) -> Shape:
        return replace(shape, points=(shape.points - corner) / side)

    moved = (Thing(t.word, tuple(map(move, t.shapes)), t.colour) for t in layout.things)
    return replace(layout, backdrop=tuple(map(move, layout.backdrop)), things=tuple(moved))


def list_shown(layout: Layout) -> tuple[str, ...]:
    """The words of which the picture shows enough to be named."""
    _, masks = render(layout, PROBE_SIZE)
    return tuple(word for word, mask in masks.items() if mask.mean() >= LEAST_SHARE)


def keep_shown(layout: Layout, shown: tuple[str, ...]) -> Layout:
    """The layout without the words that are not `shown`, for a caption that names what is."""
    return replace(
        layout,
        sky=layout.sky if "sky" in shown else None,
        ground=layout.ground if layout.ground in shown else None,
        things=tuple(thing for thing in layout.things if thing.word in shown),
    )
