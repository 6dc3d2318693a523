"""The ComfyUI half of test_parity.py: samples a diffusers folder and saves what was heard.

Runs in ComfyUI's own Python: comfyui_side.py COMFYUI ROOT FOLDER
"""
# ruff: noqa: E402, I001

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

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

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from conceptattention_core.attention import Method
from conceptattention_core.concepts import parse
from conceptattention_core.hosts.comfyui.demo import load_autoencoder, load_demo_model
from conceptattention_core.hosts.comfyui.locate import locate
from conceptattention_core.hosts.comfyui.patch import record
from conceptattention_core.hosts.comfyui.store import STORE
from conceptattention_core.locating import LocateSpec
from conceptattention_core.recording import RecordSpec
from safetensors.torch import load_file, save_file


class Readings:
    """A text encoder that knows what diffusers' own made of the texts that it was asked."""

    START, END = (49406, 1.0), (49407, 1.0)

    def tokenize(self, text: str) -> dict:
        own = [(3, 1.0)] * len(text.split())
        return {"g": [[self.START, *own, self.END]], "text": text}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict:
        number = asked["texts"].index(tokens["text"])
        return {
            {"rows": "cond", "pooled": "pooled_output"}[name]: given[f"{name} {number}"]
            for name in ("rows", "pooled")
            if f"{name} {number}" in given
        }

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict | None = None) -> list:
        read = self.encode_from_tokens(tokens)
        return [[read.pop("cond"), {**read, **(add_dict or {})}]]


def load() -> tuple:
    if asked["family"] == "Flux.1":
        return load_demo_model(folder)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    model = comfy.sd.load_diffusion_model(str(weights), model_options={"dtype": torch.float32})
    return model, Readings(), load_autoencoder(folder)


asked = json.loads((folder / "asked.json").read_text("utf-8"))
given = load_file(folder / "given.safetensors")
heard = {}
with torch.inference_mode():
    model, clip, vae = load()
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
