"""What the nodes share: the wire of concept maps, the category, inputs that occur twice."""

import dataclasses
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.attention import SPACES
from ..conceptattention_core.concepts import MOST_CONCEPTS
from ..conceptattention_core.maps import ConceptMaps
from ..conceptattention_core.recording import TOKENS
from ..conceptattention_core.thresholds import THRESHOLDS

ConceptMapsWire = io.Custom("CONCEPT_MAPS")


def schema(node_id: str, display_name: str, **fields: Any) -> io.Schema:
    """A schema in our category. Fields that this ComfyUI does not know yet are left out."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    kept = {name: value for name, value in fields.items() if name in known}
    return io.Schema(
        node_id=node_id, display_name=display_name, category="ConceptAttention", **kept
    )


def advanced(widget: io.WidgetInput) -> io.WidgetInput:
    """Fold an input away until it is asked for, where this ComfyUI's page can."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def concept_inputs() -> list[io.Input]:
    """The model, who reads the words, and the words."""
    return [
        io.Model.Input("model", tooltip="A model with joint text-image attention: Flux.1."),
        io.Clip.Input("clip", tooltip="The text encoder of the model; it reads the words."),
        io.String.Input(
            "concepts",
            multiline=True,
            placeholder="balloon, sun, lake: calm water",
            tooltip="What to find: one per line or comma-separated, at most "
            f"{MOST_CONCEPTS}. 'name: words' lets the model read other words than the "
            "name. Concepts compete, so name what surrounds the thing, too.",
        ),
        io.Boolean.Input(
            "background",
            default=False,
            tooltip="Adds a hidden concept that takes what none of yours fits. "
            "It is always there when you name just one.",
        ),
    ]


def tokens_input() -> io.Input:
    return advanced(
        io.Combo.Input(
            "tokens",
            options=list(TOKENS),
            default="all",
            tooltip="all: every token of a concept counts. first: only the first one, "
            "as in the paper; 'skyscraper' is then read as 'sky'.",
        )
    )


def space_input() -> io.Input:
    return advanced(
        io.Combo.Input(
            "space",
            options=list(SPACES),
            default="output",
            tooltip="Where concepts and picture are compared. output is "
            "ConceptAttention; the others are what the paper compares it with.",
        )
    )


def maps_input() -> io.Input:
    return ConceptMapsWire.Input(
        "maps", display_name="concept maps", tooltip="From Concept Maps: one map per concept."
    )


def picture_input() -> io.Input:
    return io.Image.Input(
        "image",
        optional=True,
        tooltip="The decoded picture. The masks take its size; "
        "without it they take the size that the latent decodes to.",
    )


def mask_inputs() -> list[io.Input]:
    """How a map becomes a mask."""
    return [
        io.Combo.Input(
            "threshold",
            options=list(THRESHOLDS),
            default="mean",
            tooltip="Where inside begins. mean: above the map's own mean (the paper's rule). "
            "otsu: the split that best separates two groups, tighter than mean. "
            "fixed: above the value of 'level'. "
            "top area: the strongest part of the picture, as large as 'level'.",
        ),
        io.Float.Input(
            "level",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="For fixed: the map value, 0 to 1. For top area: the share of the picture. "
            "Not used by mean and otsu.",
        ),
        io.Boolean.Input(
            "soft",
            default=False,
            tooltip="Off: every pixel is 0 or 1. On: a gradual mask, 0.5 at the threshold, "
            "for fog, glow, fabric and for blending.",
        ),
        advanced(
            io.Boolean.Input(
                "keep_absent",
                default=False,
                tooltip="Off: a concept that is strongest nowhere in the picture gives an empty "
                "mask. On: it gives what its map has, however faint.",
            )
        ),
    ]


def size_of(maps: ConceptMaps, image: Tensor | None) -> tuple[int, int] | None:
    """The picture's pixel size (h, w), after a check that it is the picture of these maps."""
    if image is None:
        return None
    if len(image) != len(maps.maps):
        raise ConceptAttentionError(
            f"The image batch has {len(image)} pictures, the maps belong to {len(maps.maps)}. "
            "Connect the picture decoded from the recorded latent."
        )
    return image.shape[1], image.shape[2]
