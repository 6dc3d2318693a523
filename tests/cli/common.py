"""What several tests of this folder share."""

from pathlib import Path

from conceptattention.conceptattention_core.cli.segmenting import (
    list_open,
    open_folder,
    segment_images,
)
from conceptattention.conceptattention_core.images import list_images
from conceptattention.conceptattention_core.recording import Grid

from ..core.examples import soft_maps

SETTINGS = {"model": "tiny", "masks": {"threshold": "mean", "amount": 0.5, "soft": True}}


class Locator:
    """Stands in for a model: maps that depend on the pictures alone."""

    def __init__(self):
        self.seen = []

    def __call__(self, pictures):
        self.seen.append(len(pictures))
        h, w = pictures[0].shape[:2]
        grid = Grid(3, 4, 16, 48, 64, size=(h, w))
        maps = soft_maps(len(pictures), seed=int(pictures[0].sum()) % 1000, grid=grid)
        return maps


def run(folder, out, locate=None, batch=1, settings=SETTINGS, overwrite=False):
    open_folder(out, settings, overwrite)
    todo = list_open(list_images([folder]), out, settings)
    return list(segment_images(todo, locate or Locator(), out, settings, batch))


def contents(out):
    return {
        str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()
    }


CONCEPTS = "red balloon, sky, lake: the sea"


def options(model: Path | str, out: Path, **changed: str | int | float) -> list[str]:
    given = {
        "model": model,
        "prompt": "a red balloon over the sea",
        "concepts": CONCEPTS,
        "out": out,
        "height": 48,
        "width": 80,
        "steps": 2,
        "device": "cpu",
        **changed,
    }
    words = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return ["generate", *(word for pair in words for word in pair)]
