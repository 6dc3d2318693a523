"""The ComfyUI half of test_parity.py: samples a diffusers folder and saves what was recorded.

Runs in ComfyUI's own Python: comfyui_side.py COMFYUI ROOT FOLDER
"""
# ruff: noqa: E402, I001

import dataclasses
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

comfyui, root, folder = (Path(argument) for argument in sys.argv[1:])
sys.argv[1:] = []
sys.path.insert(0, str(comfyui))
# Last, so that our nodes/ does not hide ComfyUI's nodes.py.
sys.path.append(str(root))

spec = importlib.util.spec_from_file_location("server", root / "tests" / "comfyui" / "server.py")
server = importlib.util.module_from_spec(spec)
sys.modules["server"] = server
spec.loader.exec_module(server)
if stand_in := server.make_torchaudio_stand_in(Path(tempfile.mkdtemp())):
    sys.path.append(str(stand_in))
del sys.modules["server"]

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams
from comfyui_names import Weights, as_flux, rename
from conceptattention_core.attention import Method
from conceptattention_core.concepts import parse
from conceptattention_core.hosts.comfyui.demo import (
    load_autoencoder,
    load_demo_model,
    read_part,
)
from conceptattention_core.hosts.comfyui.locate import locate
from conceptattention_core.hosts.comfyui.patch import record
from conceptattention_core.hosts.comfyui.store import STORE
from conceptattention_core.locating import LocateSpec
from conceptattention_core.recording import RecordSpec
from einops import rearrange, repeat
from safetensors.torch import load_file, save_file
from torch import Tensor


class Readings:
    """A text encoder that knows what diffusers' own made of the texts that it was asked."""

    def __init__(self, encoder: str, behind: str | None = None):
        self.encoder = encoder
        self.behind = behind  # one whose rows come after those of `encoder`
        self.tokens = [given[f"tokens {i}"].tolist() for i in range(len(asked["texts"]))]

    def tokenize(self, text: str) -> dict:
        # templates are read off texts that are no words; a toy tokenizer knows few words itself
        i = asked["texts"].index(text if text in asked["texts"] else "")
        ids = self.tokens[i]
        tokens = {self.encoder: [[(number, 1.0) for number in ids]]}
        if self.behind is not None:
            rest = given[f"rows {i}"].shape[1] - len(ids)
            tokens[self.behind] = [[(0, 1.0)] * rest]
        return tokens

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict:
        asked_for = [[number for number, _ in ids] for ids in tokens[self.encoder]]
        numbers = [self.tokens.index(ids) for ids in asked_for]
        read = {"cond": torch.cat([given[f"rows {i}"] for i in numbers], dim=1)}
        if f"pooled {numbers[0]}" in given:
            read["pooled_output"] = given[f"pooled {numbers[0]}"]
        return read

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict | None = None) -> list:
        read = self.encode_from_tokens(tokens)
        return [[read.pop("cond"), {**read, **(add_dict or {})}]]


class Encodings:
    """An autoencoder that knows what diffusers' own made of the pictures that it was asked."""

    def encode(self, pictures: Tensor) -> Tensor:
        torch.testing.assert_close(pictures, given["resized"])
        return given["encoded"]


