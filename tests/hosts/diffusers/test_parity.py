"""ComfyUI and diffusers hear the same on the same weights, text encoders included."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.recording import RecordSpec
from diffusers import FluxPipeline
from einops import rearrange
from safetensors.torch import load_file, save_file

import run

from .tiny import tiny_flux

SCRIPT = Path(__file__).with_name("comfyui_side.py")
COMFYUIS = run.find_comfyuis() or [None]
ASKED = {
    "prompt": "a red balloon over the sea",
    "negative_prompt": "a cat",
    "concepts": "red balloon, sky, sea: the green sea",
    "true_cfg_scale": 3.0,
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


def test_both_hosts_hear_the_same(comfyui, tmp_path):
    path, python = comfyui
    pipe = tiny_flux()
    pipe.save_pretrained(tmp_path)
    save_clip(pipe, tmp_path / "text_encoder" / "model.safetensors")
    patches = torch.randn(2, 3 * 5, 64, generator=torch.Generator().manual_seed(0))
    scores, latent = [], None
    for attend, space, tokens in ASKED["methods"]:
        spec = RecordSpec(parse(ASKED["concepts"]), tokens, Method(attend, space))
        with record(pipe, spec) as listener:
            latent = pipe(
                ASKED["prompt"],
                negative_prompt=ASKED["negative_prompt"],
                true_cfg_scale=ASKED["true_cfg_scale"],
                height=48,
                width=80,
                num_inference_steps=3,
                num_images_per_prompt=2,
                latents=patches,
                max_sequence_length=pipe.tokenizer_2.model_max_length,
                output_type="latent",
            ).images
        scores.append(listener.recording().scores)

    # a size that has to be changed to fit the patches
    pictures = torch.rand(2, 3, 50, 75, generator=torch.Generator().manual_seed(1))
    how = LocateSpec(ASKED["prompt"], **{**ASKED["how"], "noise": tuple(ASKED["how"]["noise"])})
    located = locate(pipe, pictures, RecordSpec(parse(ASKED["concepts"])), how)

    (tmp_path / "asked.json").write_text(json.dumps(ASKED), "utf-8")
    given = {
        "noise": unpack(patches),
        "sigmas": pipe.scheduler.sigmas,
        "pictures": rearrange(pictures, "b rgb h w -> b h w rgb").contiguous(),
    }
    save_file(given, tmp_path / "given.safetensors")
    command = [python, SCRIPT, path, Path(run.__file__).parent, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    heard = load_file(tmp_path / "heard.safetensors")
    vae = pipe.vae.config  # ComfyUI hands out latents as the VAE takes them
    expected = unpack(latent) / vae.scaling_factor + vae.shift_factor
    torch.testing.assert_close(heard["latent"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(heard["located"], located.scores, atol=1e-4, rtol=1e-4)
    for i, ours in enumerate(scores):
        torch.testing.assert_close(heard[f"scores {i}"], ours, atol=1e-4, rtol=1e-4)


def unpack(patches: torch.Tensor) -> torch.Tensor:
    """The latent of packed patches on a grid of 3 by 5."""
    pattern = "b (y x) (c h w) -> b c (y h) (x w)"
    return rearrange(patches, pattern, y=3, x=5, h=2, w=2).contiguous()


def save_clip(pipe: FluxPipeline, file: Path) -> None:
    """Under the names of published CLIP weights: transformers 5 leaves the prefix away."""
    weights = pipe.text_encoder.state_dict().items()
    save_file({f"text_model.{name.removeprefix('text_model.')}": w for name, w in weights}, file)
