"""Which model families there are.

A family is one file beside this one and one line in `FAMILIES`. All plumbing lies in `patch.py`.
"""

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ... import ConceptAttentionError
from .cogvideox import CogVideoX
from .family import Family
from .flux import Flux
from .flux2 import Flux2
from .hunyuan_video import HunyuanVideo
from .qwen_image import QwenImage
from .sd3 import SD3

FAMILIES: list[Family] = [Flux(), SD3(), QwenImage(), Flux2(), CogVideoX(), HunyuanVideo()]


def find(pipe: DiffusionPipeline) -> Family:
    transformer = getattr(pipe, "transformer", None)
    for family in FAMILIES:
        if family.matches(transformer):
            return family
    found = type(pipe).__name__
    if transformer is not None:
        found += f" ({type(transformer).__name__})"
    raise ConceptAttentionError(
        f"Concept attention needs joint text-image attention. Got {found}; "
        f"supported: {', '.join(family.name for family in FAMILIES)}."
    )