def build(kind: str, params: dict[str, Any], weights: Weights) -> comfy.model_patcher.ModelPatcher:
    """A model of ComfyUI's class `kind` in supported_models, of any size."""
    settings = getattr(comfy.supported_models, kind)(params)
    settings.set_inference_dtype(torch.float32, None)
    model = settings.get_model({}, "")
    model.load_model_weights(weights, "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def load_sd3() -> tuple:
    (weights,) = (folder / "transformer").glob("*.safetensors")
    model = comfy.sd.load_diffusion_model(str(weights), model_options={"dtype": torch.float32})
    return model, Readings("g", behind="t5xxl"), load_autoencoder(folder)


def load_qwen_image() -> tuple:
    config, weights = read_part(folder, "transformer")
    params = {
        "image_model": "qwen_image",
        **{
            name: config[name]
            for name in (
                "patch_size",
                "in_channels",
                "out_channels",
                "num_layers",
                "attention_head_dim",
                "num_attention_heads",
                "joint_attention_dim",
                "axes_dims_rope",
            )
        },
    }
    model = build("QwenImage", params, weights)
    model.set_model_sampler_cfg_function(guide_as_long)
    return model, Readings("qwen25_7b"), Encodings()


def guide_as_long(args: dict[str, Any]) -> Tensor:
    """Guidance as Qwen-Image's pipeline has it: patches keep the length the prompt gives them."""
    positive, negative = args["cond"], args["uncond"]
    guided = negative + args["cond_scale"] * (positive - negative)
    was, now = (
        rearrange(x, "b c one (y i) (x j) -> b one y x (c i j)", i=2, j=2).norm(dim=-1)
        for x in (positive, guided)
    )
    return guided * repeat(was / now, "b one y x -> b 1 one (y i) (x j)", i=2, j=2)


def load_flux2() -> tuple:
    config, weights = read_part(folder, "transformer")
    params = {
        "image_model": "flux2",
        "in_channels": config["in_channels"],
        "out_channels": config["in_channels"],
        "patch_size": 1,
        "vec_in_dim": None,
        "context_in_dim": config["joint_attention_dim"],
        "hidden_size": config["num_attention_heads"] * config["attention_head_dim"],
        "mlp_ratio": config["mlp_ratio"],
        "num_heads": config["num_attention_heads"],
        "depth": config["num_layers"],
        "depth_single_blocks": config["num_single_layers"],
        "axes_dim": config["axes_dims_rope"],
        "theta": config["rope_theta"],
        "qkv_bias": False,
        "guidance_embed": config["guidance_embeds"],
        "txt_ids_dims": [3],
        "global_modulation": True,
        "mlp_silu_act": True,
        "ops_bias": False,
    }
    weights = rename(
        as_flux(weights),
        {
            "time_guidance_embed.timestep_embedder.": "time_in.",
            "x_embedder.": "img_in.",
            "context_embedder.": "txt_in.",
            "modulation.linear.": "modulation.lin.",
            "modulation_img.linear.": "modulation_img.lin.",
            "modulation_txt.linear.": "modulation_txt.lin.",
        },
    )
    return build("Flux2", params, weights), Readings("qwen3_4b"), load_flux2_autoencoder()


def load_flux2_autoencoder() -> comfy.sd.VAE:
    config, weights = read_part(folder, "vae")
    (width,) = set(config["block_out_channels"])
    sizes = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config["sample_size"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": [1] * len(config["block_out_channels"]),
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
        "batch_norm_latent": True,
    }
    params = {"ddconfig": sizes, "embed_dim": config["latent_channels"]}
    vae = comfy.sd.VAE(sd=weights, config={"params": params}, dtype=torch.float32)
    vae.latent_channels, vae.downscale_ratio = 4 * config["latent_channels"], 16
    return vae


def load_hunyuan_video() -> tuple:
    config, weights = read_part(folder, "transformer")
    patch = config["patch_size"]
    params = {
        "image_model": "hunyuan_video",
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "patch_size": [config["patch_size_t"], patch, patch],
        "vec_in_dim": config["pooled_projection_dim"],
        "context_in_dim": config["text_embed_dim"],
        "hidden_size": config["num_attention_heads"] * config["attention_head_dim"],
        "mlp_ratio": config["mlp_ratio"],
        "num_heads": config["num_attention_heads"],
        "depth": config["num_layers"],
        "depth_single_blocks": config["num_single_layers"],
        "axes_dim": config["rope_axes_dim"],
        "theta": config["rope_theta"],
        "qkv_bias": True,
        "guidance_embed": config["guidance_embeds"],
        "byt5": False,
        "meanflow": False,
        "use_cond_type_embedding": False,
        "vision_in_dim": None,
        "meanflow_sum": False,
    }
    fields = {field.name for field in dataclasses.fields(HunyuanVideoParams)} | {"image_model"}
    params = {name: value for name, value in params.items() if name in fields}
    weights = rename(
        as_flux(weights),
        {
            "context_embedder.time_text_embed.timestep_embedder.": "txt_in.t_embedder.",
            "context_embedder.time_text_embed.text_embedder.": "txt_in.c_embedder.",
            "context_embedder.proj_in.": "txt_in.input_embedder.",
            "time_text_embed.timestep_embedder.": "time_in.",
            "time_text_embed.text_embedder.": "vector_in.",
            "time_text_embed.guidance_embedder.": "guidance_in.",
            "x_embedder.": "img_in.",
        },
    )
    return build("HunyuanVideo", params, weights), Readings("llama"), Encodings()


def load_cogvideox() -> tuple:
    config, weights = read_part(folder, "transformer")
    names = (
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "time_embed_dim",
        "text_embed_dim",
        "num_layers",
        "patch_size",
        "use_rotary_positional_embeddings",
        "sample_width",
        "sample_height",
        "sample_frames",
        "max_text_seq_length",
    )
    params = {
        "image_model": "cogvideox",
        # diffusers stretches rotary positions to the size the model was trained for, as this one is
        "spatial_interpolation_scale": 1.0,
        **{name: config[name] for name in names},
    }
    weights = rename(
        weights,
        {
            "transformer_blocks.": "blocks.",
            ".attn1.to_out.0.": ".attn_out.",
            ".attn1.to_": ".",
            ".attn1.": ".",
            ".ff.net.0.proj.": ".ff_proj.",
            ".ff.net.2.": ".ff_out.",
            "time_embedding.": "time_embedding_",
        },
    )
    return build("CogVideoX_T2V", params, weights), Readings("t5xxl"), Encodings()


LOAD = {
    "Flux.1": lambda: load_demo_model(folder),
    "SD3": load_sd3,
    "Qwen-Image": load_qwen_image,
    "Flux.2": load_flux2,
    "HunyuanVideo": load_hunyuan_video,
    "CogVideoX": load_cogvideox,
}
"""The model, the text encoder and the autoencoder of each family."""


def sampler() -> comfy.samplers.Sampler:
    """Of the steps that the pipeline takes."""
    if asked["family"] != "CogVideoX":
        return comfy.samplers.sampler_object("euler")
    from comfy_extras.nodes_void import VOID_DDIM

    return VOID_DDIM()


asked = json.loads((folder / "asked.json").read_text("utf-8"))
given = load_file(folder / "given.safetensors")
scores = {}
with torch.inference_mode():
    model, clip, vae = LOAD[asked["family"]]()
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(asked[prompt]))
        for prompt in ("prompt", "negative_prompt")
    )
    for i, (attend, space, tokens) in enumerate(asked["methods"]):
        method = Method(attend, space)
        recorded = record(model, clip, RecordSpec(parse(asked["concepts"]), tokens, method))
        latent = comfy.sample.sample_custom(
            recorded,
            given["noise"],
            asked["guidance"],
            sampler(),
            given["sigmas"],
            positive,
            negative,
            torch.zeros_like(given["noise"]),
            disable_pbar=True,
        )
        scores[f"scores {i}"] = STORE.find(
            latent, recorded.get_attachment("conceptattention")
        ).scores
    if "pictures" in given:
        how = LocateSpec(asked["prompt"], **asked["how"])
        scores["located"] = locate(
            model, clip, vae, given["pictures"], RecordSpec(parse(asked["concepts"])), how
        ).scores
scores["latent"] = latent
save_file(
    {name: value.contiguous() for name, value in scores.items()}, folder / "recorded.safetensors"
)
