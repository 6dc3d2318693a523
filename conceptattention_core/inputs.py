"""Images as callers have them: Pillow's, numpy arrays or tensors, one or several."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import ConceptAttentionError

ACCEPTED = (
    "an image of Pillow, an array or tensor of 'h w rgb' or 'rgb h w' (uint8, or floats of 0..1), "
    "or several of one size"
)


def to_pixels(given: Any) -> np.ndarray:
    """One or several images as `b h w rgb`, uint8. Grey is spread; alpha is left out.

    The axis of colours may come last or before `h w`; floats lie in 0..1.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        parts = [to_pixels(one) for one in given]
        if not parts or len({part.shape[1:] for part in parts}) > 1:
            raise ConceptAttentionError(f"Got {len(parts)} images; accepted: {ACCEPTED}.")
        return np.concatenate(parts)
    if isinstance(given, Image.Image):
        return np.array(given.convert("RGB"))[None]
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.is_floating_point() else given).numpy()
    if not isinstance(given, np.ndarray) or given.ndim not in (2, 3, 4):
        shape = f" of shape {given.shape}" if isinstance(given, np.ndarray) else ""
        raise ConceptAttentionError(f"Got {type(given).__name__}{shape}; accepted: {ACCEPTED}.")
    pixels = given[..., None] if given.ndim == 2 else given
    if pixels.shape[-1] not in (1, 3, 4) and pixels.shape[-3] in (1, 3, 4):
        pixels = np.moveaxis(pixels, -3, -1)
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
        raise ConceptAttentionError(f"Got an array of shape {given.shape}; accepted: {ACCEPTED}.")
    return np.array(np.broadcast_to(to_bytes(pixels)[..., :3], (*pixels.shape[:3], 3)))


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Values as uint8: floats lie in 0..1."""
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ConceptAttentionError(f"Got an image of {pixels.dtype}; accepted: {ACCEPTED}.")
    if not (np.isfinite(pixels).all() and pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
        raise ConceptAttentionError(
            f"Got an image with values of {pixels.min():g} to {pixels.max():g}; floats lie in 0..1."
        )
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Images `b h w rgb`, uint8, as `b rgb h w`, 0..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
