"""What the tests of this host share: short runs, recorded runs, and what they leave behind."""

from collections.abc import Iterator

import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.families.base import (
    encode_images,
    encode_single_frames,
)
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.locating import LocateSpec, draw_passes
from conceptattention.conceptattention_core.recording import Recording, RecordSpec
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from .tiny import LENGTH, TINY

SPEC = RecordSpec(parse("red balloon, sky, sea: the green sea"))
CALL = {"prompt": "a red balloon over the sea", "height": 48, "width": 80}
IMAGES = torch.rand(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))


def generate(pipe: DiffusionPipeline, seed: int = 0, **changed) -> Tensor:
    """The images of a short run, `b rgb h w`, or its videos, `b frame rgb h w`."""
    usual = {"num_inference_steps": 3, "max_sequence_length": LENGTH, "output_type": "pt"}
    settings = {**usual, **CALL, **TINY[family_of(pipe).name].call, **changed}
    generator = torch.Generator().manual_seed(seed)
    return pipe(**settings, generator=generator, return_dict=False)[0]


def record_run(
    pipe: DiffusionPipeline, spec: RecordSpec = SPEC, seed: int = 0, **changed
) -> Recording:
    with record(pipe, spec) as session:
        generate(pipe, seed, **changed)
    return session.recording()


def hook_state(pipe: DiffusionPipeline) -> Iterator[tuple[str, list, list, list, object]]:
    """All that recording could leave behind in the transformer."""
    for name, module in pipe.transformer.named_modules():
        pre, post = module._forward_pre_hooks, module._forward_hooks
        keyed = module._forward_pre_hooks_with_kwargs
        yield name, list(pre), list(post), list(keyed), getattr(module, "processor", None)


class Calls:
    """Hooks of its own on modules: the named inputs and the outputs of each call."""

    def __init__(self, *modules: nn.Module):
        self.inputs: list[dict] = []
        self.outputs: list = []
        self.handles = [m.register_forward_hook(self.keep, with_kwargs=True) for m in modules]

    def keep(self, module, args, kwargs, output):
        self.inputs.append(dict(kwargs))
        self.outputs.append(output)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()


def call_of(pipe: DiffusionPipeline, **changed) -> dict:
    """What the transformer is called with first in a run."""
    with Calls(pipe.transformer) as calls:
        generate(pipe, **changed)
    return calls.inputs[0]


def single_frame(pipe: DiffusionPipeline) -> dict:
    """What makes a run one of single images: a video of one frame."""
    return {"num_frames": 1} if "num_frames" in TINY[family_of(pipe).name].call else {}


def level_of(scheduler: SchedulerMixin, timestep: Tensor) -> float:
    """The noise level of a timestep: that of rectified flow with as much noise to the latent."""
    if not hasattr(scheduler, "alphas_cumprod"):
        return timestep.item() / 1000
    ratio = (1 / scheduler.alphas_cumprod[timestep.long()] - 1).sqrt().item()
    return ratio / (1 + ratio)


def locate_and_sample(pipe: DiffusionPipeline) -> tuple[Recording, Recording]:
    """An image located in, and a run whose second step starts from the same one, noised."""
    family, image, levels = family_of(pipe), IMAGES[:1], []
    caption = CALL["prompt"]
    latent = family.encode(pipe, image).float()
    ((_, _, noise),) = draw_passes(LocateSpec(), latent)
    arguments = family.prepare_call(pipe, latent.shape, caption, LENGTH)

    def start_at_the_image(pipeline, i, t, tensors):
        if i > 0:
            return {}
        scheduler = pipeline.scheduler
        now = scheduler.timesteps[1:2]
        levels.append(level_of(scheduler, now))
        flows = hasattr(scheduler, "scale_noise")
        noised = (
            scheduler.scale_noise(latent, now, noise)
            if flows
            else scheduler.add_noise(latent, noise, now)
        )
        return {"latents": arguments(noised, levels[0])["hidden_states"]}

    def without_pooled_text_and_guidance(transformer, args, kwargs):
        zeros = {
            name: torch.zeros_like(kwargs[name])
            for name in ("pooled_projections", "guidance")
            if kwargs.get(name) is not None
        }
        return args, {**kwargs, **zeros}

    handle = pipe.transformer.register_forward_pre_hook(
        without_pooled_text_and_guidance, with_kwargs=True
    )
    try:
        sampled = record_run(pipe, callback_on_step_end=start_at_the_image, **single_frame(pipe))
    finally:
        handle.remove()
    return locate(pipe, image, SPEC, LocateSpec(caption, noise=tuple(levels))), sampled


@torch.no_grad()
def encode_and_decode(pipe: DiffusionPipeline) -> tuple[Tensor, Tensor]:
    """What the autoencoder makes of an image, and what the pipeline makes of our latent of it."""
    family, image = family_of(pipe), IMAGES[:1]
    latent = family.encode(pipe, image)
    packed = family.prepare_call(pipe, latent.shape, "", LENGTH)(latent, 0.5)["hidden_states"]
    generated = generate(
        pipe,
        num_inference_steps=1,
        callback_on_step_end=lambda *_: {"latents": packed},
        **single_frame(pipe),
    )
    is_video = "num_frames" in single_frame(pipe)
    encodes_videos = any(isinstance(part, nn.Conv3d) for part in pipe.vae.modules())
    encoded = encode_single_frames(pipe, image) if encodes_videos else encode_images(pipe, image)
    rebuilt = pipe.vae.decode(encoded).sample
    rebuilt = (rebuilt if rebuilt.ndim == 4 else rebuilt[:, :, 0]) / 2 + 0.5
    return rebuilt.clamp(0, 1), generated[:, 0] if is_video else generated
