"""Masks put to use in image editors: cut-outs, layers, files."""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from einops import repeat

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.named_masks import (
    NamedMask,
    group_masks,
    name_mask_files,
    pair_masks,
)
from ..conceptattention_core.output.layers import (
    NEEDS_PSD_TOOLS,
    Layer,
    crop_cut_out,
    cut_out,
    save_psd,
    stack_layers,
)
from ..conceptattention_core.texts import clean_text
from .door import accepting, to_masks
from .files import next_path, writing
from .inputs import masks_input, names_input
from .wires import advanced, schema

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
        made = []
        for n in range(count):
            pictures = image[n * len(image) // count]  # the masks of a picture follow one another
            own, is_cropped, room = (
                values[min(n, len(values) - 1)] for values in (mask, crop, margin)
            )
            made.append(crop_cut_out(pictures, own, room) if is_cropped else cut_out(pictures, own))
        return io.NodeOutput(made)


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
        groups = group_masks(masks, names)
        if len(image) not in (1, len(groups)):
            raise ConceptAttentionError(
                f"There are {len(image)} pictures, and masks of {len(groups)}. Connect the images "
                "that went to Concept Masks, each with the same concepts."
            )
        pictures = image * (len(groups) // len(image))
        return io.NodeOutput([_to_wire(*both) for both in zip(pictures, groups, strict=True)])


def _to_wire(image: torch.Tensor, masks: list[NamedMask]) -> dict:
    """The layers of an image as core's wire has them: a mask is transparent where it is 1."""
    items = [
        {
            "type": "raster",
            "x": layer.left,
            "y": layer.top,
            "z_index": z,
            "name": layer.name,
            "image": layer.rgba[None, ..., :3],
            **({"mask": 1 - layer.rgba[None, ..., 3]} if z else {}),
        }
        for z, layer in enumerate(stack_layers(image, masks))
    ]
    return {"version": 1, "canvas": (image.shape[2], image.shape[1]), "layers": items}


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
        return io.NodeOutput(str(path), ui=ui.PreviewText(path.name))


def _to_layers(item: dict, number: int) -> list[Layer]:
    """A layer for each image of an item's batch, as core shows it: masked (1) is transparent."""
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
        names, files = name_mask_files(name, len(mask))
        saved = []
        for (batch, _), safe in zip(pair_masks(mask, names), files, strict=True):
            pictures = repeat(batch, "b h w -> b h w rgb", rgb=3)
            prefix = f"{folder[0]}/{safe}" if folder[0] else safe
            with writing(prefix):
                saved += ui.ImageSaveHelper.save_images(pictures, prefix, io.FolderType.output, cls)
        return io.NodeOutput(mask, ui=ui.SavedImages(saved))
