"""OmniGen2 at toy size, with keys and values for two heads each."""

from functools import cache

import comfy.model_patcher
import comfy.supported_models
import torch
from einops import repeat
from torch import Tensor, nn

from .common import Tiny, around_forward, heads_first, in_one_sequence, random_weights
from .lumina import OWN_TOKENS, Masked, as_text, prompt, run, text_of
from .words import TEXT_WIDTH

NAMES = {"img": "hidden_states", "vec": "temb", "pe": "image_rotary_emb"}


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.Omnigen2({
        "image_model": "omnigen2", "patch_size": 2, "in_channels": 16, "hidden_size": 64,
        "num_layers": 3, "num_refiner_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2,
        "multiple_of": 32, "axes_dim_rope": (4, 6, 6), "text_feat_dim": TEXT_WIDTH,
        "timestep_scale": 1000.0,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    """The text before block 0, each concept refined by itself."""
    refined = []
    for own in rows[None].split(OWN_TOKENS, dim=1):
        places = torch.arange(own.shape[1])[None, :, None].expand(1, -1, 3)
        turns = network.rope_embedder.rope_embedder(places).movedim(1, 2)
        own = network.time_caption_embed.caption_embedder(own)
        for block in network.context_refiner:
            own = block(own, None, turns)
        refined.append(own)
    return torch.cat(refined, dim=1)


def for_each_query(normed: Tensor) -> Tensor:
    return repeat(normed, "b n head d -> b (head two) n d", two=2)


TINY = Tiny(
    model=model,
    clip=Masked,
    prompt=prompt,
    enter=enter,
    block=lambda network, index: network.layers[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.attn.norm_q, block.attn.norm_k),
    queries=heads_first,
    keys=for_each_query,
    around=in_one_sequence(around_forward("layers", NAMES, gives=("img",)), text_of),
    wrapped=False,
    numbered=True,
    references=True,
    needs="Omnigen2",
)
