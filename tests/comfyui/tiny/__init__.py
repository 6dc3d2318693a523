"""Small models of every family, made from ComfyUI's own classes, and ways to sample with them.

To add a family, write its file beside this one and list it in TINY: the law tests run over FAMILIES
and fail where one is missing here.
"""

from typing import Any

import comfy.supported_models
import torch
from conceptattention.conceptattention_core.hosts.comfyui.override import OVERRIDE

from . import (
    auraflow,
    boogu,
    chroma,
    cogvideox,
    ernie,
    flux,
    flux2,
    hidream,
    hunyuan,
    ideogram4,
    joyimage,
    krea2,
    lens,
    longcat,
    lumina,
    mage_flow,
    mochi,
    omnigen2,
    pixeldit,
    qwen_image,
    sd3,
)
from .common import CONCEPTS as CONCEPTS
from .common import Tiny as Tiny
from .common import random_weights as random_weights
from .words import POOLED_WIDTH as POOLED_WIDTH
from .words import T5Reader as WordReader  # noqa: F401

TINY: dict[str, Tiny] = {
    "Flux.1": flux.TINY,
    "Chroma": chroma.TINY,
    "SD3": sd3.TINY,
    "Flux.2": flux2.TINY,
    "Qwen-Image": qwen_image.TINY,
    "LongCat and Ovis": longcat.TINY,
    "AuraFlow": auraflow.TINY,
    "Hunyuan Video and Image": hunyuan.TINY,
    "CogVideoX": cogvideox.TINY,
    "Mochi": mochi.TINY,
    "Mage-Flow": mage_flow.TINY,
    "JoyImage": joyimage.TINY,
    "Lens": lens.TINY,
    "Lumina 2": lumina.TINY,
    "Z-Image": lumina.Z_IMAGE,
    "OmniGen2": omnigen2.TINY,
    "Boogu": boogu.TINY,
    "Ideogram 4": ideogram4.TINY,
    "ERNIE-Image": ernie.TINY,
    "Krea 2": krea2.TINY,
    "PixelDiT": pixeldit.TINY,
    "HiDream": hidream.TINY,
}

HERE = {name: tiny for name, tiny in TINY.items() if hasattr(comfy.supported_models, tiny.needs)}
"""Those that this version of ComfyUI has."""


# --- other packs ----------------------------------------------------------------------------------


def with_block_patch(tiny: Tiny, model: Any, index: int = 1) -> Any:
    """Another pack's patch, of the usual kind: it runs the block and changes its image."""

    def patch(args, original):
        out = original(args)
        uneven = torch.linspace(0.5, 1.5, out["img"].shape[-1])  # norms undo an even one
        return {**out, "img": out["img"] * uneven}

    patched = model.clone()
    tiny.around(patched, index, patch)
    return patched


def with_replaced_block(tiny: Tiny, model: Any, index: int) -> Any:
    """Another pack that never runs the block itself."""
    patched = model.clone()
    tiny.around(patched, index, lambda args, original: {**args, "img": args["img"] * 1.25})
    return patched


def with_attention_override(tiny: Tiny, model: Any) -> Any:
    """Another pack's attention: the usual one, a little weaker."""

    def override(attention, *args, **kwargs):
        return attention(*args, **kwargs) * 0.75

    patched = model.clone()
    patched.model_options["transformer_options"][OVERRIDE] = override
    return patched


# --- nodes ----------------------------------------------------------------------------------------


def call(node: type, **inputs) -> tuple:
    """The outputs of a node, written for either of ComfyUI's two APIs."""
    with torch.inference_mode():
        if hasattr(node, "define_schema"):
            return node.execute(**inputs).result
        return getattr(node(), node.FUNCTION)(**inputs)
