"""Real pipelines at toy size: diffusers' and transformers' own classes with random weights."""

from collections.abc import Callable

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

LENGTH = 77  # tokens both tokenizers read; ComfyUI's CLIP knows no other number
WORDS = ("a", "the", "over", "balloon", "sea", "sky", "cat", "moon", "cloud", "red", "green")


def tiny_flux(*, guidance: bool = False) -> FluxPipeline:
    """Flux.1 with three double blocks; `guidance` makes it a dev, otherwise it is a schnell."""
    torch.manual_seed(0)
    t5_words, clip_words = _tokenizer("", "</s>"), _tokenizer("<s>", "</s>")
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=3,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=40,
        pooled_projection_dim=24,
        guidance_embeds=guidance,
        axes_dims_rope=(8, 12, 12),
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_words),
            d_model=40,
            d_kv=10,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_words),
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,  # ComfyUI knows a CLIP by its second layer
            num_attention_heads=2,
            projection_dim=24,
            bos_token_id=clip_words.bos_token_id,
            eos_token_id=clip_words.eos_token_id,
            pad_token_id=clip_words.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
        layers_per_block=0,
        latent_channels=16,
        norm_num_groups=32,  # ComfyUI always takes 32
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    for network in (transformer, t5, clip):
        _shake(network)
    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(),
        vae.eval(),
        clip.eval(),
        clip_words,
        t5.eval(),
        t5_words,
        transformer.eval(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


TINY: dict[str, Callable[[], DiffusionPipeline]] = {"Flux.1": tiny_flux}
"""One toy pipeline for each family: the laws are tested on all of them."""


def _tokenizer(start: str, end: str) -> PreTrainedTokenizerFast:
    """One token for each word; `<pad>` is 0 and the end 1, as in T5."""
    special = [token for token in ("<pad>", end, "<unk>", start) if token]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single=f"{start} $A {end}".strip(),
        special_tokens=[(token, vocabulary[token]) for token in special],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=start or None,
        eos_token=end,
        model_max_length=LENGTH,
    )


def _shake(network: torch.nn.Module) -> None:
    """Weights large enough that a mistake shows: fresh ones leave gates and biases near zero."""
    with torch.no_grad():
        for weight in network.parameters():
            spread = 0.5 * weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2
            weight.add_(torch.randn_like(weight) * spread)
