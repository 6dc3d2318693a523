"""Stock nodes take the masks."""

import comfy_extras.nodes_mask as masking
import torch

import nodes as stock

from ..comfyui.tiny import call
from .common import TINY_FLUX, image


def test_set_latent_noise_mask_keeps_the_rest_bit_by_bit(mask):
    start = TINY_FLUX.latent(2, 8, 8, seed=5)
    (masked,) = call(stock.SetLatentNoiseMask, samples={"samples": start}, mask=mask)
    (painted,) = call(
        stock.KSampler,
        model=TINY_FLUX.model(), seed=1, steps=2, cfg=1.0, sampler_name="euler",
        scheduler="simple", positive=TINY_FLUX.prompt(1), negative=TINY_FLUX.prompt(2),
        latent_image=masked, denoise=1.0,
    )  # fmt: skip
    same = torch.isclose(painted["samples"], start, atol=1e-5).all(1)
    assert same[0, :, 4:].all() and not same[0, :, :4].any()
    assert same[1, :, :4].all() and not same[1, :, 4:].any()


def test_inpaint_model_conditioning_takes_a_mask(mask):
    class Boxes:
        """Stands in for a VAE: each latent pixel is the mean of its box."""

        def encode(self, pixels):
            shrunk = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
            return shrunk.repeat(1, 6, 1, 1)[:, :16]

    pixels = image(2, 64, 64)
    positive, _, latent = call(
        stock.InpaintModelConditioning,
        positive=TINY_FLUX.prompt(1), negative=TINY_FLUX.prompt(2), pixels=pixels, vae=Boxes(),
        mask=mask, noise_mask=True,
    )  # fmt: skip
    assert torch.equal(latent["noise_mask"], mask[:, None])
    hidden = positive[0][1]["concat_latent_image"]
    whole = Boxes().encode(pixels)
    assert torch.equal(hidden[0, :, :, 4:], whole[0, :, :, 4:])
    assert torch.allclose(hidden[0, :, :, :4], torch.tensor(0.5))


def test_image_composite_masked_pastes_exactly_the_mask(mask):
    white, picture = torch.ones(2, 64, 64, 3), image(2, 64, 64)
    (pasted,) = call(
        masking.ImageCompositeMasked,
        destination=picture, source=white, x=0, y=0, resize_source=False, mask=mask,
    )  # fmt: skip
    assert torch.equal(pasted, torch.where(mask[..., None] == 1, white, picture))


def test_mask_to_image_shows_the_mask(mask):
    (shown,) = call(masking.MaskToImage, mask=mask)
    assert torch.equal(shown, mask[..., None].expand(-1, -1, -1, 3))
