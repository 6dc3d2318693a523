"""One HTML file in which a person explores a recording: what is where, each concept's mask.

The file asks the network for nothing: it carries the image and a cube of maps, one for each
group of neighbouring steps and blocks. In the paper's order (softmax over concepts, then mean) a
map is linear in steps and blocks, so the page gets that of any span of groups as a mean.
"""

import base64
import io
import json
import math
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..maps import ORDERS, ConceptMaps, choose_entries
from ..pixels import ImageArray
from ..ranges import share_out
from ..recording import Recording
from ..texts import clean_text, name_files
from .render import concept_colour, draw_heat_map

# What the page may hold. Noise does not deflate and base64 adds a third: together below 2 MB.
CUBE_BYTES = 1_200_000
PICTURE_BYTES = 250_000
LONGEST_SIDE = 1024  # pixels of the image that is shown; masks have the image's own size
QUALITIES = (90, 80, 70, 60)

TEMPLATE = Path(__file__).with_name("explorer.html")
PLACEHOLDER = "{{page}}"
PAPERS_ORDER = "softmax, then mean"
HEAT_COLOURS = 33


@dataclass(frozen=True)
class Group:
    """Neighbouring steps or blocks that the page cannot tell apart."""

    first: int
    """The sampling step, or the model's number of the block."""
    last: int
    count: int
    """Entries of the recording, each of which weighs the same in a mean."""


def make_page(image: ImageArray, maps: ConceptMaps, b: int = 0, title: str = "Concepts") -> str:
    """The file's text, for image `b` of the maps; `image` is that image.

    The page opens with the steps and blocks that the maps were read from and holds all that was
    recorded, in the paper's order, at the maps' temperature.
    """
    recording, spec = maps.recording.of_image(b), maps.spec
    step_groups, block_groups = group_entries(recording)
    first_steps, first_blocks = choose_entries(recording, spec.steps, spec.blocks)
    grid, concepts = recording.grid, recording.concepts
    data = {
        "title": clean_text(title),
        "model": recording.model,
        "h": image.shape[0],
        "w": image.shape[1],
        "grid": {"y": grid.y, "x": grid.x, "patch": grid.patch, "h": grid.h, "w": grid.w},
        "concepts": [
            {**asdict(concept), "file": file, "colour": concept_colour(c)}
            for c, (concept, file) in enumerate(
                zip(concepts.concepts, name_files(list(concepts.names)), strict=True)
            )
        ],
        "steps": [asdict(few) for few in step_groups],
        "blocks": [asdict(few) for few in block_groups],
        "start": {
            "steps": _span(step_groups, first_steps),
            "blocks": _span(block_groups, first_blocks),
        },
        "heat": draw_heat_map(torch.linspace(0, 1, HEAT_COLOURS)[None], 0, 1)[0].tolist(),
        "picture": _embed(image),
        "cube": _pack(_cube(recording, spec.temperature, step_groups, block_groups)),
    }
    text = json.dumps(data, allow_nan=False).replace(
        "<", "\\u003c"
    )  # a name cannot end the script it stands in
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACEHOLDER, text)


def save_page(out: Path, image: ImageArray, maps: ConceptMaps) -> None:
    """The page of an image as explorer.html in the folder `out`."""
    (out / "explorer.html").write_text(make_page(image, maps), "utf-8")


def group_entries(recording: Recording) -> tuple[list[Group], list[Group]]:
    """Groups of steps and of blocks, as many as the budget for the cube has room for."""
    _, step, block, c, y, x = recording.scores.shape
    room = CUBE_BYTES // (c * (y * x + 8))
    at_steps, at_blocks = count_groups(room, step, block)
    steps = [
        Group(recording.steps[part[0]][0], recording.steps[part[-1]][1], len(part))
        for part in share_out(step, at_steps)
    ]
    blocks = [
        Group(recording.blocks[part[0]][0], recording.blocks[part[-1]][1], len(part))
        for part in share_out(block, at_blocks)
    ]
    return steps, blocks


def _span(groups: list[Group], entries: list[int]) -> dict[str, int]:
    """The groups, the last one not included, that hold these neighbouring entries."""
    owners = [owner for owner, few in enumerate(groups) for _ in range(few.count)]
    return {"from": owners[entries[0]], "to": owners[entries[-1]] + 1}


def count_groups(room: int, steps: int, blocks: int) -> tuple[int, int]:
    """How many groups of steps and of blocks fit: about two of blocks for one of steps.

    Blocks differ from one another more than neighbouring steps do.
    """
    at_steps = min(steps, max(1, math.isqrt(room // 2)))
    at_blocks = min(blocks, max(1, room // at_steps))
    return min(steps, max(1, room // at_blocks)), at_blocks


def _cube(
    recording: Recording, temperature: float, steps: list[Group], blocks: list[Group]
) -> Tensor:
    """The map of each pair of groups, `step block c y x`."""
    rows = recording.scores.split([few.count for few in steps], dim=1)
    return torch.stack(
        [
            torch.cat(
                [
                    ORDERS[PAPERS_ORDER](cell, temperature)
                    for cell in row.split([few.count for few in blocks], dim=2)
                ]
            )
            for row in rows
        ]
    )


def _pack(cube: Tensor) -> str:
    """A cube `step block c y x` in base64 of deflated bytes.

    Each plane `y x` is in bytes from its own lowest value (0) to its highest (255): among 64
    concepts no value may come near 1. First all pairs of lowest and highest, as little-endian
    float32, then all bytes.
    """
    planes = rearrange(cube, "step block c y x -> (step block c) (y x)").double().numpy()
    low, high = planes.min(1, keepdims=True), planes.max(1, keepdims=True)
    scaled = (planes - low) / np.maximum(high - low, 1e-12) * 255
    ends = np.hstack([low, high]).astype("<f4")
    raw = ends.tobytes() + scaled.round().astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def _embed(image: ImageArray) -> str:
    """The image as a data URI: at most so large, and coarser until it fits the budget."""
    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    while True:
        for quality in QUALITIES:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality, optimize=True)
            if file.tell() <= PICTURE_BYTES:
                return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        w, h = picture.size
        picture = picture.resize((max(1, w * 3 // 4), max(1, h * 3 // 4)))
