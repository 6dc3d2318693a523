"""Which model families there are.

A family is one file beside this one and one line in `FAMILIES`. All plumbing lies in `patch.py`.
"""

import inspect

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

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


def demands(kind: type) -> list[str]:
    """What pipelines of a kind are not called without, besides a prompt."""
    parameters = list(inspect.signature(kind.__call__).parameters.values())[1:]  # without self
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]


def find(pipe: DiffusionPipeline) -> Family:
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
