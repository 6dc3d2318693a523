"""What the nodes share: the wire of concept maps, the category, inputs that occur twice."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths
import server
from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.attention import MOST_BOUNCES, SPACES
from ..conceptattention_core.concepts import MOST_CONCEPTS
from ..conceptattention_core.maps import SCALES, ConceptMaps
from ..conceptattention_core.masks import MaskSpec, shape_notice
from ..conceptattention_core.recording import TOKENS
from ..conceptattention_core.refine import SMOOTHNESS
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


def tell(
    cls: type[io.ComfyNode], notices: Iterable[str], view: dict[str, Any] | None = None
) -> Any:
    """What a node shows: its `view`, and notices, which are on the node, in the history, the log.

    For `ui` of a NodeOutput.
    """
    text = "\n".join(notices)
    show(text)
    if not text:
        return view
    logging.warning("%s: %s", cls.define_schema().display_name, text)
    told = ui.PreviewText(text)
    return {**view, **told.as_dict()} if view else told


_shown: set[str] = set()  # nodes that show a text, which would stay when there is none


def show(text: str) -> None:
    """A text on the node that runs; nothing takes an earlier one away."""
    context, page = get_executing_context(), getattr(server.PromptServer, "instance", None)
    if context is None or page is None or not (text or context.node_id in _shown):
        return
    (_shown.add if text else _shown.discard)(context.node_id)
    page.send_progress_text(text or " ", context.node_id)  # the page skips empty ones


@contextmanager
def writing(prefix: str) -> Iterator[None]:
    """What the system says of a file it does not take, as a sentence that names the folder."""
    try:
        yield
    except OSError as error:
        folder = (Path(folder_paths.get_output_directory()) / prefix).parent
        raise ConceptAttentionError(
            f"Nothing can be written to {folder}: {error.strerror or error}. Let ComfyUI write "
            "there and make room, or name another place in the output folder."
        ) from error


def next_path(prefix: str, ending: str) -> Path:
    """A new file in the output folder."""
    folder, name, counter, *_ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory()
    )
    return Path(folder) / f"{name}_{counter:05}_{ending}"


def check_picture(maps: ConceptMaps, image: Tensor | None) -> list[str]:
    """An error unless the pictures are as many as the maps belong to; notices of what is amiss."""
    if image is None:
        return []
    if len(image) != len(maps.maps):
        raise ConceptAttentionError(
            f"The image batch has {len(image)} pictures, the maps belong to {len(maps.maps)}. "
            "Connect the picture decoded from the recorded latent."
        )
    notice = shape_notice(maps.grid, *image.shape[1:3])
    return [notice] if notice else []
