"""Concepts in pictures that exist already, through a diffusers pipeline."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import ConceptAttentionError
from ...locating import Enough, LocateSpec, draw_looks, fit, resize
from ...recording import Recorder, Recording, RecordSpec, Time
from .families import demands
from .patch import Ears, Forward, hang_on_blocks, plan


def locate(
    pipe: Any,
    pictures: Tensor,
    spec: RecordSpec,
    how: LocateSpec | None = None,
    *,
    progress: Callable[[], None] | None = None,
) -> Recording:
    """Look for the concepts of `spec` in pictures `b rgb h w`, 0..1.

    The steps of the recording are the noise levels of `how`. Nothing after the last block of
    interest runs. `progress` is called after each look.
    """
    how = how or LocateSpec()
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ConceptAttentionError(
            f"Pictures have the axes (picture, red green blue, height, width); got a tensor of "
            f"{tuple(pictures.shape)}."
        )
    tour = plan(pipe, spec, None)
    family, transformer = tour.family, pipe.transformer
    if demanded := demands(type(pipe)):
        raise ConceptAttentionError(
            f"{type(pipe).__name__} is not called without {', '.join(demanded)}; pictures are "
            "looked at with a pipeline that paints from a prompt alone."
        )
    h, w = pictures.shape[-2:]
    size = fit(h, w, family.patch_pixels(pipe), how.megapixels)
    latent = family.encode(pipe, resize(pictures, size)).float()
    arguments = family.prepare(pipe, latent.shape, how.caption, family.text_length(pipe))
    grid = replace(family.grid(pipe, arguments(latent, how.noise[0])), size=(h, w), time=Time())
    recorder = Recorder(spec, grid, tour.blocks, len(how.noise), family.name)
    ears = Ears(pipe, tour)
    with ExitStack() as hooks, torch.no_grad():
        for handle in hang_on_blocks(ears):
            hooks.callback(handle.remove)
        for place, level, noise in draw_looks(how, latent):
            call = arguments(family.blend(latent, noise, level), level)
            ears.forward = Forward(tour, grid, transformer, call, len(latent), stops=True)
            try:
                transformer(**call, return_dict=False)
            except Enough:
                recorder.add(place, ears.forward.scores)
            if progress is not None:
                progress()
    pipe.maybe_free_model_hooks()
    return recorder.finish()
