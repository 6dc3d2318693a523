"""Load the demo model (a tiny Flux in diffusers' folder format) through ComfyUI's own classes.

ComfyUI's loaders know Flux only at its published sizes, so the pieces they would choose are put
together here from the sizes that the folder's configuration files name. Everything is fp32.
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import comfy.ldm.flux.model
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import comfy.text_encoders.t5
import comfy.utils
import torch
from transformers import PreTrainedTokenizerFast

from ... import ConceptAttentionError

Weights = dict[str, torch.Tensor]


def load_demo_model(
    folder: Path,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """The diffusion model, the text encoders and the autoencoder of a demo folder."""
    missing = [
        f"{part}/config.json"
        for part in ("transformer", "text_encoder", "text_encoder_2", "vae")
        if not (folder / part / "config.json").is_file()
    ]
    if missing:
        raise ConceptAttentionError(
            f"{folder} holds no demo model: {', '.join(missing)} not found; expected a diffusers "
            "Flux folder as written by `python -m demo.train`"
        )
    return load_diffusion_model(folder), load_text_encoders(folder), load_autoencoder(folder)


def read_part(folder: Path, part: str) -> tuple[dict[str, Any], Weights]:
    """The configuration and the weights, in fp32, of one part of a diffusers folder."""
    config = json.loads((folder / part / "config.json").read_text())
    files = sorted((folder / part).glob("*.safetensors"))
    if len(files) != 1:
        raise ConceptAttentionError(
            f"{folder / part} holds {len(files)} safetensors files; expected exactly one"
        )
    weights = comfy.utils.load_torch_file(str(files[0]), safe_load=True)
    return config, {name: value.float() for name, value in weights.items()}


def load_diffusion_model(folder: Path) -> comfy.model_patcher.ModelPatcher:
    config, weights = read_part(folder, "transformer")
    heads, channels = config["num_attention_heads"], config["in_channels"] // 4
    params = {
        "in_channels": channels,
        "out_channels": channels,
        "vec_in_dim": config["pooled_projection_dim"],
        "context_in_dim": config["joint_attention_dim"],
        "hidden_size": heads * config["attention_head_dim"],
        "mlp_ratio": 4.0,
        "num_heads": heads,
        "depth": config["num_layers"],
        "depth_single_blocks": config["num_single_layers"],
        "axes_dim": list(config["axes_dims_rope"]),
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": False,
        "txt_ids_dims": [],  # newer ComfyUIs only; Flux.1 gives text no positions
    }
    known = {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}
    chosen = {name: value for name, value in params.items() if name in known}
    settings = comfy.supported_models.FluxSchnell({"image_model": "flux", **chosen})
    settings.set_inference_dtype(torch.float32, None)
    model = settings.get_model({}, "")
    # The prefix is the one under which load_model_weights expects a diffusion model's weights.
    prefix = "model.diffusion_model."
    model.load_model_weights(comfy.model_detection.convert_diffusers_mmdit(weights, prefix), prefix)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


class DemoTokenizer(comfy.text_encoders.flux.FluxTokenizer):
    """Flux's pair of tokenizers over the demo's own vocabulary; both pad to the same length."""

    def __init__(self, folder: Path, embedding_directory=None, tokenizer_data=None):
        length = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())[
            "model_max_length"
        ]
        self.clip_l = comfy.sd1_clip.SDTokenizer(
            str(folder / "tokenizer"),
            max_length=length,
            embedding_key="clip_l",
            tokenizer_class=PreTrainedTokenizerFast,
            tokenizer_data=tokenizer_data or {},
        )
        self.t5xxl = comfy.sd1_clip.SDTokenizer(
            str(folder / "tokenizer_2"),
            max_length=99999999,  # as ComfyUI's Flux: long prompts grow instead of being split
            min_length=length,
            pad_to_max_length=False,
            pad_with_end=False,
            has_start_token=False,
            embedding_key="t5xxl",
            tokenizer_class=PreTrainedTokenizerFast,
            tokenizer_data=tokenizer_data or {},
        )


class DemoTextEncoders(comfy.text_encoders.flux.FluxClipModel):
    """Flux's pair of text encoders, CLIP for the vector and T5 for the sequence, at any size."""

    def __init__(self, clip_config, t5_config, device="cpu", dtype=None, model_options=None):
        torch.nn.Module.__init__(self)  # FluxClipModel's own would build the full-size encoders
        options = model_options or {}
        end = clip_config["eos_token_id"]
        self.clip_l = comfy.sd1_clip.SDClipModel(
            device=device,
            dtype=dtype,
            textmodel_json_config=clip_config,
            special_tokens={"start": clip_config["bos_token_id"], "end": end, "pad": end},
            return_projected_pooled=False,
            model_options=options,
        )
        # ComfyUI's CLIP has the published vocabulary's size whatever the configuration says.
        words = comfy.ops.manual_cast.Embedding(
            clip_config["vocab_size"], clip_config["hidden_size"], device=device, dtype=dtype
        )
        self.clip_l.transformer.set_input_embeddings(words.requires_grad_(False))
        self.t5xxl = comfy.sd1_clip.SDClipModel(
            device=device,
            dtype=dtype,
            textmodel_json_config={
                **t5_config,
                "dense_act_fn": "gelu_pytorch_tanh",  # ComfyUI's name of T5's "gelu_new"
                "model_type": "t5",
            },
            special_tokens={
                "end": t5_config["eos_token_id"],
                "pad": t5_config["pad_token_id"],
            },
            model_class=comfy.text_encoders.t5.T5,
            model_options={**options, "model_name": "t5xxl"},
        )
        self.dtypes = {dtype}


def load_text_encoders(folder: Path) -> comfy.sd.CLIP:
    clip_config, clip_weights = read_part(folder, "text_encoder")
    t5_config, t5_weights = read_part(folder, "text_encoder_2")
    width = clip_config["hidden_size"]
    # Flux uses the vector before this projection, but ComfyUI always computes it.
    clip_weights["text_projection.weight"] = torch.eye(width)
    target = comfy.supported_models_base.ClipTarget(
        partial(DemoTokenizer, folder), partial(DemoTextEncoders, clip_config, t5_config)
    )
    weights = (clip_weights, t5_weights)
    count = sum(value.numel() for part in weights for value in part.values())
    encoders = comfy.sd.CLIP(target, parameters=count, model_options={"dtype": torch.float32})
    for part in weights:
        encoders.load_sd(part)
    return encoders


def load_autoencoder(folder: Path) -> comfy.sd.VAE:
    config, weights = read_part(folder, "vae")
    first, channels = config["block_out_channels"][0], config["latent_channels"]
    sizes = {
        "double_z": True,
        "z_channels": channels,
        "resolution": config["sample_size"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": first,
        "ch_mult": [width // first for width in config["block_out_channels"]],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    # The class that accepts a configuration has two 1 x 1 convolutions that Flux lacks: identities.
    for name, width in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        weights[f"{name}.weight"] = torch.eye(width)[:, :, None, None]
        weights[f"{name}.bias"] = torch.zeros(width)
    params = {"ddconfig": sizes, "embed_dim": channels}
    vae = comfy.sd.VAE(sd=weights, config={"params": params}, dtype=torch.float32)
    vae.latent_channels = channels
    return vae
