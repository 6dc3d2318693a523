"""The committed demo model loads with diffusers and draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

MODEL = Path(__file__).parents[2] / "demo" / "model"

pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="demo/model is absent")


@pytest.fixture(scope="module")
def pipeline():
    diffusers = pytest.importorskip("diffusers")
    loaded = diffusers.FluxPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_is_small_and_safe():
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_it_draws_the_sky_that_is_asked_for(pipeline):
    prompts = ["a night sky above water", "a day sky above grass"]
    night, day = pipeline(
        prompts,
        negative_prompt=["", ""],
        true_cfg_scale=3.0,
        guidance_scale=0.0,
        height=256,
        width=256,
        num_inference_steps=10,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    assert day[:80].mean() > night[:80].mean() + 0.2
    red, green, blue = np.moveaxis(day[200:], -1, 0)
    assert green.mean() > max(red.mean(), blue.mean())


def test_its_autoencoder_gives_back_what_it_got(pipeline):
    from demo.scenes import scene
    from demo.training.recipe import LATENT_STD
    from demo.training.train_vae import normalise, to_pixels

    pixels = to_pixels(np.stack([scene(20_000_000 + seed, 128).image for seed in range(4)]))
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean
        drawn = pipeline.vae.decode(latents).sample
    assert (drawn - pixels).abs().mean() < 0.06  # of -1..1
    assert 0.8 * LATENT_STD < normalise(latents).std() < 1.2 * LATENT_STD
