"""The numbers of the demo model: sizes, schedules and presets, and the networks built from them.

Everything has exactly the layout of Flux.1 schnell (16 latent channels at 1/8 of the picture,
packed 2 x 2 into patches; a T5 sequence and a CLIP vector for the text); only the sizes are small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

LATENT_CHANNELS = 16
PIXELS_PER_PATCH = 16
# ComfyUI's Flux latent format and diffusers' Flux pipelines expect (z - shift) * scale to be unit.
SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159
# Less than the 1 of large models: in plainly coloured pictures neighbours say the same, so that
# noise hides little of them; words, which are read where the picture is hidden, would not matter.
LATENT_STD = 0.5
TEXT_LENGTH = 32  # every caption is padded to this many tokens; pads carry content, as in Flux


@dataclass(frozen=True)
class VaeSchedule:
    """How the autoencoder learns. Crops are 128 pixels wide."""

    pictures: int = 800  # drawn once at 128 and once at 256 pixels
    minutes: float = 12.0
    steps: int | None = None  # takes the place of minutes when given
    batch: int = 4
    learning_rate: float = 1.5e-3
    kl_weight: float = 1e-4
    decoder_share: float = 0.2  # the last part trains the decoder alone, on slightly noised latents
    latent_noise: float = 0.06
    sample_pixels: int = 128


@dataclass(frozen=True)
class FlowSchedule:
    """How the flow model learns at one picture size. Minutes end the cosine unless steps do."""

    pixels: int
    pictures: int
    minutes: float
    batch: int
    learning_rate: float
    noise_shift: float  # added to the logit of t: what a picture shows is decided early on
    close_ups: float = 0.5  # the share of scenes that are seen through a window around one thing
    flips: bool = True
    steps: int | None = None
    warm_up: int = 200
    ema_decay: float = 0.9985


@dataclass(frozen=True)
class Recipe:
    """One size of the demo model with its schedules."""

    hidden: int = 192
    heads: int = 6
    axes: tuple[int, int, int] = (8, 12, 12)
    double_blocks: int = 5
    single_blocks: int = 2
    t5_width: int = 96
    clip_width: int = 64
    vae_channels: int = 64  # at least 64: ComfyUI always normalises 32 groups
    vae: VaeSchedule = field(default_factory=VaeSchedule)
    flow: tuple[FlowSchedule, ...] = (
        FlowSchedule(128, 24000, 0.0, 32, 8e-4, noise_shift=1.0, steps=40000),
        FlowSchedule(256, 8500, 60.0, 12, 4e-4, noise_shift=1.3),
    )
    seed: int = 0


RECIPES = MappingProxyType(
    {
        # Half a day on two cores.
        "cpu": Recipe(),
        # The same layout with finer numbers for one large GPU.
        "gpu": Recipe(
            hidden=256,
            heads=8,
            double_blocks=6,
            single_blocks=3,
            vae=VaeSchedule(pictures=6000, steps=12000, batch=32),
            flow=(
                FlowSchedule(
                    128, 40000, 0.0, 256, 8e-4, 1.0, steps=12000, warm_up=500, ema_decay=0.999
                ),
                FlowSchedule(
                    256, 40000, 0.0, 256, 4e-4, 1.3, steps=8000, warm_up=200, ema_decay=0.999
                ),
            ),
        ),
    }
)


def build_vae(recipe: Recipe) -> AutoencoderKL:
    """A slim Flux autoencoder: no residual blocks in the encoder's levels, one in the decoder's."""
    levels = 4
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(recipe.vae_channels,) * levels,
        layers_per_block=0,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=32,
        sample_size=recipe.flow[-1].pixels,
        scaling_factor=SCALING_FACTOR,
        shift_factor=SHIFT_FACTOR,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def build_transformer(recipe: Recipe) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=recipe.double_blocks,
        num_single_layers=recipe.single_blocks,
        attention_head_dim=recipe.hidden // recipe.heads,
        num_attention_heads=recipe.heads,
        joint_attention_dim=recipe.t5_width,
        pooled_projection_dim=recipe.clip_width,
        guidance_embeds=False,
        axes_dims_rope=recipe.axes,
    )


def build_t5(recipe: Recipe, vocabulary: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=recipe.t5_width,
            d_kv=recipe.t5_width // 4,
            d_ff=2 * recipe.t5_width,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_clip(recipe: Recipe, vocabulary: int, bos: int, eos: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.clip_width,
            intermediate_size=2 * recipe.clip_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,  # ComfyUI adds all positions to every caption
            hidden_act="quick_gelu",
            projection_dim=recipe.clip_width,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )
