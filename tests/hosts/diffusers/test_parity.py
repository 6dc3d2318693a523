"""ComfyUI and diffusers hear the same on the same weights.

Flux.1 brings its text encoders along; in the other families ComfyUI is given the rows that
diffusers' encoders read, because it knows these encoders at their published sizes only.
"""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.recording import RecordSpec
from diffusers import DiffusionPipeline, FluxPipeline
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

import run

from .tiny import LENGTH, TINY

SCRIPT = Path(__file__).with_name("comfyui_side.py")
COMFYUIS = run.find_comfyuis() or [None]
ASKED = {
    "prompt": "a red balloon over the sea",
    "negative_prompt": "a cat",
    "concepts": "red balloon, sky, sea: the green sea",
    "guidance": 3.0,
    "methods": [
        *((attend, "output", "all") for attend in ATTEND),
        *(("concepts and image", space, "first") for space in SPACES),
    ],
    "how": {"noise": [0.4, 0.7], "samples": 2, "seed": 5},
}


@pytest.fixture(params=COMFYUIS, ids=lambda path: path.name if path else "none")
def comfyui(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A ComfyUI and the Python that runs it."""
    if request.param is None:
        pytest.skip("no ComfyUI here; COMFYUI_PATH names one")
    for python in run.comfyui_pythons(request.param):
        if subprocess.run([python, "-c", run.PROBE], capture_output=True).returncode == 0:
            return request.param, python
    pytest.skip(f"no Python with the requirements of {request.param}; COMFYUI_PYTHON names one")


@dataclass(frozen=True)
class Case:
    """How a family is asked for the same in diffusers and in ComfyUI."""

    guidance: str
    """What a pipeline calls guidance against a negative prompt."""
    pack: Callable[[Tensor], Tensor]
    """Latents `b c h w` as the pipeline takes and returns them."""
    unpack: Callable[[Tensor], Tensor]
    texts: Callable[[DiffusionPipeline, str], dict[str, Tensor]] | None = None
    """What diffusers' text encoders make of a text; None where ComfyUI has its own."""


def pack(latent: Tensor) -> Tensor:
    return rearrange(latent, "b c (y i) (x j) -> b (y x) (c i j)", i=2, j=2).contiguous()


def unpack(patches: Tensor) -> Tensor:
    """The latent of packed patches on a grid of 3 by 5."""
    pattern = "b (y x) (c i j) -> b c (y i) (x j)"
    return rearrange(patches, pattern, y=3, x=5, i=2, j=2).contiguous()


def read_sd3(pipe: DiffusionPipeline, text: str) -> dict[str, Tensor]:
    rows, _, pooled, _ = pipe.encode_prompt(
        text, text, text, do_classifier_free_guidance=False, max_sequence_length=LENGTH
    )
    return {"rows": rows, "pooled": pooled}


CASES = {
    "Flux.1": Case("true_cfg_scale", pack, unpack),
    "SD3": Case("guidance_scale", Tensor.contiguous, Tensor.contiguous, read_sd3),
}


@pytest.mark.parametrize("family", CASES)
def test_both_hosts_hear_the_same(comfyui, tmp_path, family):
    path, python = comfyui
    case, pipe = CASES[family], TINY[family].make()
    pipe.save_pretrained(tmp_path)
    if case.texts is None:
        save_clip(pipe, tmp_path / "text_encoder" / "model.safetensors")
    noise = torch.randn(2, 16, 6, 10, generator=torch.Generator().manual_seed(0))
    scores, latent = [], None
    for attend, space, tokens in ASKED["methods"]:
        spec = RecordSpec(parse(ASKED["concepts"]), tokens, Method(attend, space))
        with record(pipe, spec) as listener:
            latent = pipe(
                ASKED["prompt"],
                negative_prompt=ASKED["negative_prompt"],
                height=48,
                width=80,
                num_inference_steps=3,
                num_images_per_prompt=2,
                latents=case.pack(noise),
                max_sequence_length=LENGTH,
                output_type="latent",
                **{case.guidance: ASKED["guidance"]},
            ).images
        scores.append(listener.recording().scores)

    # a size that has to be changed to fit the patches
    pictures = torch.rand(2, 3, 50, 75, generator=torch.Generator().manual_seed(1))
    how = LocateSpec(ASKED["prompt"], **{**ASKED["how"], "noise": tuple(ASKED["how"]["noise"])})
    located = locate(pipe, pictures, RecordSpec(parse(ASKED["concepts"])), how)

    asked = {**ASKED, "family": family}
    given = {
        "noise": noise,
        "sigmas": pipe.scheduler.sigmas,
        "pictures": rearrange(pictures, "b rgb h w -> b h w rgb").contiguous(),
    }
    if case.texts is not None:
        words = [concept.words for concept in parse(ASKED["concepts"]).concepts]
        asked["texts"] = [ASKED["prompt"], ASKED["negative_prompt"], *words]
        with torch.no_grad():
            for i, text in enumerate(asked["texts"]):
                for name, value in case.texts(pipe, text).items():
                    given[f"{name} {i}"] = value
    (tmp_path / "asked.json").write_text(json.dumps(asked), "utf-8")
    save_file(given, tmp_path / "given.safetensors")
    command = [python, SCRIPT, path, Path(run.__file__).parent, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    heard = load_file(tmp_path / "heard.safetensors")
    vae = pipe.vae.config  # ComfyUI hands out latents as the VAE takes them
    expected = case.unpack(latent) / vae.scaling_factor + vae.shift_factor
    torch.testing.assert_close(heard["latent"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(heard["located"], located.scores, atol=1e-4, rtol=1e-4)
    for i, ours in enumerate(scores):
        torch.testing.assert_close(heard[f"scores {i}"], ours, atol=1e-4, rtol=1e-4)


def save_clip(pipe: FluxPipeline, file: Path) -> None:
    """Under the names of published CLIP weights: transformers 5 leaves the prefix away."""
    weights = pipe.text_encoder.state_dict().items()
    save_file({f"text_model.{name.removeprefix('text_model.')}": w for name, w in weights}, file)
