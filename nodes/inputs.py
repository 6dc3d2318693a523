"""Inputs that several nodes have, and the settings of masks that they make."""

from comfy_api.latest import io

from ..conceptattention_core.attention import MOST_BOUNCES, SPACES
from ..conceptattention_core.concepts import MOST_CONCEPTS
from ..conceptattention_core.maps import SCALES
from ..conceptattention_core.masks import MaskSpec
from ..conceptattention_core.recording import TOKENS
from ..conceptattention_core.refine import SMOOTHNESS
from ..conceptattention_core.thresholds import THRESHOLDS
from .wires import ConceptMapsWire, advanced


def concept_inputs() -> list[io.Input]:
    """The model, who reads the words, and the words."""
    return [
        io.Model.Input(
            "model",
            tooltip="Any model with joint text-image attention; the README lists them.",
        ),
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


def scale_input() -> io.Input:
    return advanced(
        io.Combo.Input(
            "scale",
            optional=True,
            options=list(SCALES),
            default="as they are",
            tooltip="How scores compete. as they are: the paper's way. standardised: each concept "
            "is first measured against its own mean and spread over the picture, so that one "
            "that is strong everywhere no longer hides the others.",
        )
    )


def bounces_input() -> io.Input:
    return advanced(
        io.Int.Input(
            "bounces",
            optional=True,
            default=0,
            min=0,
            max=MOST_BOUNCES,
            tooltip="Experimental: maps pass so many times through the image's attention to "
            "itself, so that each patch takes over what similar ones say. Costs a part of a "
            "block's attention each time and smooths small things away.",
        )
    )


def maps_input() -> io.Input:
    return ConceptMapsWire.Input(
        "maps", display_name="concept maps", tooltip="From Concept Maps: one map per concept."
    )


def masks_input() -> io.Input:
    return io.Mask.Input("masks", tooltip="All masks from Concept Masks.")


def names_input() -> io.Input:
    return io.String.Input("names", force_input=True, tooltip="All names from Concept Masks.")


def image_input() -> io.Input:
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
            "top area: the strongest part of the picture, as large as 'level'. "
            "hysteresis: otsu, and what hangs together with it down to 'level'. "
            "competition: each pixel to its strongest concept: no overlap, and no gap but where a "
            "hidden background wins. Soft masks, grow and feather overlap.",
        ),
        io.Float.Input(
            "level",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Used by three thresholds only. fixed: the map value, 0 to 1. top area: the "
            "share of the picture. hysteresis: 0 stays with otsu, 1 goes down to the mean.",
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


def finish_inputs() -> list[io.Input]:
    """What makes a mask ready for use, in the order of its steps.

    Optional, and after all other widgets: graphs that were saved without them still load and run.
    """
    return [
        advanced(
            io.Boolean.Input(
                "edges",
                optional=True,
                default=True,
                tooltip="Lets masks follow the edges of the image, where one is connected. "
                "Off: smooth outlines as coarse as the model's patches of 16 pixels.",
            )
        ),
        advanced(
            io.Float.Input(
                "contrast",
                optional=True,
                default=1.0,
                min=0.1,
                max=20.0,
                step=0.1,
                tooltip="Of soft masks: above 1 is steeper at the threshold, below 1 flatter.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "fill_holes",
                optional=True,
                default=False,
                tooltip="First step after the threshold: fills what a mask encloses.",
            )
        ),
        advanced(
            io.Float.Input(
                "islands",
                optional=True,
                default=0.0,
                min=0.0,
                max=100.0,
                step=0.1,
                tooltip="Second step: drops parts smaller than this percentage of the picture.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "largest",
                optional=True,
                default=False,
                tooltip="Third step: keeps only the largest part.",
            )
        ),
        advanced(
            io.Int.Input(
                "grow",
                optional=True,
                default=0,
                min=-512,
                max=512,
                tooltip="Fourth step: pixels by which the mask becomes larger on every side; "
                "negative numbers shrink it.",
            )
        ),
        advanced(
            io.Int.Input(
                "feather",
                optional=True,
                default=0,
                min=0,
                max=512,
                tooltip="Last step: pixels to each side of the edge over which it is softened. "
                "What is farther away stays exact.",
            )
        ),
        advanced(
            io.Int.Input(
                "edge_radius",
                optional=True,
                default=0,
                min=0,
                max=512,
                tooltip="For 'edges': how far around a pixel edges are looked for, in pixels of "
                "the image. 0: 16, and more where the image is larger than what the model saw.",
            )
        ),
        advanced(
            io.Float.Input(
                "edge_smoothness",
                optional=True,
                default=SMOOTHNESS,
                min=0.0001,
                max=1.0,
                step=0.0001,
                tooltip="For 'edges': variance of colour (0 to 1, squared) below which the image "
                "counts as flat. Less follows fainter edges and grain, more only strong ones.",
            )
        ),
    ]


def mask_spec(
    threshold: str,
    level: float,
    soft: bool,
    keep_absent: bool,
    edges: bool = True,
    contrast: float = 1.0,
    fill_holes: bool = False,
    islands: float = 0.0,
    largest: bool = False,
    grow: int = 0,
    feather: int = 0,
    edge_radius: int = 0,
    edge_smoothness: float = SMOOTHNESS,
) -> MaskSpec:
    """What `mask_inputs` and `finish_inputs` were set to."""
    return MaskSpec(
        edges=edges,
        radius=edge_radius,
        smoothness=edge_smoothness,
        threshold=threshold,
        amount=level,
        soft=soft,
        contrast=contrast,
        keep_absent=keep_absent,
        holes=fill_holes,
        islands=islands / 100,
        largest=largest,
        grow=grow,
        feather=feather,
    )
