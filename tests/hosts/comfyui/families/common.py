"""What several tests of this folder share."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import comfy.controlnet
import comfy.supported_models
import torch
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from torch import Tensor

from ....comfyui.tiny import TINY, Tiny
from ....comfyui.tiny.common import known, random_weights

SIZE = (2, 5, 7)


def other(family: str, kind: str | None = None, more: dict | None = None, **sizes) -> Tiny:
    """A family's tiny model with other sizes; of `more` a version may lack some."""
    tiny = TINY[family]
    own = tiny.model().model.model_config
    there = {name: size for name, size in (more or {}).items() if name in own.unet_config}
    sizes = {**own.unet_config, **there, **sizes}
    config = (type(own) if kind is None else getattr(comfy.supported_models, kind))(sizes)
    config.unet_config = sizes  # some fill in others
    config.set_inference_dtype(torch.float32, None)
    made = random_weights(config)
    return replace(tiny, model=lambda: made)


def with_prompt(tiny: Tiny, **more: Any) -> Tiny:
    """Every prompt brings this along."""
    return replace(tiny, prompt=partial(tiny.prompt, **more))


def picture(tiny: Tiny) -> Tensor:
    return tiny.latent(1, *SIZE[1:], seed=8)


def fill() -> Tiny:
    tiny = other("Flux.1", "FluxInpaint", in_channels=16 + 16 + 64)
    mask = torch.ones(1, 1, SIZE[1] * 8, SIZE[2] * 8)
    mask[..., :20, :30] = 0
    return with_prompt(tiny, concat_latent_image=picture(tiny), concat_mask=mask)


def control_lora() -> Tiny:
    tiny = other("Flux.1", in_channels=16 + 16)
    return with_prompt(tiny, concat_latent_image=picture(tiny))


def radiance() -> Tiny:
    tiny = other(
        "Chroma", "ChromaRadiance", image_model="chroma_radiance", in_channels=3, out_channels=3,
        patch_size=2, nerf_hidden_size=8, nerf_mlp_ratio=2, nerf_depth=1, nerf_max_freqs=4,
        nerf_tile_size=0, nerf_final_head_type="conv", nerf_embedder_dtype=torch.float32,
        **known({"use_x0": False, "use_sequential_txt_ids": False}, ChromaRadianceParams),
    )  # fmt: skip
    return replace(tiny, channels=3, scale=1)


class Residuals(comfy.controlnet.ControlBase):
    """A control network's answer: something to add to the picture after each block."""

    def __init__(self, width: int, where: str):
        super().__init__()
        self.width, self.where = width, where

    def get_control(self, x_noisy, t, cond, batched_number, *rest) -> dict[str, list[Tensor]]:
        patches = -(-x_noisy.shape[-2] // 2) * -(-x_noisy.shape[-1] // 2)
        generator = torch.Generator().manual_seed(0)
        shape = (3, len(x_noisy), patches, self.width)
        return {
            "input": [],
            "output": [],
            self.where: list(torch.randn(shape, generator=generator)),
        }

    def copy(self) -> "Residuals":
        return Residuals(self.width, self.where)


def controlled(family: str, width: int, where: str) -> Tiny:
    return with_prompt(TINY[family], control=Residuals(width, where))


def hunyuan(kind: str = "HunyuanVideo", **sizes: Any) -> Tiny:
    """Without what 1.5 has to tell kinds of text apart."""
    more = {"use_cond_type_embedding": False}
    return other("Hunyuan Video and Image", kind, more, **sizes)


def hunyuan_image() -> Tiny:
    """It reads what is to be written in a picture apart, and joins it to the text."""
    sizes = {"patch_size": [1, 1], "axes_dim": [8, 8], "vec_in_dim": None, "byt5": True}
    tiny = replace(hunyuan("HunyuanImage21", **sizes), frames=0, scale=32)
    letters = torch.randn(1, 4, 1472, generator=torch.Generator().manual_seed(0))
    return with_prompt(tiny, conditioning_byt5small=letters)


def first_frame() -> Tiny:
    """Image to video: the first frame is given, and has a noise level of its own."""
    tiny = with_prompt(hunyuan(guidance_embed=False), guiding_frame_index=0)

    def as_text(args: dict, *call: Any) -> dict:
        levels = ("modulation_dims_img", "modulation_dims_txt")  # which tokens have which
        return {**tiny.as_text(args, *call), **{name: args[name] for name in levels}}

    return replace(tiny, as_text=as_text)


def cogvideox_2b() -> Tiny:
    tiny = other("CogVideoX", use_rotary_positional_embeddings=False)
    return replace(tiny, as_text=lambda *call: {**tiny.as_text(*call), "pe": None})


def has_layers() -> bool:
    return "use_additional_t_cond" in signature(QwenImageTransformer2DModel).parameters


class Variant(NamedTuple):
    family: str
    make: Callable[[], Tiny]
    size: tuple[int, int, int] = SIZE
    cfg: float = 3.0
    is_here: Callable[[], bool] = lambda: True


VARIANTS = {
    "Flux.1 schnell": Variant(
        "Flux.1", lambda: other("Flux.1", "FluxSchnell", guidance_embed=False)
    ),
    "Flux.1 Fill": Variant("Flux.1", fill),
    "Flux.1 with a control LoRA": Variant("Flux.1", control_lora),
    "Flux.1 with Redux": Variant("Flux.1", lambda: with_prompt(TINY["Flux.1"], tokens=5 + 9)),
    "Flux.1 with ControlNet": Variant("Flux.1", lambda: controlled("Flux.1", 48, "input")),
    "Chroma with ControlNet": Variant("Chroma", lambda: controlled("Chroma", 48, "input")),
    "SD3 with ControlNet": Variant("SD3", lambda: controlled("SD3", 128, "output")),
    "Qwen-Image with ControlNet": Variant(
        "Qwen-Image", lambda: controlled("Qwen-Image", 48, "input")
    ),
    "Chroma Radiance": Variant("Chroma", radiance),
    "SD3.5 large": Variant("SD3", lambda: other("SD3", x_block_self_attn_layers=[])),
    "HunyuanVideo": Variant(
        "Hunyuan Video and Image",
        lambda: replace(hunyuan(patch_size=[1, 2, 2]), patch=2, scale=8),
        size=(2, 6, 8),  # ComfyUI itself does no odd sides
    ),
    "HunyuanImage 2.1": Variant("Hunyuan Video and Image", hunyuan_image),
    "HunyuanVideo, its first frame given": Variant(
        "Hunyuan Video and Image",
        first_frame,
        size=(1, 5, 7),
        cfg=1.0,  # 0.3.64: one at a time
    ),
    "CogVideoX 2b": Variant("CogVideoX", cogvideox_2b),
    "CogVideoX 1.5": Variant(
        "CogVideoX", lambda: replace(other("CogVideoX", patch_size_t=2), frames=4)
    ),
    "Qwen-Image-Layered": Variant(
        "Qwen-Image", lambda: replace(TINY["Qwen-Image"], frames=3), is_here=has_layers
    ),
}
