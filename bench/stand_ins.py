"""Nodes that `bench.workflows` puts in place of loaders, and nodes that keep what it compares.

A ComfyUI server loads this file as a pack of its own. Models are those of the law tests: ComfyUI's
real classes with random weights.
"""

from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from tests.comfyui.tiny import HERE


class Encoder:
    """A family's reader of words, which takes and ignores what loaders' CLIPs take besides."""

    def __init__(self, reader: Any):
        self.reader = reader

    def tokenize(self, text: str, *_: Any, **__: Any) -> Any:
        return self.reader.tokenize(text)

    def encode_from_tokens(self, tokens: Any, return_pooled: bool = False, **more: Any) -> Any:
        found = self.reader.encode_from_tokens(tokens, return_dict=True)
        if more.get("return_dict"):
            return found
        return (found["cond"], None) if return_pooled else found["cond"]

    def encode_from_tokens_scheduled(
        self, tokens: Any, unprojected: bool = False, add_dict: dict | None = None, **_: Any
    ) -> list:
        return self.reader.encode_from_tokens_scheduled(tokens, add_dict or {})

    def clone(self) -> "Encoder":
        return self

    def clip_layer(self, _: int) -> None:
        """Takes a layer as ComfyUI's CLIP does; there is one only."""


class Pictures:
    """Stands in for a VAE: colours are means of channels, without weights."""

    def __init__(self, channels: int, scale: int, frames: bool):
        self.channels, self.scale, self.frames = channels, scale, frames

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        """`b c (t) y x` to pictures `n h w 3`, 0..1."""
        if latent.ndim == 5:
            latent = latent.movedim(1, 2).flatten(0, 1)
        colours = torch.stack([part.mean(1) for part in latent.float().chunk(3, dim=1)], dim=1)
        return interpolate(colours.sigmoid(), scale_factor=self.scale).movedim(1, -1)

    decode_tiled = decode

    def encode(self, pixels: Tensor, **_: Any) -> Tensor:
        """Pictures `n h w 3` to a latent."""
        small = avg_pool2d(pixels[..., :3].movedim(-1, 1).float(), self.scale)
        whole = small.repeat(1, -(-self.channels // 3), 1, 1)[:, : self.channels]
        return whole.movedim(0, 1)[None] if self.frames else whole

    encode_tiled = encode

    def spacial_compression_encode(self) -> int:
        return self.scale

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> None:
        """No frames are put together."""


class TinyModels:
    """A family's small model with a reader of words and a stand-in of a VAE."""

    CATEGORY, FUNCTION = "bench", "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"family": (list(HERE),)}}

    def load(self, family: str) -> tuple[Any, Encoder, Pictures]:
        tiny = HERE[family]
        vae = Pictures(tiny.channels, tiny.scale, bool(tiny.frames))
        return tiny.model(), Encoder(tiny.clip()), vae


class KeepLatent:
    """Write a latent's numbers to a file and show its name."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "bench", "keep", True
    RETURN_TYPES = ()
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"samples": ("LATENT",), "name": ("STRING", {})}}
    )

    def keep(self, samples: dict[str, Any], name: str) -> dict[str, Any]:
        latent = samples["samples"]
        parts = latent.unbind() if getattr(latent, "is_nested", False) else (latent,)
        numbers = np.concatenate([part.float().cpu().numpy().ravel() for part in parts])
        file = Path(folder_paths.get_output_directory(), f"{name}.npy")
        np.save(file, numbers)
        count = len(parts[0]) * (parts[0].shape[2] if parts[0].ndim == 5 else 1)
        return {"ui": {"latent": [file.name], "pictures": [count]}}


class CountMaps:
    """Of how many pictures there are maps, and whether all of them are finite."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "bench", "count", True
    RETURN_TYPES = ()
    INPUT_TYPES = classmethod(lambda cls: {"required": {"maps": ("CONCEPT_MAPS",)}})

    def count(self, maps: Any) -> dict[str, Any]:
        fine = maps.maps.isfinite().flatten(1).all(1)
        return {"ui": {"pictures": [int(fine.sum())]}}


NODE_CLASS_MAPPINGS: dict[str, type] = {
    f"Bench{node.__name__}": node for node in (TinyModels, KeepLatent, CountMaps)
}
