"""HunyuanVideo, HunyuanVideo 1.5 and HunyuanImage 2.1: Flux's blocks, for videos, too.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Prompts go through a refiner, in which all tokens of a text meet; so every concept is
refined by itself, as a text of its own. Its pooled vector is zeros, and text has no positions.
"""

from typing import Any

import torch
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from torch import Tensor, nn

from ....recording import Grid, Time
from ._double_stream import DoubleStreamRide
from .base import Family, Layout
from .positions import apart, numbered
from .reading import read_template

LANGUAGE_MODELS = ("llama", "qwen25_7b")
PACE = 4


class Hunyuan(Family):
    name = "Hunyuan Video and Image"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, HunyuanVideo)

    def blocks(self, model: HunyuanVideo) -> nn.ModuleList:
        return model.double_blocks

    def grid(self, model: HunyuanVideo, h: int, w: int, latents: int = 1) -> Grid:
        patch = model.patch_size[-1]
        if len(model.patch_size) == 2:  # HunyuanImage 2.1
            return Grid.of_latent(h, w, patch, scale=32)
        scale = 16 if patch == 1 else 8  # HunyuanVideo 1.5 compresses more
        return Grid.of_latent(h, w, patch, scale, Time(latents, PACE, model.patch_size[0]))

    def layout(self, model: HunyuanVideo, args: dict[str, Any], grid: Grid, ride: Any) -> Layout:
        text, image = args["txt"].shape[1], args["img"].shape[1]
        # pictures to refer to come first; text came last in ComfyUI before 0.13
        stop = image if getattr(model.double_blocks[0], "flipped_img_txt", False) else text + image
        return Layout(text + image, slice(stop - grid.patches, stop))

    def text_width(self, model: HunyuanVideo) -> int | None:
        return model.txt_in.input_embedder.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        rows = read_template(clip, words, self.name, LANGUAGE_MODELS)
        return numbered(own[:, :-1] for own in rows)

    def enter(
        self, model: HunyuanVideo, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> DoubleStreamRide:
        txt, vec = args["txt"], args["vec"]
        rows, lengths = apart(rows)
        refined = [
            model.txt_in(own[None], conds["timesteps"][:1], None)
            for own in rows.to(txt).split(lengths)
        ]
        concepts = torch.cat(refined, dim=1)
        kinds = getattr(model, "cond_type_embedding", None)
        if kinds is not None:  # HunyuanVideo 1.5 tells its text from what it reads in pictures
            text = torch.zeros(1, dtype=torch.long, device=concepts.device)
            concepts = concepts + kinds(text).to(concepts)
        pooled = conds.get("y")
        if pooled is not None and model.vector_in is not None:
            pooled = pooled[:, : model.params.vec_in_dim].to(vec)
            change = model.vector_in(torch.zeros_like(pooled)) - model.vector_in(pooled)
            vec = vec + (change if vec.ndim == 2 else change[:, None])
        if vec.ndim == 3:  # a first frame that is given has a noise level of its own
            vec = vec[:, 1]
        return DoubleStreamRide(model, concepts.expand(len(txt), -1, -1), args["pe"], vec)
