"""Latents, captions and words of many scenes: what the flow model learns from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..scenes import WORDS
from .pictures import draw_examples
from .recipe import FlowSchedule
from .train_vae import normalise, to_pixels

CAPTIONS_PER_SCENE = 4


@dataclass(frozen=True)
class LatentSet:
    """Scenes as the flow model sees them.

    patches: bfloat16, f n p c (f: 1, or 2 with mirror images; p patches; c = 64 channels)
    captions: n lists of several captions of the same scene
    shown: bool, n w (w: scenes.WORDS)
    """

    patches: Tensor
    captions: list[list[str]]
    shown: Tensor


def pack(latents: Tensor) -> Tensor:
    """Flux's 2 x 2 packing of latents into patches."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(patches: Tensor, height: int, width: int) -> Tensor:
    """Back from patches to latents; height and width count patches."""
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=height, w=width, p=2, q=2)


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderKL, schedule: FlowSchedule, first_seed: int, workers: int = 2
) -> LatentSet:
    """Draw `schedule.pictures` scenes and encode them (and their mirror images)."""
    seeds = range(first_seed, first_seed + schedule.pictures)
    examples = draw_examples(
        seeds, schedule.pixels, CAPTIONS_PER_SCENE, workers, schedule.close_ups
    )
    device = next(vae.parameters()).device
    patches, captions, shown = [], [], []
    bar = tqdm(total=len(seeds), desc=f"encode {schedule.pixels} px")
    while some := list(islice(examples, 16)):
        pixels = to_pixels(np.stack([example.image for example in some])).to(device)
        views = [pixels, pixels.flip(-1)] if schedule.flips else [pixels]
        with torch.autocast(device.type, torch.bfloat16):
            codes = [vae.encode(view).latent_dist.mean for view in views]
        packed = torch.stack([pack(normalise(code.float())) for code in codes])
        patches.append(packed.to("cpu", torch.bfloat16))
        captions += [list(example.captions) for example in some]
        shown += [[word in example.words for word in WORDS] for example in some]
        bar.update(len(some))
    return LatentSet(torch.cat(patches, dim=1), captions, torch.tensor(shown))


def save_latents(path: Path, latents: LatentSet) -> None:
    """Write `path` and, beside it, the captions as JSON; the tensor file comes last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(latents.captions))
    partial = path.with_suffix(".partial")
    save_file({"patches": latents.patches, "shown": latents.shown}, partial)
    os.replace(partial, path)


def load_latents(path: Path) -> LatentSet:
    tensors = load_file(path)
    captions = json.loads(path.with_suffix(".json").read_text())
    return LatentSet(tensors["patches"], captions, tensors["shown"])
