"""What several tests of this folder share."""

from pathlib import Path

import pytest
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.maps import ConceptMaps, read_maps
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from conceptattention.nodes import NODES
from conceptattention.nodes.layers import Layers, SaveLayers
from conceptattention.nodes.record import Record
from conceptattention.nodes.regions import Regions
from conceptattention.nodes.scores import Gate
from conceptattention.nodes.view import Explorer
from hypothesis import settings

import nodes as stock

from ..comfyui.tiny import POOLED_WIDTH, TINY, WordReader, call

TINY_FLUX = TINY["Flux.1"]

SCHEMAS = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}


def defaults(node: type) -> dict:
    return {
        one.id: one.default
        for one in node.GET_SCHEMA().inputs
        if getattr(one, "default", None) is not None
    }


def run(node: type, **inputs) -> tuple:
    """A node's outputs with the defaults of its widgets, inputs as ComfyUI would take them."""
    schema = {one.id for one in node.GET_SCHEMA().inputs}
    assert set(inputs) <= schema
    return call(node, **{**defaults(node), **inputs})


def sampled(concepts: str = "cat, red dog, sky", batch: int = 2, model=None, **settings):
    """The recorded model and the LATENT it made: 5 by 7 latents of 40 by 56 pixels."""
    (model,) = run(
        Record, model=model or TINY_FLUX.model(), clip=TINY_FLUX.clip(), concepts=concepts,
        **settings,
    )  # fmt: skip
    (latent,) = call(
        stock.KSampler,
        model=model, seed=1, steps=2, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=TINY_FLUX.prompt(1), negative=TINY_FLUX.prompt(2),
        latent_image={"samples": torch.zeros(batch, TINY_FLUX.channels, 5, 7)}, denoise=1.0,
    )  # fmt: skip
    return model, latent


def image(batch: int = 2, h: int = 40, w: int = 56) -> torch.Tensor:
    return torch.rand(batch, h, w, 3, generator=torch.Generator().manual_seed(0))


def territories(*owners: list[list[int]], names: str = "cat, red dog, sky") -> ConceptMaps:
    """Pictures in which the patch at y x belongs to concept `owners[picture][y][x]` alone."""
    concepts = parse(names)
    maps = torch.nn.functional.one_hot(torch.tensor(owners), len(concepts)).float()
    y, x = maps.shape[1:3]
    grid = Grid.of_latent(2 * y, 2 * x)
    maps, once = maps.permute(0, 3, 1, 2), ((0, 0),)
    spec = RecordSpec(concepts)
    scores = torch.zeros_like(maps)[:, None, None]
    return ConceptMaps(maps, Recording(scores, spec, grid, once, once, "Tiny"))


HALVES = [[0, 0, 1, 1]] * 4
"""Left half cat, right half red dog, no sky: 64 by 64 pixels."""

try:
    import comfy_extras.nodes_bounding_boxes as core_boxes
    import comfy_extras.nodes_compositor as compositor
except ImportError:  # an older ComfyUI
    compositor = core_boxes = None
newer_comfyui = pytest.mark.skipif(compositor is None, reason="this ComfyUI has no layers")

SIXTY_FOUR = ",".join(f"thing {i}" for i in range(64))
few = settings(max_examples=25, deadline=None, derandomize=True)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def picture(batch: int = 1, h: int = 40, w: int = 56) -> torch.Tensor:
    """Pixels that 8 bits hold exactly."""
    return (image(batch, h, w) * 255).round() / 255


def box_mask(*boxes: tuple[int, int, int, int], h: int = 40, w: int = 56) -> torch.Tensor:
    """One picture's mask with these boxes: left, top, right, bottom."""
    mask = torch.zeros(1, h, w)
    for left, top, right, bottom in boxes:
        mask[:, top:bottom, left:right] = 1
    return mask


def layers_of(pixels: torch.Tensor, masks: list[torch.Tensor], names: list[str]) -> dict:
    (stack,) = call(Layers, image=[pixels], masks=masks, names=names)[0]
    return stack


def thirds() -> list[torch.Tensor]:
    """Three masks that tile 40 by 56 pixels; none is a rectangle."""
    owner = (torch.arange(40)[:, None] * 3 + torch.arange(56)[None] * 2) // 80
    return [(owner == i).float()[None] for i in range(3)]


def save_layers(document: dict, prefix: str = "ConceptAttention/layers") -> Path:
    return Path(run(SaveLayers, layers=document, filename_prefix=prefix)[0])


def explore(prefix: str = "ConceptAttention/explorer", batch: int = 1) -> tuple:
    maps = hot_maps(1, 1, batch=batch)
    return run(Explorer, maps=maps, image=image(batch, 32, 48), filename_prefix=prefix)


class Clip(WordReader):
    def encode_from_tokens_scheduled(self, tokens):
        rows = self.encode_from_tokens(tokens, return_dict=True)["cond"]
        return [[rows, {"pooled_output": torch.ones(1, POOLED_WIDTH)}]]


def regions(masks: list[torch.Tensor], names: list[str], base=None, **widgets) -> list:
    widgets = {"prompts": "", "strength": 1.0, "only_mentioned": False, **widgets}
    with torch.inference_mode():
        (made,) = Regions.execute(
            clip=[Clip()],
            conditioning=[TINY_FLUX.prompt(1) if base is None else base],
            masks=masks,
            names=names,
            **{name: [value] for name, value in widgets.items()},
        ).result[0]
    return made


def rows_of(prompt: str) -> torch.Tensor:
    return Clip().encode_from_tokens_scheduled(Clip().tokenize(prompt))[0][0]


CORNER = [[0, 1, 1, 1], *[[1] * 4] * 3]
"""One sixteenth cat, the rest red dog, no sky."""

SEEDS = territories([[1] * 4] * 4, HALVES, CORNER, [[2, 2, 0, 1]] * 4, HALVES)


def gate(pixels: torch.Tensor, maps=SEEDS, **widgets) -> tuple[torch.Tensor, str]:
    through, positions, latent = run(Gate, maps=maps, image=pixels, **widgets)
    assert latent is None
    return through, positions


def hot_maps(step: int, block: int, steps: int = 4, blocks: int = 3, batch: int = 1):
    """Maps in which the cat is known in one block and step alone, in picture 0."""
    scores = torch.zeros(batch, steps, blocks, 3, 2, 3)
    scores[0, step, block, 0] = 9
    at, within = (tuple((i, i) for i in range(count)) for count in (steps, blocks))
    spec = RecordSpec(parse("cat, red dog, sky"))
    return read_maps(Recording(scores, spec, Grid.of_latent(4, 6), at, within, "Tiny"))
