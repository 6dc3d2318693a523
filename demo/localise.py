"""Does the demo model know where its words are? Measured on drawn scenes with exact masks.

    python -m demo.localise --model demo/model --scenes 200 --out demo/results

Held-out scenes are noised to t = 0.5 and passed through the model once, without a caption; the
words of the scene are the concepts, and the strongest concept at a patch is the answer. The deeper
half of the blocks is read, as everywhere (`conceptattention_core.ranges.DEEP`). Compared are the
paper's ablations: where concepts and patches are compared, and what concepts attend to (arXiv
2502.04320, section 5). No mask ever enters training.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from einops import rearrange, reduce
from tqdm import tqdm

from conceptattention_core.attention import Method
from conceptattention_core.concepts import Concept, ConceptSet
from conceptattention_core.hosts.diffusers.locate import locate
from conceptattention_core.locating import LocateSpec
from conceptattention_core.maps import ConceptMaps, ReadSpec, read_maps
from conceptattention_core.masks import upsample
from conceptattention_core.ranges import DEEP
from conceptattention_core.recording import Recording, RecordSpec
from demo.scenes import HELD_OUT_SEED, WORDS, Scene, scene

SOFTMAX_FIRST, MEAN_FIRST = "softmax, then mean", "mean, then softmax"

# name -> how to record, how to reduce; the strongest concept of raw means is that of MEAN_FIRST
VARIANTS: dict[str, tuple[Method, str, str]] = {
    "output space (ConceptAttention)": (Method(), SOFTMAX_FIRST, DEEP),
    "output space, all blocks": (Method(), SOFTMAX_FIRST, "all"),
    "output space, no softmax": (Method(), MEAN_FIRST, DEEP),
    "output space, attending to the image only": (Method(attend="image"), SOFTMAX_FIRST, DEEP),
    "output space, attending to concepts only": (Method(attend="concepts"), SOFTMAX_FIRST, DEEP),
    "output space, attending to nothing": (Method(attend="nothing"), SOFTMAX_FIRST, DEEP),
    "cross-attention": (Method(space="cross-attention"), SOFTMAX_FIRST, DEEP),
    "cross-attention, all blocks": (Method(space="cross-attention"), SOFTMAX_FIRST, "all"),
    "cross-attention, no softmax": (Method(space="cross-attention"), MEAN_FIRST, DEEP),
    "value space": (Method(space="value"), SOFTMAX_FIRST, DEEP),
    "value space, all blocks": (Method(space="value"), SOFTMAX_FIRST, "all"),
}


@dataclass
class Score:
    """Pixels or patches counted over all scenes."""

    right: int = 0
    total: int = 0
    both: Counter[str] = field(default_factory=Counter)
    either: Counter[str] = field(default_factory=Counter)

    def add(self, found: np.ndarray, true: np.ndarray, words: tuple[str, ...]) -> None:
        """One scene; `found` and `true` hold positions in `words`."""
        self.right += int((found == true).sum())
        self.total += true.size
        for i, word in enumerate(words):
            self.both[word] += int(((found == i) & (true == i)).sum())
            self.either[word] += int(((found == i) | (true == i)).sum())

    @property
    def accuracy(self) -> float:
        return self.right / self.total

    @property
    def ious(self) -> dict[str, float]:
        return {word: self.both[word] / n for word, n in self.either.items() if n}

    @property
    def miou(self) -> float:
        return float(np.mean(list(self.ious.values())))


def look(pipe: FluxPipeline, picture: Scene, spec: RecordSpec, t: float, seed: int) -> Recording:
    """One look at the scene noised to `t` (0..1), no caption."""
    pixels = rearrange(torch.from_numpy(picture.image), "h w rgb -> 1 rgb h w").float() / 255
    return locate(pipe, pixels, spec, LocateSpec(noise=(t,), seed=seed))


def labels_of(picture: Scene, patch: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The strongest word at each patch `y x` and pixel `h w`, and the words they count."""
    words = tuple(picture.masks)
    masks = np.stack([picture.masks[word] for word in words])
    shares = reduce(masks.astype(np.float32), "c (y i) (x j) -> c y x", "mean", i=patch, j=patch)
    return shares.argmax(0), masks.argmax(0), words


