"""Qwen-Image. Reference images stand behind the image's patches.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. There is no pooled vector.

In diffusers: models/transformers/transformer_qwenimage.py, `QwenImageTransformerBlock`.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....recording import Grid
from ....text_side import split_six
from ....tokens import ConceptTokens
from ..calls import BlockCall, ModelCall
from .base import ConceptStream, Family, Rope, encode_single_frames, vae_scale
from .joint_attention import JointTextSide, joint_text_side
from .reading import own_span

LENGTH = 512  # tokens; prompts are not padded up to it


class QwenImage(Family):
    name = "Qwen-Image"
    model = "diffusers.models.transformers.transformer_qwenimage.QwenImageTransformer2DModel"
    encoder = "its language model"

    def text_length(self, pipe: Any) -> int:
        return LENGTH

    def embed(self, pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
        with torch.no_grad():
            encoded, _ = pipe.encode_prompt(words, max_sequence_length=length)
        template, dropped = pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx
        texts = [template.format(text) for text in ("", *words)]
        empty, *read = (pipe.tokenizer(text).input_ids for text in texts)
        tokens = []
        for rows, ids in zip(encoded, read, strict=True):
            own = own_span(ids, empty)
            places = range(own.start - len(ids), own.stop - len(ids))
            kept = rows[own.start - dropped : own.stop - dropped]
            tokens.append(ConceptTokens.of(kept, places))
        return tokens

    def grid(self, pipe: Any, call: ModelCall) -> Grid:
        first = call.img_shapes[0]  # of the batch; ControlNet's pipelines give one shape each
        _, y, x = first[0] if isinstance(first, list) else first  # reference images come after
        return Grid.of_latent(2 * y, 2 * x, patch=2, scale=vae_scale(pipe))

    def start_stream(
        self, transformer: Any, tokens: ConceptTokens, call: ModelCall, first: BlockCall
    ) -> ConceptStream:
        text, mask = call.encoder_hidden_states, call.encoder_hidden_states_mask
        if mask is None:
            mask = text.new_ones(1, text.shape[1])
        positions = tokens.positions(mask.sum(dim=1, keepdim=True).long())
        concepts = transformer.txt_in(transformer.txt_norm(tokens.rows.to(text)))
        image_rotary, text_rotary = first.image_rotary_emb
        rope = rope_of(rearrange(text_rotary[positions], "b t d -> b 1 t d"))
        temb = first.temb[:1]  # a second half is for reference images, whose noise level is 0

        def text_side(block: Any) -> JointTextSide:
            modulations = split_six(block.txt_mod(temb), fused=False)
            norms = block.txt_norm1, block.txt_norm2
            return joint_text_side(block, modulations, *norms, block.txt_mlp, rope)

        return ConceptStream(concepts[None], text_side, rope_of(image_rotary))

    def encode(self, pipe: Any, images: Tensor) -> Tensor:
        latent = encode_single_frames(pipe, images)[:, :, 0]
        mean, std = (
            rearrange(torch.tensor(figures).to(latent), "c -> c 1 1")
            for figures in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
        )
        return (latent - mean) / std

    def prepare_call(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b, _, h, w = shape
        with torch.no_grad():
            text, mask = pipe.encode_prompt(
                caption, num_images_per_prompt=b, max_sequence_length=length
            )
        guided = pipe.transformer.config.guidance_embeds

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            patches = rearrange(latent, "b c (y i) (x j) -> b (y x) (c i j)", i=2, j=2)
            return {
                "hidden_states": patches.to(text),
                "timestep": torch.full((b,), level, device=text.device, dtype=text.dtype),
                "guidance": torch.zeros(b, device=text.device) if guided else None,
                "encoder_hidden_states": text,
                "encoder_hidden_states_mask": mask,
                "img_shapes": [[(1, h // 2, w // 2)]] * b,
            }

        return arguments


def rope_of(rotary: Tensor) -> Rope:
    """The rotation of the first tokens of a sequence by complex numbers `.. n d/2`."""

    def rotate(heads: Tensor) -> Tensor:
        pairs = rearrange(heads.float(), "b head n (d two) -> b head n d two", two=2)
        rotated = torch.view_as_complex(pairs.contiguous()) * rotary[..., : heads.shape[2], :]
        return rearrange(torch.view_as_real(rotated), "b head n d two -> b head n (d two)").to(
            heads
        )

    return rotate
