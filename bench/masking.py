"""What masks cost: 8 concepts at 1024 x 1024, one thread, the fastest of a few rounds.

Processor time, which other work on the machine (`load`) can only lengthen.

python -m bench.masking
"""

import json
import os
import platform
import time
from pathlib import Path

import torch

from conceptattention_core.concepts import parse
from conceptattention_core.maps import read_maps
from conceptattention_core.masks import MaskSpec, draw_masks
from conceptattention_core.recording import Grid, Recording, RecordSpec

RESULTS = Path(__file__).parent / "results"
WORDS = "balloon, sun, sky, mountain, cloud, water, boat, tree"
SIDE, ROUNDS = 1024, 7
WAYS = {
    "smooth": MaskSpec(edges=False),
    "edges": MaskSpec(),
    "edges, competition": MaskSpec(threshold="competition"),
    "edges, soft": MaskSpec(soft=True, contrast=2.0),
    "edges, top area": MaskSpec(threshold="top area", amount=0.2),
    "edges, hysteresis": MaskSpec(threshold="hysteresis"),
    "edges, every finish": MaskSpec(holes=True, islands=0.01, largest=True, grow=8, feather=8),
}


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 8, SIDE // 64, SIDE // 64, generator=generator)
    scores = torch.nn.functional.interpolate(scores, scale_factor=4, mode="bicubic")
    spec, grid, once = RecordSpec(parse(WORDS)), Grid.of_latent(128, 128), ((0, 0),)
    recording = Recording(3 * scores[:, None, None], spec, grid, once, once, "none")
    maps = read_maps(recording)
    image = torch.rand(1, SIDE, SIDE, 3, generator=generator)
    seconds = {}
    for name, spec in WAYS.items():
        times = []
        for n in range(ROUNDS + 1):
            start = time.process_time()
            draw_masks(maps, spec=spec, image=image)
            if n:  # the first round warms up
                times.append(time.process_time() - start)
        seconds[name] = round(min(times), 3)
    figures = {
        "concepts": 8,
        "pixels": [SIDE, SIDE],
        "seconds": seconds,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, 1 thread",
        "load": round(os.getloadavg()[0], 1),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(figures, indent=1)
    (RESULTS / "masking_cpu.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
