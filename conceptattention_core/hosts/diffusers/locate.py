"""Concepts in images that exist already, through a diffusers pipeline."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import ConceptAttentionError
from ...forward import StopForward
from ...locating import LocateSpec, draw_passes, fit, resize
from ...recording import FrameLayout, Recorder, Recording, RecordSpec
from .calls import ModelCall
from .forward import TransformerForward
from .obstacles import required_arguments
from .patch import BlockHooks, make_plan


def locate(
    pipe: Any,
    images: Tensor,
    spec: RecordSpec,
    how: LocateSpec | None = None,
    *,
    progress: Callable[[], None] | None = None,
) -> Recording:
    """Find the concepts of `spec` in images `b rgb h w`, 0..1::

        recording = locate(pipe, images, RecordSpec(parse("balloon, sky")))
        maps = read_maps(recording)

    The steps of the recording are the noise levels of `how`, by default one of 0.5. Nothing after
    the last block of interest runs. `progress` is called after each pass of the model. A
    `ConceptAttentionError` says why a pipeline or images are not accepted.
    """
    how = how or LocateSpec()
    if images.ndim != 4 or images.shape[1] != 3:
        raise ConceptAttentionError(
            f"Images have the axes (image, red green blue, height, width); got a tensor of "
            f"{tuple(images.shape)}."
        )
    family, plan = make_plan(pipe, spec)
    plan = replace(plan, stops=True)
    if required := required_arguments(type(pipe)):
        raise ConceptAttentionError(
            f"{type(pipe).__name__} is not called without {', '.join(required)}; locate with a "
            "pipeline that generates from a prompt alone."
        )
    h, w = images.shape[-2:]
    size = fit(h, w, family.patch_pixels(pipe), how.megapixels)
    latent = family.encode(pipe, resize(images, size)).float()
    prepare = family.prepare_call(pipe, latent.shape, how.caption, family.text_length(pipe))
    call = ModelCall.of(prepare(latent, how.noise[0]))
    grid = replace(family.grid(pipe, call), size=(h, w), time=FrameLayout())
    recorder = Recorder(spec, grid, plan.blocks, len(how.noise), family.name)
    transformer = pipe.transformer
    blocks = list(family.blocks(transformer))
    hooks = BlockHooks(family, plan)
    with ExitStack() as handles, torch.no_grad():
        for handle in hooks.attach(blocks):
            handles.callback(handle.remove)
        for step, level, noise in draw_passes(how, latent):
            arguments = prepare(family.blend(latent, noise, level), level)
            call, rows = ModelCall.of(arguments), range(len(latent))
            forward = TransformerForward(family, plan, grid, transformer, call, rows, blocks)
            hooks.forward = forward
            try:
                transformer(**arguments, return_dict=False)
            except StopForward:
                recorder.add(step, forward.concepts.scores)
            if progress is not None:
                progress()
    pipe.maybe_free_model_hooks()
    return recorder.finish()
