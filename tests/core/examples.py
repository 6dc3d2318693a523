"""Small recordings and maps, built without sampling."""

import torch
from conceptattention.conceptattention_core.concepts import ConceptSet, parse
from conceptattention.conceptattention_core.maps import ConceptMaps
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from torch import Tensor

NAMES = "balloon, sun, red hot sky"
ODD = Grid.of_latent(13, 7)
"""7 x 4 patches of 16 pixels over 104 x 56 pixels: padded at the bottom and at the right."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recording(
    scores: Tensor, names: str = NAMES, steps: tuple | None = None, blocks: tuple | None = None
) -> Recording:
    """A recording of raw scores `b step block c y x`."""
    _, step, block, _, y, x = scores.shape
    return Recording(
        scores,
        RecordSpec(parse(names)),
        Grid.of_latent(2 * y, 2 * x),
        steps or tuple((i, i) for i in range(step)),
        tuple((number, number) for number in blocks or range(block)),
        "Tiny",
    )


def concept_maps(
    maps: Tensor, names: str | ConceptSet = NAMES, grid: Grid | None = None
) -> ConceptMaps:
    """Maps `b c y x` as they are, of a recording of zeros."""
    concepts = parse(names) if isinstance(names, str) else names
    assert maps.shape[1] == len(concepts)
    grid = grid or Grid.of_latent(*(2 * n for n in maps.shape[2:]))
    once = ((0, 0),)
    scores = torch.zeros(len(maps), 1, 1, *maps.shape[1:])
    return ConceptMaps(maps, Recording(scores, RecordSpec(concepts), grid, once, once, "Tiny"))


def soft_maps(b: int = 2, seed: int = 0, names: str = NAMES, grid: Grid = ODD) -> ConceptMaps:
    """Random maps that sum to 1 at each patch; every concept is strongest somewhere."""
    concepts = parse(names)
    scores = random(b, len(concepts), grid.y, grid.x, seed=seed) * 2
    return concept_maps(scores.softmax(dim=1), concepts, grid)


def territories(owners: list[list[int]], names: str | ConceptSet, grid: Grid) -> ConceptMaps:
    """One picture in which the patch at y x belongs to concept `owners[y][x]` alone."""
    count = len(parse(names)) if isinstance(names, str) else len(names)
    maps = torch.nn.functional.one_hot(torch.tensor(owners), count).float()
    return concept_maps(maps.permute(2, 0, 1)[None], names, grid)


def draw(
    maps: ConceptMaps,
    names: list[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
    image: Tensor | None = None,
    **settings,
) -> Tensor:
    """`masks.draw_masks` with the settings of its MaskSpec spelt out."""
    return draw_masks(maps, names, MaskSpec(**settings), size=size, image=image)
