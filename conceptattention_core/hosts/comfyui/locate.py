"""Concepts in pictures that exist already, through ComfyUI's own samplers.

The model is called as for sampling, at one noise level and without going on from there, so model
loading, LoRAs, quantised and streamed weights are ComfyUI's business as ever.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from einops import rearrange
from torch import Tensor

from ... import ConceptAttentionError
from ...locating import (
    LocateSpec,
    blend_at_unit_variance,
    draw_passes,
    fit,
    noise_ratio,
    resize,
)
from ...recording import Recording, RecordSpec
from .families import family_of
from .patch import record
from .store import NotRecorded


def locate(
    model: ModelPatcher, clip: Any, vae: Any, image: Tensor, spec: RecordSpec, how: LocateSpec
) -> Recording:
    """Look for the concepts of `spec` in pictures `b h w channel`, 0..1.

    The steps of the recording are the noise levels of `how`. Nothing after the last block of
    interest runs.
    """
    pictures = to_rgb(image)
    network = model.get_model_object("diffusion_model")
    h, w = pictures.shape[-2:]
    patch = family_of(network).grid(network, 1, 1).patch
    size = fit(h, w, patch, how.megapixels)
    latent = vae.encode(rearrange(resize(pictures, size), "b rgb h w -> b h w rgb"))
    recordings: list[Recording | NotRecorded] = []
    recorded = record(
        model, clip, spec, file=lambda latents, recording: recordings.append(recording), stops=True
    )
    guider = comfy.samplers.CFGGuider(recorded)
    caption = encode_caption(clip, how.caption)
    guider.set_conds(caption, caption)
    guider.set_cfg(1.0)
    bar = comfy.utils.ProgressBar(how.passes)
    sampler = LocateSampler(how, looked=lambda: bar.update(1))
    levels = how.noise
    if not is_flow(model.get_model_object("model_sampling")):
        levels = map(noise_ratio, levels)
    sigmas = torch.tensor([*levels, 0.0])
    guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, seed=how.seed)
    (recording,) = recordings
    if isinstance(recording, NotRecorded):
        raise ConceptAttentionError(recording.reason)
    return replace(recording, grid=replace(recording.grid, size=(h, w)))


def to_rgb(image: Tensor) -> Tensor:
    """Pictures `b h w channel` as `b rgb h w`: grey is spread, what is transparent is white."""
    channels = image.shape[-1]
    if image.ndim != 4 or channels not in (1, 2, 3, 4):
        raise ConceptAttentionError(
            "An IMAGE has the axes (picture, height, width, channel) with 1 to 4 channels: grey "
            f"or red green blue, with or without alpha. Got {tuple(image.shape)}."
        )
    colour, alpha = (image[..., :-1], image[..., -1:]) if channels in (2, 4) else (image, None)
    if alpha is not None:
        colour = colour * alpha + (1 - alpha)
    return rearrange(colour, "b h w c -> b c h w").expand(-1, 3, -1, -1).clamp(0, 1)


def encode_caption(clip: Any, caption: str) -> list[list[Any]]:
    """The caption as conditioning; pooled vector zeros and guidance 0: the authors' defaults."""
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(caption), add_dict={"guidance": 0.0})
    for _, options in encoded:
        if options.get("pooled_output") is not None:
            options["pooled_output"] = torch.zeros_like(options["pooled_output"])
    return encoded


def is_flow(sampling: Any) -> bool:
    """Whether the sigmas of a model are noise levels; otherwise they are ratios of noise."""
    return isinstance(sampling, CONST)


class LocateSampler(comfy.samplers.Sampler):
    """A sampler that calls the model at each look of `how` and leaves the picture as it is."""

    def __init__(self, how: LocateSpec, looked: Callable[[], None]):
        self.how, self.looked = how, looked

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image, *rest):
        sampling = model_wrap.inner_model.model_sampling
        for place, level, own_noise in draw_passes(self.how, latent_image):
            throw_exception_if_processing_interrupted()
            if is_flow(sampling):
                noisy = sampling.noise_scaling(sigmas[place], own_noise, latent_image, False)
            else:  # CogVideoX, which is given x_t as it is
                noisy = blend_at_unit_variance(latent_image, own_noise, level)
            model_wrap(noisy, sigmas[place].expand(len(noisy)), **extra_args)
            self.looked()
        return latent_image