def measure(
    pipe: FluxPipeline, scenes: int, size: int, t: float, tokens: str = "all"
) -> dict[str, dict[str, Any]]:
    """Figures of every variant, and of every single block for the first one."""
    grid_scores = {name: Score() for name in VARIANTS}
    pixel_scores = {name: Score() for name in VARIANTS}
    block_scores = [Score() for _ in pipe.transformer.transformer_blocks]
    for seed in tqdm(range(HELD_OUT_SEED, HELD_OUT_SEED + scenes), desc="scenes", unit="scene"):
        picture = scene(seed, size)
        true_patches, true_pixels, words = labels_of(picture, 2 * pipe.vae_scale_factor)
        concepts = ConceptSet(tuple(Concept(word, word) for word in words))
        heard: dict[Method, Recording] = {}
        for name, (method, order, blocks) in VARIANTS.items():
            if method not in heard:
                heard[method] = look(pipe, picture, RecordSpec(concepts, tokens, method), t, seed)
            maps = read_maps(heard[method], ReadSpec(order=order, blocks=blocks))
            grid_scores[name].add(maps.winners()[0].numpy(), true_patches, words)
            pixel_scores[name].add(_winning_pixels(maps), true_pixels, words)
        for i, score in enumerate(block_scores):
            single = read_maps(heard[Method()], ReadSpec(blocks=str(i)))
            score.add(single.winners()[0].numpy(), true_patches, words)
    rows = {
        name: {
            "accuracy": round(grid_scores[name].accuracy, 4),
            "mIoU": round(grid_scores[name].miou, 4),
            "pixel mIoU": round(pixel_scores[name].miou, 4),
        }
        for name in VARIANTS
    }
    best = grid_scores[next(iter(VARIANTS))].ious
    return {
        "variants": rows,
        "words": {word: round(best[word], 4) for word in WORDS if word in best},
        "blocks": {str(i): round(score.miou, 4) for i, score in enumerate(block_scores)},
    }


def _winning_pixels(maps: ConceptMaps) -> np.ndarray:
    return upsample(maps.maps, maps.grid)[0].argmax(0).numpy()


def table(figures: dict[str, dict]) -> str:
    """The figures as Markdown."""
    lines = ["| space and attention | accuracy | mIoU | mIoU at pixel size |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['accuracy']:.3f} | {row['mIoU']:.3f} | {row['pixel mIoU']:.3f} |"
        for name, row in figures["variants"].items()
    ]
    for what in ("words", "blocks"):
        named = figures[what]
        lines += ["", "| " + " | ".join([what, *named]) + " |", "|" + "---|" * (len(named) + 1)]
        lines.append("| mIoU | " + " | ".join(f"{iou:.2f}" for iou in named.values()) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure whether the demo model knows where its words are."
    )
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--noise", type=float, default=0.5, help="t, 0 is clean and 1 is noise")
    parser.add_argument("--tokens", choices=["all", "first"], default="all")
    parser.add_argument("--out", type=Path, default=Path("demo/results"))
    asked = parser.parse_args()
    pipe = FluxPipeline.from_pretrained(asked.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        figures = measure(pipe, asked.scenes, asked.size, asked.noise, asked.tokens)
    settings = {"scenes": asked.scenes, "size": asked.size, "noise": asked.noise}
    asked.out.mkdir(parents=True, exist_ok=True)
    report = {"settings": settings, **figures}
    (asked.out / "localisation.json").write_text(json.dumps(report, indent=1) + "\n")
    (asked.out / "localisation.md").write_text(table(figures))
    print(table(figures))


if __name__ == "__main__":
    main()
