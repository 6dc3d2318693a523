"""Which model families there are: each is one file beside this one and one line in `FAMILIES`."""

from typing import Any

from .... import ConceptAttentionError
from ..obstacles import refuse_wrapped
from .base import Family
from .cogvideox import CogVideoX
from .flux import Flux
from .flux2 import Flux2
from .hunyuan_video import HunyuanVideo
from .qwen_image import QwenImage
from .sd3 import SD3

FAMILIES: list[Family] = [Flux(), SD3(), QwenImage(), Flux2(), CogVideoX(), HunyuanVideo()]


def family_of(pipe: Any) -> Family:
    """The family of a pipeline's transformer; a `ConceptAttentionError` where there is none."""
    transformer = getattr(pipe, "transformer", None)
    for family in FAMILIES:
        if family.matches(transformer):
            return family
    refuse_wrapped(transformer)
    found = type(pipe).__name__
    if transformer is not None:
        found += f" ({type(transformer).__name__})"
    raise ConceptAttentionError(
        f"Concept attention needs joint text-image attention. Got {found}; "
        f"supported: {', '.join(family.name for family in FAMILIES)}."
    )
