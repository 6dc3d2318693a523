"""What several tests of this folder share."""

import numpy as np
from conceptattention.conceptattention_core.maps import ConceptMaps, measure_presence
from conceptattention.conceptattention_core.output import render
from conceptattention.conceptattention_core.output.rendered import RenderedMaps

PICTURE = np.random.default_rng(0).integers(0, 256, (104, 56, 3), dtype=np.uint8)

SIXTY_FOUR = ",".join(f"thing number {i}" for i in range(64))


def legend(maps: ConceptMaps, b: int, width: int) -> np.ndarray:
    return render.draw_legend(maps.concepts, measure_presence(maps)[b], width)


def label_map(maps: ConceptMaps, b: int, image: np.ndarray | None = None) -> np.ndarray:
    return RenderedMaps(maps.of_image(b), image).labels
