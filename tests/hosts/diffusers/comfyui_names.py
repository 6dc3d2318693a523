"""Weights of diffusers under the names that ComfyUI has for them."""

import re

import torch
from torch import Tensor

Weights = dict[str, Tensor]

BLOCKS = {
    "transformer_blocks": (
        "double_blocks",
        {
            "attn.to_q": "img_attn.qkv",
            "attn.to_k": "img_attn.qkv",
            "attn.to_v": "img_attn.qkv",
            "attn.add_q_proj": "txt_attn.qkv",
            "attn.add_k_proj": "txt_attn.qkv",
            "attn.add_v_proj": "txt_attn.qkv",
            "attn.norm_q": "img_attn.norm.query_norm",
            "attn.norm_k": "img_attn.norm.key_norm",
            "attn.norm_added_q": "txt_attn.norm.query_norm",
            "attn.norm_added_k": "txt_attn.norm.key_norm",
            "attn.to_out.0": "img_attn.proj",
            "attn.to_add_out": "txt_attn.proj",
            "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin",
            "ff.net.0.proj": "img_mlp.0",
            "ff.linear_in": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff.linear_out": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.linear_in": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
            "ff_context.linear_out": "txt_mlp.2",
        },
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {
            "attn.to_q": "linear1",
            "attn.to_k": "linear1",
            "attn.to_v": "linear1",
            "proj_mlp": "linear1",
            "attn.to_qkv_mlp_proj": "linear1",
            "attn.norm_q": "norm.query_norm",
            "attn.norm_k": "norm.key_norm",
            "norm.linear": "modulation.lin",
            "attn.to_out": "linear2",
            "proj_out": "linear2",
        },
    ),
    "context_embedder.token_refiner.refiner_blocks": (
        "txt_in.individual_token_refiner.blocks",
        {
            "norm1": "norm1",
            "norm2": "norm2",
            "attn.to_q": "self_attn.qkv",
            "attn.to_k": "self_attn.qkv",
            "attn.to_v": "self_attn.qkv",
            "attn.to_out.0": "self_attn.proj",
            "ff.net.0.proj": "mlp.0",
            "ff.net.2": "mlp.2",
            "norm_out.linear": "adaLN_modulation.1",
        },
    ),
}
"""Layers of Flux.2 and HunyuanVideo in diffusers and what they are called, or are a part of, in
ComfyUI."""


def as_flux(weights: Weights) -> Weights:
    """Weights under the names of ComfyUI: those of blocks, the last layer, and what embeds."""
    parts: dict[str, list[Tensor]] = {}
    rest = dict(weights)
    for theirs, (ours, layers) in BLOCKS.items():
        for layer, whole in layers.items():
            pattern = re.compile(rf"{theirs}\.(\d+)\.{re.escape(layer)}\.(\w+)")
            for name in weights:
                if found := pattern.fullmatch(name):
                    parts.setdefault(f"{ours}.{found[1]}.{whole}.{found[2]}", []).append(
                        rest.pop(name)
                    )
    for name in [name for name in rest if name.startswith("norm_out.linear.")]:
        scale, shift = rest.pop(name).chunk(2)
        parts[name.replace("norm_out.linear.", "final_layer.adaLN_modulation.1.")] = [shift, scale]
    joined = {name: torch.cat(part) for name, part in parts.items()}
    last = {
        "proj_out.": "final_layer.linear.",
        ".linear_1.": ".in_layer.",
        ".linear_2.": ".out_layer.",
    }
    # older versions call a norm's weight its scale, and newer ones understand that
    return {**rename(joined, {"_norm.weight": "_norm.scale"}), **rename(rest, last)}


def rename(weights: Weights, names: dict[str, str]) -> Weights:
    """Weights with parts of their names changed, one after another."""
    for theirs, ours in names.items():
        weights = {name.replace(theirs, ours): weight for name, weight in weights.items()}
    return weights
