"""A small network that says which of the 14 words a picture shows.

It is trained on drawn scenes alone and judges what the demo model draws:
python -m demo.recogniser --minutes 6
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from tqdm import tqdm

from .scenes import HELD_OUT_SEED, WORDS
from .training.checkpoints import Clock, learning_rate
from .training.pictures import draw_examples
from .training.train_vae import to_pixels

WEIGHTS = Path(__file__).with_name("recogniser.safetensors")
PIXELS = 64  # enough to tell the words apart, and quick
TRAINING_SEED = 5_000_000


class Recogniser(nn.Module):
    """Pictures (b 3 h w in -1..1, any size) to one logit per word (b w)."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128)):
        super().__init__()
        layers, before = [], 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(4, width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.answer = nn.Linear(2 * before, len(WORDS))

    def forward(self, pixels: Tensor) -> Tensor:
        seen = self.features(interpolate(pixels, (PIXELS, PIXELS), mode="area"))
        pooled = [reduce(seen, "b c h w -> b c", how) for how in ("mean", "max")]
        return self.answer(torch.cat(pooled, dim=1))


def draw_labelled(first_seed: int, count: int, workers: int) -> tuple[np.ndarray, Tensor]:
    """Scenes (uint8, n h w 3) and the words they show (float, n w)."""
    examples = draw_examples(range(first_seed, first_seed + count), PIXELS, workers=workers)
    drawn = list(tqdm(examples, "draw", count))
    shown = [[float(word in example.words) for word in WORDS] for example in drawn]
    return np.stack([example.image for example in drawn]), torch.tensor(shown)


def roughen(pixels: Tensor) -> Tensor:
    """Blur, mirror, dim and add noise at random, as generated pictures are never quite clean."""
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(-1)
    if torch.rand(()) < 0.5:
        share = 0.3 + 0.7 * torch.rand(()).item()
        small = interpolate(pixels, scale_factor=share, mode="area")
        pixels = interpolate(small, (PIXELS, PIXELS), mode="bilinear")
    gain = 1 + 0.1 * torch.randn(len(pixels), 3, 1, 1)
    return pixels * gain + 0.1 * torch.rand(()) * torch.randn_like(pixels)


def train_recogniser(count: int, minutes: float, workers: int) -> Recogniser:
    torch.manual_seed(0)
    pictures, shown = draw_labelled(TRAINING_SEED, count, workers)
    model = Recogniser()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    clock, bar = Clock(minutes, None), tqdm(desc="recogniser", unit="step")
    while clock.progress < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(3e-3, clock.progress, clock.step, warm_up=50, floor=0.01)
        some = torch.randint(count, (32,))
        logits = model(roughen(to_pixels(pictures[some.numpy()])))
        loss = binary_cross_entropy_with_logits(logits, shown[some])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        clock.step += 1
        bar.update()
        bar.set_postfix(loss=f"{loss.item():.4f}", done=f"{clock.progress:.0%}")
    return model.eval()


@torch.no_grad()
def recognise(model: Recogniser, pixels: Tensor) -> Tensor:
    """Which words pictures (b 3 h w in -1..1) show: bool, b w."""
    return torch.cat([model(some) for some in pixels.split(50)]) > 0


def load_recogniser(path: Path = WEIGHTS) -> Recogniser:
    model = Recogniser()
    weights = {name: value.float() for name, value in load_file(path).items()}
    model.load_state_dict(weights)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the network that says which words a picture shows."
    )
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    model = train_recogniser(given.pictures, given.minutes, given.workers)
    save_file({name: value.half() for name, value in model.state_dict().items()}, given.out)
    pictures, shown = draw_labelled(HELD_OUT_SEED, 500, given.workers)
    right = (recognise(load_recogniser(given.out), to_pixels(pictures)) == shown.bool()).float()
    for word, share in zip(WORDS, right.mean(0).tolist()):
        print(f"{word:10} {share:.3f}")
    print(f"{'mean':10} {right.mean():.4f}")


if __name__ == "__main__":
    main()
