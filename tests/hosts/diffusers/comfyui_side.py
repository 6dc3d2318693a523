"""The ComfyUI half of test_parity.py: samples a diffusers folder and saves what was heard.

Runs in ComfyUI's own Python: comfyui_side.py COMFYUI ROOT FOLDER
"""
# ruff: noqa: E402, I001

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

Weights = dict[str, Tensor]


class Readings:
    """A text encoder that knows what diffusers' own made of the texts that it was asked."""

    def __init__(self, encoder: str):
        self.encoder = encoder
        self.tokens = [given[f"tokens {i}"].tolist() for i in range(len(asked["texts"]))]

    def tokenize(self, text: str) -> dict:
        ids = self.tokens[asked["texts"].index(text)]
        return {self.encoder: [[(number, 1.0) for number in ids]]}

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
    return model, Readings("g"), load_autoencoder(folder)


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


LOAD = {
    "Flux.1": lambda: load_demo_model(folder),
    "SD3": load_sd3,
    "Qwen-Image": load_qwen_image,
}
"""The model, the text encoder and the autoencoder of each family."""

asked = json.loads((folder / "asked.json").read_text("utf-8"))
given = load_file(folder / "given.safetensors")
heard = {}
with torch.inference_mode():
    model, clip, vae = LOAD[asked["family"]]()
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(asked[prompt]))
        for prompt in ("prompt", "negative_prompt")
    )
    for i, (attend, space, tokens) in enumerate(asked["methods"]):
        method = Method(attend, space)
        listening = record(model, clip, RecordSpec(parse(asked["concepts"]), tokens, method))
        latent = comfy.sample.sample_custom(
            listening,
            given["noise"],
            asked["guidance"],
            comfy.samplers.sampler_object("euler"),
            given["sigmas"],
            positive,
            negative,
            torch.zeros_like(given["noise"]),
            disable_pbar=True,
        )
        heard[f"scores {i}"] = STORE.find(
            latent, listening.get_attachment("conceptattention")
        ).scores
    how = LocateSpec(asked["prompt"], **asked["how"])
    heard["located"] = locate(
        model, clip, vae, given["pictures"], RecordSpec(parse(asked["concepts"])), how
    ).scores
heard["latent"] = latent
save_file({name: value.contiguous() for name, value in heard.items()}, folder / "heard.safetensors")
