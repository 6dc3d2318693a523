"""Flux.2 at toy size: Klein, whose guidance is against nothing, and dev."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from transformers import Qwen3Config, Qwen3ForCausalLM

from .common import Tiny, ready, shake, tokenizer

TEMPLATE = """{%- for message in messages %}
{%- if message.content is string %}system the user : {{ message.content }} end
{%- elif message.role == "user" %} user : {{ message.content[0].text }} end
{%- endif %}
{%- endfor %}"""


def tiny_flux2(*, klein: bool = True) -> Flux2KleinPipeline | Flux2Pipeline:
    torch.manual_seed(0)
    words = tokenizer("", "</s>", closed=False)
    words.chat_template = TEMPLATE
    words.padding_side = "right" if klein else "left"
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=3,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=3 * 16,
        axes_dims_rope=(8, 8, 8, 8),
        guidance_embeds=not klein,
    )
    language = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=30,  # three of them are read
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=32
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    shake(transformer, language)
    kind = Flux2KleinPipeline if klein else Flux2Pipeline
    return ready(kind(FlowMatchEulerDiscreteScheduler(), vae, language, words, transformer))


TINY = Tiny(
    make=tiny_flux2,
    noise=(16, 3, 5),
    call={"guidance_scale": 1.0},
    guided={"guidance_scale": 3.0},
    start=4,
    has_places=True,
)
