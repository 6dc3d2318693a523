"""Masks put to use in image editors: cut-outs, layers, files."""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from einops import repeat

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.concepts import key_of
from ..conceptattention_core.output.layers import (
    NEEDS_PSD_TOOLS,
    Layer,
    check_masks,
    cut_out,
    find_bounds,
    save_psd,
)
from ..conceptattention_core.texts import clean_text, name_files
from .door import accepting, to_masks
from .wires import advanced, masks_input, names_input, next_path, schema, show, writing

LayersWire = io.Custom("LAYERS")  # core's own in newer ComfyUI


class CutOut(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionCutOut",
            "Cut Out",
            description="The picture with a mask as its alpha channel: only the thing is left.",
            search_aliases=["concept attention", "rgba", "alpha", "transparent", "sticker"],
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="The pictures that the masks belong to."),
                io.Mask.Input("mask", tooltip="From Concept Masks: one cut-out per concept."),
                io.Boolean.Input(
                    "crop",
                    default=False,
                    tooltip="Off: as large as the picture. On: no larger than the thing itself, "
                    "in a batch than all things together.",
                ),
                advanced(
                    io.Int.Input(
                        "margin",
                        default=8,
                        min=0,
                        max=4096,
                        tooltip="Pixels left around the thing when cropping.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="cut-out",
                    is_output_list=True,
                    tooltip="Pictures with alpha. Of an empty mask: fully transparent.",
                )
            ],
        )

    @classmethod
    @accepting
    def execute(cls, image, mask, crop, margin) -> io.NodeOutput:
        count = max(len(image), len(mask))
        if count % len(image) or (len(mask) != count and len(mask) != 1):
            raise ConceptAttentionError(
                f"There are {len(mask)} masks and {len(image)} pictures. Connect as many masks for "
                "each picture, or one picture."
            )
        made = [
            cut(
                image[n * len(image) // count],  # the masks of a picture follow one another
                *(values[min(n, len(values) - 1)] for values in (mask, crop, margin)),
            )
            for n in range(count)
        ]
        return io.NodeOutput(made)


def cut(image: torch.Tensor, mask: torch.Tensor, crop: bool, margin: int) -> torch.Tensor:
    """Pictures with their masks as alpha, `b h w 4`, cropped to what all masks show together."""
    rgba = cut_out(image, mask)
    bounds = find_bounds(mask.amax(0), margin) if crop else None
    if bounds is not None:
        left, top, right, bottom = bounds
        rgba = rgba[:, top:bottom, left:right]
    return rgba


class Layers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionLayers",
            "Concept Layers",
            description="One named layer per concept above the whole picture, for core's layer "
            "nodes and Save Layers.",
            search_aliases=["concept attention", "psd", "compositor"],
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture; of a batch, the first one."),
                masks_input(),
                names_input(),
            ],
            outputs=[
                LayersWire.Output(
                    display_name="layers",
                    is_output_list=True,
                    tooltip="A stack of layers: the picture at the bottom, then each concept "
                    "that the picture shows, in their order.",
                )
            ],
        )

    @classmethod
    @accepting
    def execute(cls, image, masks, names) -> io.NodeOutput:
        groups = group(pair(masks, names))
        if len(image) not in (1, len(groups)):
            raise ConceptAttentionError(
                f"There are {len(image)} pictures, and masks of {len(groups)}. Connect the images "
                "that went to Concept Masks, each with the same concepts."
            )
        pictures = image * (len(groups) // len(image))
        stacks = [stack_up(*both) for both in zip(pictures, groups, strict=True)]
        return io.NodeOutput(stacks)


def stack_up(image: torch.Tensor, masks: list[tuple[torch.Tensor, str]]) -> dict:
    """The first picture of a batch and a layer for each named mask that is not empty."""
    picture = image[:1, ..., :3]
    stack = [{"name": "picture", "image": picture}]
    for mask, name in masks:
        check_masks(picture, mask[:1])
        bounds = find_bounds(mask[0])
        if bounds is not None:
            left, top, right, bottom = bounds
            stack.append(
                {
                    "name": name,
                    "image": picture[:, top:bottom, left:right],
                    "mask": 1 - mask[:1, top:bottom, left:right],  # 1 is transparent in core
                    "x": left,
                    "y": top,
                }
            )
    items = [
        {"type": "raster", "x": 0, "y": 0, "z_index": z, **item} for z, item in enumerate(stack)
    ]
    canvas = (picture.shape[2], picture.shape[1])
    return {"version": 1, "canvas": canvas, "layers": items}


class SaveLayers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionSaveLayers",
            "Save Layers",
            description="Writes a layered file in Photoshop's format, PSD.",
            search_aliases=["concept attention", "psd", "photoshop", "krita"],
            is_output_node=True,
            inputs=[
                LayersWire.Input("layers", tooltip="From Concept Layers, or any layer stack."),
                io.String.Input(
                    "filename_prefix",
                    default="ConceptAttention/layers",
                    tooltip="Where in the output folder; a number is added, nothing is replaced.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        return find_spec("psd_tools") is not None or NEEDS_PSD_TOOLS

    @classmethod
    @accepting
    def execute(cls, layers, filename_prefix) -> io.NodeOutput:
        items = sorted(layers.get("layers", []), key=lambda item: item.get("z_index", 0))
        stack = [layer for number, item in enumerate(items) for layer in _to_layers(item, number)]
        if not stack:
            raise ConceptAttentionError("There is no layer to save.")
        w, h = layers.get("canvas") or (
            max(layer.left + layer.rgba.shape[1] for layer in stack),
            max(layer.top + layer.rgba.shape[0] for layer in stack),
        )
        with writing(filename_prefix):
            path = next_path(filename_prefix, ".psd")
            save_psd(path, stack, (h, w))
        show(path.name)
        return io.NodeOutput(str(path), ui=ui.PreviewText(path.name))


def _to_layers(item: dict, number: int) -> list[Layer]:
    """A layer for each picture of an item's batch, as core shows it: masked (1) is transparent."""
    image, mask = item["image"], item.get("mask")
    alpha = image[..., 3] if image.shape[-1] == 4 else torch.ones_like(image[..., 0])
    if mask is not None:
        mask = to_masks("layers", mask)
    if mask is not None and len(mask) in (1, len(image)):
        shown = F.interpolate(1 - mask[:, None].to(alpha), size=alpha.shape[1:], mode="bilinear")
        alpha = alpha * shown[:, 0]
    alpha = alpha * item.get("opacity", 1.0)
    name = clean_text(item.get("name") or "") or f"layer {number}"
    names = [name] if len(image) == 1 else [f"{name} {n + 1}" for n in range(len(image))]
    return [
        Layer(own, rgba, item.get("x", 0), item.get("y", 0), item.get("visible", True))
        for own, rgba in zip(names, cut_out(image, alpha), strict=True)
    ]


class SaveMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionSaveMasks",
            "Save Named Masks",
            description="Writes masks as PNG files called by their concepts, with the workflow in "
            "them.",
            search_aliases=["concept attention", "export masks"],
            is_output_node=True,
            is_input_list=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Mask.Input("mask", tooltip="From Concept Masks."),
                io.String.Input(
                    "name",
                    force_input=True,
                    tooltip="Names from Concept Masks: what files are called.",
                ),
                io.String.Input(
                    "folder",
                    default="ConceptAttention/masks",
                    tooltip="In the output folder. A number is added to each file, nothing is "
                    "replaced.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", is_output_list=True, tooltip="The same masks.")
            ],
        )

    @classmethod
    @accepting
    def execute(cls, mask, name, folder) -> io.NodeOutput:
        if len(name) == len(mask):
            names, files = name, _name_files(name)
        else:  # one name does for all its parts, each of which gets a file of its own
            names = [*name, *name[-1:] * (len(mask) - len(name))]
            files = name_files([one.casefold() for one in names])
        saved = []
        for (batch, _), safe in zip(pair(mask, names), files, strict=True):
            pictures = repeat(batch, "b h w -> b h w rgb", rgb=3)
            prefix = f"{folder[0]}/{safe}" if folder[0] else safe
            with writing(prefix):
                saved += ui.ImageSaveHelper.save_images(pictures, prefix, io.FolderType.output, cls)
        return io.NodeOutput(mask, ui=ui.SavedImages(saved))


def _name_files(names: list[str]) -> list[str]:
    """What files are called; a name that repeats is the next picture's and keeps its file's name.

    The number in it goes on. "Sun" and "sun" are one file on some systems, so they differ in more.
    """
    distinct = list(dict.fromkeys(names))
    files = dict(zip(distinct, name_files([one.casefold() for one in distinct]), strict=True))
    return [files[name] for name in names]


def pair(masks: list, names: list[str]) -> list[tuple[torch.Tensor, str]]:
    """Masks with their names, after a check that there are as many."""
    if len(masks) != len(names):
        raise ConceptAttentionError(
            f"There are {len(masks)} masks and {len(names)} names. Connect both from the same "
            "Concept Masks."
        )
    return list(zip(masks, names, strict=True))


def group(named: list[tuple[torch.Tensor, str]]) -> list[list[tuple[torch.Tensor, str]]]:
    """Masks that came as a list, by the picture they belong to: a name that repeats begins one.

    The concepts of one picture differ, so that of sun, sky, sun, sky two are the next picture's.
    """
    groups: list[list[tuple[torch.Tensor, str]]] = [[]]
    for mask, name in named:
        if key_of(name) in {key_of(other) for _, other in groups[-1]}:
            groups.append([])
        groups[-1].append((mask, name))
    return groups
