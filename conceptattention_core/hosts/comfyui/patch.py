"""All that touches ComfyUI while it samples. Nothing of the host is copied or replaced.

`record` adds two wrappers to a clone of the model patcher: one around a sampling run, which owns
the `Recorder` of that run and files what was recorded, and one around each call of the model, which
wraps the joint blocks for the length of that call, whatever other packs put there before or after.
Around a block's own attention (`blocks.py`) the concepts take their step; image tensors are only
read.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ... import ConceptAttentionError
from ...forward import RecordPlan, StopForward
from ...ranges import select
from ...recording import Recording, RecordSpec
from ...tokens import pack_tokens
from .blocks import hook_blocks, hook_where_patches_are_ignored, patch_blocks
from .call import CallForward, HostCall
from .encoder import embed
from .families import family_of
from .families.base import Family
from .guard import Guard
from .run import Run
from .store import STORE, NotRecorded

if TYPE_CHECKING:  # it draws; recording needs no OpenCV
    from .live import Live

KEY = "conceptattention"

File = Callable[[list[Tensor], Recording | NotRecorded], None]
"""Where a recording goes, with the latents `b ...` that it belongs to."""


def record(
    model: ModelPatcher,
    clip: Any,
    spec: RecordSpec,
    *,
    file: File = STORE.file,
    stops: bool = False,
    live: "Live | None" = None,
) -> ModelPatcher:
    """A clone of `model` that records `spec` whenever it samples. `clip` reads the concepts.

    What was recorded goes to `file`; `live` shows what was recorded so far. A model that `stops`
    computes nothing after the last block of interest and gives zeros: for finding concepts in an
    image, not for making one.
    """
    network = model.get_model_object("diffusion_model")
    family = family_of(network)
    if model.model.latent_format.latent_dimensions < 2:
        raise ConceptAttentionError(
            "Concept attention finds words in pictures and videos. Got "
            f"{type(network).__name__}, which makes neither."
        )
    blocks = select(spec.blocks, len(family.blocks(network)), "blocks")
    words = [concept.words for concept in spec.concepts.concepts]
    tokens = pack_tokens(spec, embed(family, network, model.model.model_config, clip, words))
    plan = RecordPlan(family.name, spec, blocks, tokens, stops)

    recorded = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL):
        recorded.remove_wrappers_with_key(kind, KEY)
    around_sampling = _around_sampling(family, plan, file, live)
    recorded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_sampling)
    recorded.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _around_model)
    recorded.set_attachments(KEY, spec)
    return recorded


def spec_of(model: ModelPatcher) -> RecordSpec:
    """What is recorded of a recorded model."""
    spec = model.get_attachment(KEY)
    if spec is None:
        raise ConceptAttentionError("This MODEL did not go through Record Concepts.")
    return spec


def _around_sampling(
    family: Family, plan: RecordPlan, file: File, live: "Live | None"
) -> Callable[..., Tensor]:
    # A closure: clones of the patcher deep-copy what they hold, and callable objects lose state.
    def around_sampling(
        executor, noise, latent_image, sampler, sigmas, mask=None, callback=None, *args, **kwargs
    ):
        guider = executor.class_obj
        guard, preview = Guard(plan.model), Guard(plan.model)
        run = options = view = None
        denoised = []
        with guard():
            network = guider.model_patcher.get_model_object("diffusion_model")
            positive = [prompt["uuid"] for prompt in guider.conds.get("positive", [])]
            run = Run(family, plan, network, noise.shape, sigmas, positive, guard)
            options = guider.model_options["transformer_options"]  # this guider's, for this run
            options[KEY] = run
        if run is not None and live is not None:
            with preview():
                view = live.begin()

        def keep_denoised(i, x0, x, total):
            denoised[:] = [x0]
            if callback is not None:
                callback(i, x0, x, total)
            if run is not None and view is not None and preview.reason is None:
                with preview():
                    view.show(i, total, run.recorded)

        try:
            latent = executor(
                noise, latent_image, sampler, sigmas, mask, keep_denoised, *args, **kwargs
            )
        finally:
            if options is not None:
                options.pop(KEY, None)
        with guard():
            model = guider.model_patcher.model
            made = [model.process_latent_out(x0.float()) for x0 in denoised]
            if run is not None:
                file([latent, *made], run.end())
        if guard.reason is not None:
            with guard():
                file([latent], NotRecorded(plan.spec, guard.reason))
        return latent

    return around_sampling


def _around_model(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
):
    run = None if transformer_options is None else transformer_options.get(KEY)
    if run is None or run.guard.reason is not None:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
    options: dict[str, Any] = dict(transformer_options or {})
    forward: CallForward | None = None
    given = {**conds, "x": x, "t": t, "c_concat": c_concat, "c_crossattn": c_crossattn}
    with ExitStack() as hooks:
        with run.guard():
            forward = _record_call(run, executor, given, options, hooks)
        if forward is None:
            hooks.close()
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
        try:
            out = executor(x, t, c_concat, c_crossattn, control, options, **conds)
        except StopForward:
            out = torch.zeros_like(x)
    with run.guard():
        run.add(forward, options["sigmas"])
    return out


def _record_call(
    run: Run, executor: Any, given: dict[str, Any], options: dict[str, Any], hooks: ExitStack
) -> CallForward | None:
    """Let the concepts into a call of the model, if it covers the whole for a positive prompt.

    `options` are the call's own; hooks on its modules are removed when `hooks` are closed.
    """
    kinds = options.get("cond_or_uncond", [])
    chunks = run.find_positive(kinds, options.get("uuids", []))
    if not chunks:
        return None
    network = executor.class_obj.diffusion_model
    part = run.visible_part(given["x"], len(kinds), options.get("context_window"))
    if part is None or not run.knows(network):
        return None
    # in the unit that the network is called with
    timesteps = executor.class_obj.model_sampling.timestep(given["t"]).float()
    call = HostCall(executor.original, given, dict(options), timesteps)
    # weights that change during a run (hooks of ComfyUI) make other captions in each call
    patcher = getattr(executor.class_obj, "current_patcher", None)
    changes = bool(getattr(patcher, "current_hooks", None))
    once = (lambda key, make: make()) if changes else partial(run.once, network)
    pictures = run.latent_shape[0]
    forward = CallForward(
        run.family, run.plan, run.guard, network, part, chunks, call, pictures, once
    )
    hooks.enter_context(_uncompiled())
    if run.family.hooked:
        hook_blocks(forward, hooks)
    else:
        patch_blocks(forward, options)
        hook_where_patches_are_ignored(forward, hooks)
    return forward


def _uncompiled() -> AbstractContextManager:
    """Let compiled models run as they were written.

    A compiled graph keeps what it saw of `transformer_options` (TorchCompileModel switches off the
    check for changes), ours as well: the next run would go on with this one's concepts, and one
    without concepts would break.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    if set_stance is None or "torch._dynamo" not in sys.modules:  # which takes seconds to import
        return nullcontext()
    return set_stance("force_eager")
