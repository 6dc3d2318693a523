"""The model families there are.

A family is one file in this folder and one line in `FAMILIES`. The plumbing that all share lies
outside: `patch.py`, `blocks.py` and `run.py`. Models of no family take the generic path of
`unknown.py`.
"""

from torch import nn

from .... import ConceptAttentionError
from ..foreign import ALTERED, pack_of
from .auraflow import AuraFlow
from .base import Family
from .boogu import Boogu
from .chroma import Chroma
from .cogvideox import CogVideoX
from .ernie import Ernie
from .flux import Flux
from .flux2 import Flux2
from .hidream import HiDream
from .hunyuan import Hunyuan
from .ideogram4 import Ideogram4
from .joyimage import JoyImage
from .krea2 import Krea2
from .lens import Lens
from .longcat import LongCat
from .lumina import Lumina2, ZImage
from .mage_flow import MageFlow
from .mochi import Mochi
from .omnigen2 import OmniGen2
from .pixeldit import PixelDiT
from .qwen_image import QwenImage
from .sd3 import SD3
from .unknown import GenericFamily, stack_of

FAMILIES: list[Family] = [
    Flux(),
    Chroma(),
    SD3(),
    Flux2(),
    QwenImage(),
    LongCat(),
    AuraFlow(),
    Hunyuan(),
    CogVideoX(),
    Mochi(),
    MageFlow(),
    JoyImage(),
    Lens(),
    Lumina2(),
    ZImage(),
    OmniGen2(),
    Boogu(),
    Ideogram4(),
    Ernie(),
    Krea2(),
    PixelDiT(),
    HiDream(),
]


def family_of(model: nn.Module) -> Family:
    """The family of a diffusion model; ConceptAttentionError where it has no joint attention."""
    if any(type(part).__name__.startswith("Nunchaku") for part in model.modules()):
        raise ConceptAttentionError(
            "Nunchaku runs a model in blocks of its own, in which concepts cannot be recorded. "
            "Load the model without Nunchaku, in eight bits or as GGUF if memory is short."
        )
    for family in FAMILIES:
        if family.matches(model):
            return family
    stack = stack_of(type(model))
    if stack is not None:
        return GenericFamily(model, stack)
    pack = pack_of(type(model))
    raise ConceptAttentionError(
        f"Concept attention needs joint text-image attention. Got {type(model).__name__}"
        f"{f' of {pack}' if pack else ''}; "
        f"supported: {', '.join(family.name for family in FAMILIES)}."
        f"{f' {ALTERED}' if pack else ''}"
    )
