"""Does the demo model draw what a prompt asks for?

python -m demo.presence

Draws held-out prompts that name everything a scene shows, lets the recogniser say which words the
pictures show, and writes precision, recall and F1 of every word as a table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from torch import Tensor
from tqdm import tqdm

from .recogniser import load_recogniser, recognise
from .scenes import HELD_OUT_SEED, WORDS, lay_out, render, write_caption
from .train import MODEL_FOLDER
from .training.recipe import TEXT_LENGTH
from .training.train_vae import to_pixels

FIRST_SEED = HELD_OUT_SEED + 100_000


@dataclass(frozen=True)
class Score:
    """How well the pictures show one word; counts are pictures, the rest is 0..1."""

    word: str
    asked: int
    drawn: int
    precision: float
    recall: float
    f1: float


def write_prompts(count: int) -> tuple[list[str], Tensor, np.ndarray]:
    """Prompts, the words they ask for (bool, n w) and the scenes themselves (uint8, n h w 3)."""
    prompts, asked, pictures = [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        rng = np.random.default_rng(seed)
        layout = lay_out(rng)
        prompts.append(write_caption(layout, rng, complete=True))
        picture, masks = render(layout, 128)
        asked.append([word in masks for word in WORDS])
        pictures.append(picture)
    return prompts, torch.tensor(asked), np.stack(pictures)


def draw_prompts(
    pipeline: FluxPipeline, prompts: list[str], pixels: int, steps: int, guidance: float, batch: int
) -> Tensor:
    """Pictures (b 3 h w in -1..1) of prompts; the seed is 0 for every batch."""
    pipeline.set_progress_bar_config(disable=True)
    drawn = []
    for start in tqdm(range(0, len(prompts), batch), "draw"):
        some = prompts[start : start + batch]
        result = pipeline(
            prompt=some,
            negative_prompt=[""] * len(some),
            true_cfg_scale=guidance,
            guidance_scale=0.0,
            height=pixels,
            width=pixels,
            num_inference_steps=steps,
            max_sequence_length=TEXT_LENGTH,
            generator=torch.Generator().manual_seed(start),
            output_type="pt",
        )
        drawn.append(2 * result.images.float() - 1)
    return torch.cat(drawn)


def score_words(asked: Tensor, shown: Tensor) -> list[Score]:
    """Compare what was asked for with what is shown (both bool, n w)."""
    scores = []
    for index, word in enumerate(WORDS):
        wanted, found = asked[:, index], shown[:, index]
        hits = (wanted & found).sum().item()
        wants, finds = wanted.sum().item(), found.sum().item()
        scores.append(
            Score(
                word,
                wants,
                finds,
                precision=hits / max(1, finds),
                recall=hits / max(1, wants),
                f1=2 * hits / max(1, wants + finds),
            )
        )
    return scores


def write_table(scores: list[Score], title: str) -> str:
    """A Markdown table with the mean over words below."""
    mean = sum(score.f1 for score in scores) / len(scores)
    lines = [
        f"{title}: mean F1 {mean:.3f}",
        "",
        "| word | asked | shown | precision | recall | F1 |",
    ]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {s.word} | {s.asked} | {s.drawn} | {s.precision:.2f} | {s.recall:.2f} | {s.f1:.2f} |"
        for s in scores
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure whether the demo model draws what a prompt asks for."
    )
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the scores here as JSON")
    given = parser.parse_args()
    pipeline = FluxPipeline.from_pretrained(given.model, torch_dtype=torch.float32)
    judge = load_recogniser()
    prompts, asked, scenes = write_prompts(given.prompts)
    pictures = draw_prompts(
        pipeline, prompts, given.pixels, given.steps, given.guidance, given.batch
    )
    results = {
        "generated": score_words(asked, recognise(judge, pictures)),
        "drawn by scenes.py": score_words(asked, recognise(judge, to_pixels(scenes))),
    }
    for title, scores in results.items():
        print(write_table(scores, title), end="\n\n")
    if given.out:
        table = {title: [asdict(score) for score in scores] for title, scores in results.items()}
        given.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
