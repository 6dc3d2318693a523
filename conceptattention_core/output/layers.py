"""Images in parts: cut-outs, a stack of named layers, and a file that image editors open."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import ConceptAttentionError
from ..recording import NOT_FINITE, is_finite
from ..texts import clean_text

NEEDS_PSD_TOOLS = "Layered files need psd-tools, which is not installed: pip install psd-tools"


@dataclass(frozen=True)
class Layer:
    """One image in a stack."""

    name: str
    rgba: Tensor  # h w 4, 0..1
    left: int = 0
    top: int = 0
    visible: bool = True


def cut_out(image: Tensor, mask: Tensor) -> Tensor:
    """Images `b h w rgb` with their masks `b h w` as alpha: `b h w 4`."""
    check_masks(image, mask)
    return torch.cat([image[..., :3], mask[..., None].to(image)], dim=-1)


def crop_cut_out(image: Tensor, mask: Tensor, margin: int = 0) -> Tensor:
    """Images with their masks as alpha, cropped to what all masks show together: `b y x 4`.

    `margin` pixels are left around it. Where all masks are empty nothing is cropped.
    """
    rgba = cut_out(image, mask)
    bounds = find_bounds(mask.amax(0), margin)
    if bounds is None:
        return rgba
    left, top, right, bottom = bounds
    return rgba[:, top:bottom, left:right]


def stack_layers(image: Tensor, masks: Sequence[tuple[Tensor, str]]) -> list[Layer]:
    """The first of the images `b h w rgb`, and above it a layer for each of its masks `b h w` with
    a name; none for an empty mask.
    """
    image = image[:1, ..., :3]
    layers = [Layer("picture", torch.cat([image[0], torch.ones_like(image[0, ..., :1])], -1))]
    for mask, name in masks:
        rgba = cut_out(image, mask[:1])[0]
        bounds = find_bounds(mask[0])
        if bounds is not None:
            left, top, right, bottom = bounds
            layers.append(Layer(name, rgba[top:bottom, left:right], left, top))
    return layers


def find_bounds(mask: Tensor, margin: int = 0) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (the latter two outside) of what is above 0 in `h w`.

    `margin` pixels are added on every side as far as the image goes. None: the mask is empty.
    """
    rows, columns = (mask > 0).any(1).nonzero()[:, 0], (mask > 0).any(0).nonzero()[:, 0]
    if not len(rows):
        return None
    h, w = mask.shape
    return (
        max(0, int(columns[0]) - margin),
        max(0, int(rows[0]) - margin),
        min(w, int(columns[-1]) + 1 + margin),
        min(h, int(rows[-1]) + 1 + margin),
    )


def check_masks(image: Tensor, mask: Tensor) -> None:
    """An error unless there is a mask of the images' size for each of them."""
    if mask.shape != image.shape[:3]:
        b, h, w = image.shape[:3]
        raise ConceptAttentionError(
            f"The pictures are {b} of {h} x {w} pixels, the mask has the shape "
            f"{tuple(mask.shape)}. Connect the same image to Concept Masks."
        )


def save_psd(path: Path, layers: Sequence[Layer], size: tuple[int, int]) -> None:
    """A layered file in Photoshop's format: the first layer lies at the bottom.

    `size` is h and w of the canvas. Needs psd-tools.
    """
    try:
        from psd_tools import PSDImage
    except ModuleNotFoundError:
        raise ConceptAttentionError(NEEDS_PSD_TOOLS) from None
    for layer in layers:
        if not is_finite(layer.rgba):
            raise ConceptAttentionError(f"The layer '{layer.name}' holds {NOT_FINITE}.")
    psd = PSDImage.new("RGB", (size[1], size[0]))
    for layer in layers:
        pixels = (layer.rgba.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        made = psd.create_pixel_layer(picture, name="layer", top=layer.top, left=layer.left)
        made.name = clean_text(layer.name)[
            :255
        ]  # the setter knows every script, the constructor does not
        made.visible = layer.visible
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        psd.save(str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
