"""Images that people hand over, as the core computes with them: of any kind in, one kind out."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from . import ConceptAttentionError

ImageArray: TypeAlias = NDArray[np.uint8]
"""An image `h w rgb` in bytes."""
ImageLike: TypeAlias = Image.Image | np.ndarray | Tensor
"""What `read_pixels` takes."""

ACCEPTED = "a PIL image, or an array or tensor h w 3 of bytes or of floats from 0 to 1"


def read_pixels(image: ImageLike) -> Tensor:
    """An image of any kind as `h w rgb`, float32, 0..1, on the CPU.

    A PIL image of any mode; arrays and tensors `h w 3` or `1 h w 3`, of uint8 or of floats 0..1.
    A fourth channel is left out.
    """
    if isinstance(image, Image.Image):
        return to_floats(np.asarray(image.convert("RGB")))
    if not isinstance(image, np.ndarray | Tensor):
        raise ConceptAttentionError(f"An image is {ACCEPTED}; got {type(image).__name__}.")
    pixels = torch.from_numpy(image.copy()) if isinstance(image, np.ndarray) else image
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    is_number = pixels.dtype == torch.uint8 or pixels.is_floating_point()
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.numel() or not is_number:
        shape = " x ".join(map(str, image.shape)) or "no axes"
        raise ConceptAttentionError(f"An image is {ACCEPTED}; got {image.dtype} of {shape}.")
    pixels = pixels[..., :3].detach().cpu()
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    low, high = (end.item() for end in pixels.aminmax())
    if not -1 < low <= high < 2:  # decoders go a little beyond 0 and 1
        raise ConceptAttentionError(f"An image is {ACCEPTED}; got values {low:g} to {high:g}.")
    return pixels.float()


def read_images(images: ImageLike | Sequence[ImageLike]) -> list[Tensor]:
    """One image or several, each as `read_pixels` gives it.

    Several are a list, or an array or tensor with a first axis of images. Tensors may have their
    colours before h w, as torch has them.
    """
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 3) == 4
    listed: Any = images if several else [images]
    return [read_pixels(_colours_last(image)) for image in listed]


def _colours_last(image: ImageLike) -> ImageLike:
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[2] in (3, 4):
        return image
    return image.movedim(0, 2)


def to_bytes(image: Tensor) -> ImageArray:
    """An image `h w rgb`, 0..1, in bytes; what lies beyond is cut, a fourth channel left out."""
    return (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def to_floats(image: ImageArray) -> Tensor:
    """Bytes as an image `h w rgb`, 0..1, float32."""
    return torch.from_numpy(image.astype(np.float32)) / 255
