"""Nodes that bench.workflows adds to the ComfyUI it starts: tiny models, and bits as numbers."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
FRAMES = {"GenmoMochi": 6}
"""Pictures for each frame of a video's latent after the first, where they are not 4."""


def tiny_families() -> dict[str, Any]:
    """The tests' tiny models, by family."""
    import folder_paths

    # Last: the pack's own nodes/ must not hide ComfyUI's. The pack lies in custom_nodes.
    for place in (str(ROOT), *folder_paths.get_folder_paths("custom_nodes")):
        if place not in sys.path:
            sys.path.append(place)
    # The running pack has put its module for other packs under the name that the tests know it by.
    door = sys.modules.pop("conceptattention", None)
    try:
        from tests.comfyui.tiny import HERE
    finally:
        if door is not None:
            sys.modules["conceptattention"] = door
    return HERE


class AnyType(str):
    """A type that every other equals, as node packs write "takes anything"."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False


class TinyModel:
    """A family's tiny model, its text encoder, and pixels in place of an autoencoder."""

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"
    CATEGORY = "bench"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"family": ("STRING", {"default": "Qwen-Image"})}}

    def load(self, family: str) -> tuple:
        tiny = tiny_families().get(family)
        if tiny is None:
            raise ValueError(f"This ComfyUI has no {family}.")
        return tiny.model().clone(), encoder(tiny), PixelVAE(tiny)


def encoder(tiny: Any) -> Any:
    """The family's text encoder with what ComfyUI's nodes ask of one besides."""

    class Encoder(tiny.clip):
        def clone(self) -> "Encoder":
            return self

        def tokenize(self, text: str, **_: Any) -> Any:
            return super().tokenize(text)

        def encode_from_tokens_scheduled(
            self, tokens: Any, unprojected: bool = False, add_dict: Any = None, **_: Any
        ) -> list:
            more = dict(tiny.prompt(0)[0][1])  # this family's pooled vector, guidance and the like
            encoded = self.encode_from_tokens(tokens, return_dict=True)
            if "attention_mask" in more:  # of its own length, where the encoder tells none
                rows = torch.ones(encoded["cond"].shape[:2], dtype=torch.long)
                more["attention_mask"] = encoded.get("attention_mask", rows)
            return super().encode_from_tokens_scheduled(tokens, {**more, **(add_dict or {})})

    return Encoder()


class PixelVAE:
    """Latent channels shown as colours and back: exact in every bit, and free of weights."""

    def __init__(self, tiny: Any):
        self.channels, self.scale, self.frames = tiny.channels, tiny.scale, bool(tiny.frames)
        self.later = FRAMES.get(tiny.needs, 4)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Pictures `b h w 3`, or `b t h w 3`, of latents `b c h w`, or `b c t h w`."""
        colours = samples[:, :3].movedim(1, -1)
        if colours.ndim == 5:  # a video's first frame is one picture, every later one is several
            later = colours[:, 1:].repeat_interleave(self.later, dim=1)
            colours = torch.cat([colours[:, :1], later], dim=1)
        for axis in (-3, -2):
            colours = colours.repeat_interleave(self.scale, dim=axis)
        return (colours * 0.25 + 0.5).clamp(0, 1)

    def decode_tiled(self, samples: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.decode(samples)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents of pictures `b h w c`."""
        colours = pixels[..., :3].movedim(-1, 1)
        small = torch.nn.functional.avg_pool2d(colours, self.scale) * 4 - 2
        latent = small.repeat(1, -(-self.channels // 3), 1, 1)[:, : self.channels]
        return latent[:, :, None] if self.frames else latent

    def encode_tiled(self, pixels: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.encode(pixels)

    def spacial_compression_encode(self) -> int:
        return self.scale

    def spacial_compression_decode(self) -> int:
        return self.scale

    def temporal_compression_decode(self) -> None:
        return None


class Keep:
    """Tells what a value is: shape and SHA-256 of latents and pictures, texts as they are."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    INPUT_IS_LIST = True
    FUNCTION = "keep"
    CATEGORY = "bench"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"value": (AnyType("*"),)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: dict[str, str]) -> bool:  # noqa: N802
        return True

    def keep(self, value: list) -> dict[str, Any]:
        return {"ui": {"kept": [json.dumps(fingerprint(one)) for one in value]}}


def fingerprint(value: Any) -> Any:
    if isinstance(value, dict):
        value = value.get("samples")
    if isinstance(value, torch.Tensor):
        parts = list(value.unbind()) if value.is_nested else [value]
        whole = hashlib.sha256()
        for part in parts:
            raw = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            whole.update(f"{part.dtype} {tuple(part.shape)}".encode() + raw.numpy().tobytes())
        return {"shape": list(parts[0].shape), "bits": whole.hexdigest()}
    return value if isinstance(value, str) else {"kind": type(value).__name__}


NODE_CLASS_MAPPINGS = {"BenchTinyModel": TinyModel, "BenchKeep": Keep}
