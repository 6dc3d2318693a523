"""HiDream-I1 at toy size: three layers of Llama, the last of which goes on from block to block."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .common import Conditioning, Tiny, around_forward, prompts, random_weights
from .words import POOLED_WIDTH, TEXT_WIDTH, T5Reader, number, pad, read, vectors

NAMES = {"img": "image_tokens", "txt": "text_tokens", "vec": "adaln_input", "pe": "rope"}
LAYERS = (0, 1, 2, 2)
"""Llama's layer for each block; the last block is of a single stream."""
START, PAD = 128000, 128009


def llama(ids: list[tuple[int, float]]) -> Tensor:
    """Rows `layer n d`: a word is another one in every layer."""
    return torch.stack([vectors([(id_ + 7 * layer, 1.0) for id_, _ in ids]) for layer in (1, 2, 3)])


class T5AndLlama(T5Reader):
    """T5's rows, and apart from them Llama's, less its own first layer."""

    def tokenize(self, text: str) -> dict:
        words = [(token, 1.0) for token, _ in read(text)]
        return {**super().tokenize(text), "llama": [pad([(START, 1.0), *words], self.least, PAD)]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        t5 = super().encode_from_tokens(tokens, return_dict)
        return {**t5, "conditioning_llama3": llama(tokens["llama"][0])[None]}

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict) -> Conditioning:
        encoded = self.encode_from_tokens(tokens, return_dict=True)
        more = {"conditioning_llama3": encoded["conditioning_llama3"], **add_dict}
        return super().encode_from_tokens_scheduled(tokens, more)

    def row(self, word: str) -> Tensor:
        """T5's row and Llama's three, `1 four d`, once for each time that a block sees the word."""
        layers = torch.cat([super().row(word), llama([(number(word), 1.0)])[:, 0]])
        return repeat(layers, "four d -> three four d", three=3)


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.HiDream({
        "image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16,
        "num_layers": 3, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 3, "caption_channels": [TEXT_WIDTH, TEXT_WIDTH],
        "text_emb_dim": POOLED_WIDTH, "num_routed_experts": 4, "num_activated_experts": 2,
        "axes_dims_rope": (8, 4, 4), "max_resolution": (128, 128), "llama_layers": list(LAYERS),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def prompt(seed: int, tokens: int = 5, **more) -> Conditioning:
    generator = torch.Generator().manual_seed(seed + 100)
    layers = torch.randn(1, max(LAYERS) + 1, tokens + 1, TEXT_WIDTH, generator=generator)
    return prompts(conditioning_llama3=layers)(seed, tokens, **more)


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    """The text stream before block 0, of rows `(word three) four d`."""
    project = network.caption_projection
    stream = torch.stack([
        project[-1](rows[0::3, 0]),
        project[-2](rows[1::3, 1 + LAYERS[-1]]),
        project[0](rows[2::3, 1 + LAYERS[0]]),
    ])  # fmt: skip
    return rearrange(stream, "three word d -> 1 (word three) d")


def renew(network: nn.Module, rows: Tensor, stream: Tensor, index: int) -> Tensor:
    """The stream with what Llama's layer for block `index` makes of each word."""
    stream = stream.clone()
    stream[:, 2::3] = network.caption_projection[index](rows[2::3, 1 + LAYERS[index]])
    return stream


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    named = {theirs: args[ours] for ours, theirs in NAMES.items()}
    image, text = type(block).forward(block, **named, transformer_options=options)
    return {"img": image, "txt": text}


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    picture, origin = args["pe"][:, :patches], args["pe"][:, -1:]
    origins = origin.expand(-1, concepts.shape[1], -1, -1, -1, -1)
    return {
        "img": args["img"].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"],
        "pe": torch.cat([picture, origins], dim=1),
    }


def by_head(normed: Tensor) -> Tensor:
    return rearrange(normed, "b n (head d) -> b head n d", head=3)


TINY = Tiny(
    model=model,
    clip=T5AndLlama,
    prompt=prompt,
    enter=enter,
    renew=renew,
    block=lambda network, index: network.double_stream_blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.block.attn1.q_rms_norm, block.block.attn1.k_rms_norm_t),
    queries=by_head,
    keys=by_head,
    around=around_forward("double_stream_blocks", NAMES),
    text_last=True,
    readings=3,
    needs="HiDream",
)
