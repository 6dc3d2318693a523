"""HunyuanVideo, HunyuanVideo 1.5 and HunyuanImage 2.1: Flux's blocks, for videos, too.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Prompts go through a refiner, in which all tokens of a text meet and which knows the
noise level; so every concept is refined by itself, as a text of its own, in each call. Its pooled
vector is zeros, and text has no positions.

ComfyUI: `comfy.ldm.hunyuan_video.model.HunyuanVideo.forward_orig`, its refiner `TokenRefiner`.
"""

from typing import Any

import torch

from ....recording import FrameLayout, Grid
from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._double_stream import double_stream
from .base import BlockCall, Family, Layout, ModelCall
from .reading import TemplateReader

LANGUAGE_MODELS = ("llama", "qwen25_7b")
FRAMES_PER_LATENT = 4


class Hunyuan(Family):
    name = "Hunyuan Video and Image"
    model = "comfy.ldm.hunyuan_video.model.HunyuanVideo"
    stack = "double_blocks"
    reads = TemplateReader(LANGUAGE_MODELS, among=LANGUAGE_MODELS)
    text_width_at = "txt_in.input_embedder.in_features"

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        patch = model.patch_size[-1]
        if len(model.patch_size) == 2:  # HunyuanImage 2.1
            return Grid.of_latent(h, w, patch, scale=32)
        scale = 16 if patch == 1 else 8  # HunyuanVideo 1.5 compresses more
        return Grid.of_latent(
            h, w, patch, scale, FrameLayout(latents, FRAMES_PER_LATENT, model.patch_size[0])
        )

    def layout(self, model: Any, block: BlockCall, grid: Grid, stream: ConceptStream) -> Layout:
        # reference images come first; text came last in ComfyUI before 0.13
        text_last = getattr(model.double_blocks[0], "flipped_img_txt", False)
        stop = block.length - (block.stream.shape[1] if text_last else 0)
        return Layout(block.length, slice(stop - grid.patches, stop))

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, vec = block.stream, block.modulation
        refined = [
            model.txt_in(own[None], call.timesteps[:1], None)
            for own in tokens.rows.to(txt).split(tokens.counts)
        ]
        concepts = torch.cat(refined, dim=1)
        kinds = getattr(model, "cond_type_embedding", None)
        if kinds is not None:  # HunyuanVideo 1.5 marks text and what it reads in images
            text = torch.zeros(1, dtype=torch.long, device=concepts.device)
            concepts = concepts + kinds(text).to(concepts)
        if call.pooled is not None and model.vector_in is not None:
            pooled = call.pooled[:, : model.params.vec_in_dim].to(vec)
            change = model.vector_in(torch.zeros_like(pooled)) - model.vector_in(pooled)
            vec = vec + (change if vec.ndim == 2 else change[:, None])
        if vec.ndim == 3:  # a first frame that is given has a noise level of its own
            vec = vec[:, 1]
        concepts = concepts.expand(len(txt), -1, -1)
        return double_stream(model, concepts, Rotary(block.rotary), vec)
