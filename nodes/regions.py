"""Masks as places: boxes and points for detectors and detailers, regions for prompts."""

import json
from typing import Any, NamedTuple

import torch
from comfy_api.latest import io

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.concepts import key_of
from ..conceptattention_core.named_masks import check_one_size, group_masks, read_prompts
from ..conceptattention_core.output.boxes import Bounds, find_boxes, find_points, widen
from ..conceptattention_core.texts import clean_text
from .before import concepts_behind, refusal
from .door import accepting
from .inputs import masks_input, names_input
from .wires import advanced, schema

BoxWire = io.Custom("BOUNDING_BOX")  # core's own in newer ComfyUI


class Segment(NamedTuple):
    """What the Impact Pack calls a SEG, with the names it reads."""

    cropped_image: Any
    cropped_mask: Any  # float32 array, h w
    confidence: float
    crop_region: Bounds
    bbox: Bounds
    label: str
    control_net_wrapper: Any = None


class Boxes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionBoxes",
            "Concept Boxes",
            description="The box around each mask and points inside it, for core's box nodes and "
            "SAM 3, and for detailers (SEGS).",
            search_aliases=["concept attention", "bbox", "segs", "bounding box", "detailer", "sam"],
            inputs=[
                io.Mask.Input("mask", tooltip="From Concept Masks."),
                io.String.Input(
                    "name",
                    force_input=True,
                    tooltip="Names from Concept Masks: the boxes' labels.",
                ),
                io.Boolean.Input(
                    "each_part",
                    default=False,
                    tooltip="Off: one box around the whole mask. On: one around each of its parts, "
                    "those below 0.1 % of the picture left out.",
                ),
                advanced(
                    io.Int.Input(
                        "margin",
                        default=0,
                        min=0,
                        max=4096,
                        tooltip="Pixels added to each box on every side.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "crop_factor",
                        default=2.0,
                        min=1.0,
                        max=10.0,
                        step=0.1,
                        tooltip="For SEGS: how much more of the picture than the box a detailer "
                        "gets to see.",
                    )
                ),
            ],
            outputs=[
                BoxWire.Output(
                    display_name="bounding boxes",
                    tooltip="For core, SAM 3 too: for each picture a list of boxes (x, y, width, "
                    "height).",
                ),
                io.BBOX.Output(
                    display_name="bbox",
                    tooltip="Of the first picture: (left, top, right, bottom) of each box.",
                ),
                io.SEGS.Output(
                    display_name="segs", tooltip="Of the first picture, for the Impact Pack."
                ),
                io.String.Output(
                    display_name="points",
                    tooltip="Of the first picture, for 'positive_coords' of core's SAM 3: the "
                    "middle of each part of the mask, as JSON.",
                ),
            ],
        )

    @classmethod
    @accepting
    def execute(cls, mask, name, each_part, margin, crop_factor) -> io.NodeOutput:
        found = find_boxes(mask, each_part, margin)
        boxes = [
            [
                {"x": left, "y": top, "width": right - left, "height": bottom - top, "label": name}
                for _, (left, top, right, bottom) in picture
            ]
            for picture in found
        ]
        size = tuple(mask.shape[1:])
        segments = [_to_segment(part, bounds, name, crop_factor) for part, bounds in found[0]]
        points = json.dumps([{"x": x, "y": y} for x, y in find_points(mask[0])])
        return io.NodeOutput(boxes, [bounds for _, bounds in found[0]], (size, segments), points)


def _to_segment(mask: torch.Tensor, bounds: Bounds, name: str, factor: float) -> Segment:
    left, top, right, bottom = crop = widen(bounds, factor, *mask.shape)
    return Segment(None, mask[top:bottom, left:right].cpu().numpy(), 1.0, crop, bounds, name)


class Regions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionRegions",
            "Prompt Regions",
            description="A prompt for each mask, beside the prompt for the whole picture: the "
            "places that a first run chose steer the second one.",
            search_aliases=["concept attention", "regional prompt", "attention couple"],
            is_input_list=True,
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model."),
                io.Conditioning.Input("conditioning", tooltip="The prompt for the whole picture."),
                masks_input(),
                names_input(),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    placeholder="balloon: a golden balloon",
                    tooltip="What to paint where, one 'name: prompt' per line. A mask whose name "
                    "is not mentioned gets its name as prompt.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Of the regions beside the prompt for the whole picture.",
                ),
                advanced(
                    io.Boolean.Input(
                        "only_mentioned",
                        default=False,
                        tooltip="On: masks whose names 'prompts' does not mention make no region.",
                    )
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    is_output_list=True,
                    tooltip="The whole picture's prompt and one for each mask that is not empty.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, prompts=None) -> bool | str:
        return refusal(lambda: prompts and check_prompts(prompts[0]))

    @classmethod
    @accepting
    def execute(
        cls, clip, conditioning, masks, names, prompts, strength, only_mentioned
    ) -> io.NodeOutput:
        groups = group_masks(masks, names)
        if len(conditioning) not in (1, len(groups)):
            raise ConceptAttentionError(
                f"There are {len(conditioning)} prompts for whole pictures, and masks of "
                f"{len(groups)}. Connect one prompt, or one for each picture."
            )
        made = []
        for n, regions in enumerate(groups):
            base, text = conditioning[n % len(conditioning)], prompts[min(n, len(prompts) - 1)]
            if not base:
                raise ConceptAttentionError("The prompt for the whole picture is empty.")
            check_one_size(regions)
            mentioned = read_prompts(text, names)
            prompted = [
                (mask, mentioned.get(key_of(name), None if only_mentioned[0] else name))
                for mask, name in regions
            ]
            made.append([*base, *add_regions(clip[0], base, prompted, strength[0])])
        return io.NodeOutput(made)


def add_regions(clip: Any, base: list, prompted: list, strength: float) -> list:
    """The conditioning of each mask that is not empty and has words, as the prompt `base` is."""
    # the strength of a guided model is the whole image's
    kept = {key: value for key, value in base[0][1].items() if key == "guidance"}
    added = []
    for mask, words in prompted:
        if words is None or not mask.any():
            continue
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(words))
        region = {"mask": mask, "mask_strength": strength, "set_area_to_bounds": False}
        added += [[rows, {**options, **kept, **region}] for rows, options in encoded]
    return added


def check_prompts(text: str | None) -> None:
    """An error unless a text is prompts for the names that the graph tells, if it tells any."""
    if text is not None:
        known = [name for concepts in concepts_behind("names") for name in concepts.names]
        read_prompts(clean_text(text), known or None)
