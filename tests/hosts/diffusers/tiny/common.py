"""What toy pipelines have in common: words, text encoders, and weights that show mistakes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from conceptattention.conceptattention_core.recording import FrameLayout
from diffusers import AutoencoderKL, DiffusionPipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, PreTrainedTokenizerFast, T5Config, T5EncoderModel

LENGTH = 77  # tokens all tokenizers read; ComfyUI's CLIP knows no other number
WORDS = ("a", "the", "over", "balloon", "sea", "sky", "cat", "moon", "cloud", "red", "green")
TEMPLATE_WORDS = ("system", "user", ":", "end", "<|", "eot_id", "|>")
"""Words of the templates around a text: where all were unknown alike, they would look like padding.
"""


@dataclass(frozen=True)
class Tiny:
    """A toy pipeline of a family with three joint blocks, and how it is called."""

    make: Callable[[], DiffusionPipeline]
    noise: tuple[int, ...]
    """The latent of an image of 48 by 80 pixels, as the pipeline takes it, without the batch."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """What a short run is called with besides the prompt and the size; it has no guidance."""
    guided: Mapping[str, Any] = field(
        default_factory=lambda: {"negative_prompt": "a cat", "true_cfg_scale": 3.0}
    )
    """What asks for guidance against a negative prompt."""
    copies: str | None = "num_images_per_prompt"
    """The argument that asks for several images of one prompt."""
    time: FrameLayout = FrameLayout()  # noqa: RUF009 - frozen
    image_first: bool = False
    """Whether a block hands out the image before the text."""
    start: int = 0
    """Where its own tokens start among the rows of a prompt."""
    has_places: bool = False
    """Whether concepts stand at the places of their tokens in the text."""
    fuses: bool = True
    """Whether diffusers can fuse its projections."""
    heun: bool = True
    """Whether flow schedulers of second order fit the pipeline."""

    def bare(self, call: dict[str, Any]) -> dict[str, Any]:
        """What the transformer is called with, its text without padding that is masked."""
        mask = call.get("encoder_attention_mask")
        if mask is None:
            return dict(call)
        shown = int(mask[0].sum())
        names = ("encoder_hidden_states", "encoder_attention_mask")
        return {**call, **{name: call[name][:, :shown] for name in names}}


def tokenizer(start: str, end: str, *, closed: bool = True) -> PreTrainedTokenizerFast:
    """One token for each word; `<pad>` is 0 and the end 1, as in T5.

    Unless `closed`, texts come without start and end, as for language models.
    """
    special = [token for token in ("<pad>", end, "<unk>", start) if token]
    known = WORDS if closed else WORDS + TEMPLATE_WORDS
    vocabulary = {token: i for i, token in enumerate([*special, *known])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    if closed:
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


def t5(words: PreTrainedTokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(words),
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


def clip_config(words: PreTrainedTokenizerFast, width: int = 24) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,  # ComfyUI knows a CLIP by its second layer
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def autoencoder(scale: float, shift: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
        layers_per_block=0,
        latent_channels=16,
        norm_num_groups=32,  # ComfyUI always takes 32
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def shake(*networks: torch.nn.Module) -> None:
    """Weights large enough that a mistake shows: fresh ones leave gates and biases near zero."""
    with torch.no_grad():
        for network in networks:
            for weight in network.parameters():
                spread = 0.5 * weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2
                weight.add_(torch.randn_like(weight) * spread)


def ready(pipe: DiffusionPipeline) -> DiffusionPipeline:
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe
