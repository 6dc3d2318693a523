"""ComfyUI and diffusers record the same on the same weights.

Both sample from the same noise at the same noise levels, guided against the same prompt; what is
recorded of every step and block, what is located, and the latents have to agree.

Flux.1 brings its text encoders along; in the other families ComfyUI is given the tokens and rows
that diffusers' encoders read, because it knows these encoders at their published sizes only. For
the same reason Qwen-Image's pictures come as diffusers' autoencoder encoded them; the other
families that locate in images bring theirs along.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.locating import LocateSpec, resize
from conceptattention.conceptattention_core.recording import RecordSpec
from diffusers import DiffusionPipeline, FluxPipeline
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import run

from .tiny import TINY, Tiny

SCRIPT = Path(__file__).with_name("comfyui_side.py")
COMFYUIS = run.find_comfyuis() or [None]
ASKED = {
    "prompt": "a red balloon over the sea",
    "concepts": "red balloon, sky, sea: the green sea",
    "guidance": 3.0,  # as in Tiny.guided
    "methods": [
        *((attend, "output", "all") for attend in ATTEND),
        *(("concepts and image", space, "first") for space in SPACES),
    ],
    "how": {"noise": [0.4, 0.7], "samples": 2, "seed": 5},
}


CONCEPTS = parse(ASKED["concepts"])
CLIP_END = 49407  # the number by which ComfyUI knows the end of a text


@pytest.fixture(params=COMFYUIS, ids=lambda path: path.name if path else "none")
def comfyui(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A ComfyUI and the Python that runs it."""
    if request.param is None:
        pytest.skip("no ComfyUI here; COMFYUI_PATH names one")
    for python in run.comfyui_pythons(request.param):
        if subprocess.run([python, "-c", run.PROBE], capture_output=True).returncode == 0:
            return request.param, python
    pytest.skip(f"no Python with the requirements of {request.param}; COMFYUI_PYTHON names one")


def version_of(comfyui: Path) -> tuple[int, ...]:
    """Major, minor, patch."""
    text = (comfyui / "comfyui_version.py").read_text("utf-8")
    return tuple(map(int, re.search(r'"(\d+)\.(\d+)\.(\d+)', text).groups()))


@dataclass(frozen=True)
class Case:
    """How a family is asked for the same in diffusers and in ComfyUI."""

    size: tuple[int, ...]
    """A latent as ComfyUI has it, c h w or c frame h w."""
    pack: Callable[[Tensor], Tensor]
    """Latents as the pipeline takes them."""
    unpack: Callable[[DiffusionPipeline, Tensor], Tensor]
    """Latents that the pipeline returns, as ComfyUI hands them out: as the autoencoder takes them.
    """
    texts: Callable[[DiffusionPipeline, str], dict[str, Tensor]] | None = None
    """What diffusers' text encoders make of a text; None where ComfyUI has its own."""
    encode: Callable[[DiffusionPipeline, Tensor], Tensor] | None = None
    """What diffusers' autoencoder makes of pictures; None where ComfyUI has its own."""
    sigmas: Callable[[DiffusionPipeline], Tensor] = lambda pipe: pipe.scheduler.sigmas
    """The noise level of each step and of the end, as ComfyUI counts it."""
    length: int | None = None
    """How many tokens a text has in ComfyUI, where it fills texts up."""
    scale: int = 8
    """Pixels along a side of a latent cell."""
    since: tuple[int, ...] = (0,)
    """The version of ComfyUI that brought the family."""


def length_of(pipe: DiffusionPipeline) -> int:
    """How many tokens a prompt is padded to: as many as a concept."""
    return family_of(pipe).text_length(pipe)


def pack(latent: Tensor) -> Tensor:
    return rearrange(latent, "b c (y i) (x j) -> b (y x) (c i j)", i=2, j=2).contiguous()


def unpack(patches: Tensor, y: int, x: int) -> Tensor:
    """The latent of packed patches on a grid."""
    pattern = "b (y x) (c i j) -> b c (y i) (x j)"
    return rearrange(patches, pattern, y=y, x=x, i=2, j=2).contiguous()


def unscale(pipe: DiffusionPipeline, latent: Tensor) -> Tensor:
    config = pipe.vae.config
    return latent / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)


@contextmanager
def inputs_of(encoder: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What a text encoder is called with."""
    inputs = {}

    def keep(encoder: nn.Module, args: tuple, kwargs: dict[str, Tensor]) -> None:
        inputs.update(kwargs)
        if args:
            inputs["input_ids"] = args[0]

    handle = encoder.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield inputs
    finally:
        handle.remove()


def read_sd3(pipe: DiffusionPipeline, text: str) -> dict[str, Tensor]:
    with inputs_of(pipe.text_encoder) as inputs:
        rows, _, pooled, _ = pipe.encode_prompt(
            text, text, text, do_classifier_free_guidance=False, max_sequence_length=length_of(pipe)
        )
    tokens = inputs["input_ids"][0]
    end = tokens == pipe.tokenizer.eos_token_id
    return {"rows": rows, "pooled": pooled, "tokens": tokens.where(~end, CLIP_END)}


def read_template(pipe: DiffusionPipeline, text: str) -> dict[str, Tensor]:
    with inputs_of(pipe.text_encoder) as inputs:
        rows, _ = pipe.encode_prompt(text, max_sequence_length=length_of(pipe))
    return {"rows": rows, "tokens": inputs["input_ids"][0]}


def read_hunyuan(pipe: DiffusionPipeline, text: str) -> dict[str, Tensor]:
    """Without the padding, which is masked in diffusers and not there in ComfyUI."""
    with inputs_of(pipe.text_encoder) as inputs:
        rows, pooled, mask = pipe.encode_prompt(text, max_sequence_length=length_of(pipe))
    tokens = inputs["input_ids"][inputs["attention_mask"].bool()]
    return {"rows": rows[:, mask[0].bool()], "pooled": pooled, "tokens": tokens}


def read_cogvideox(pipe: DiffusionPipeline, text: str) -> dict[str, Tensor]:
    with inputs_of(pipe.text_encoder) as inputs:
        rows, _ = pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=length_of(pipe)
        )
    return {"rows": rows, "tokens": inputs["input_ids"][0]}


def swap(latent: Tensor) -> Tensor:
    """Frames before channels, or the other way round."""
    return rearrange(latent, "b c frame h w -> b frame c h w").contiguous()


def sigmas_of_timesteps(pipe: DiffusionPipeline) -> Tensor:
    """Of what is kept of a picture at each of the scheduler's timesteps."""
    kept = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps]
    return torch.cat([((1 - kept) / kept) ** 0.5, torch.zeros(1)]).float()


def unpack_flux2(pipe: DiffusionPipeline, latent: Tensor) -> Tensor:
    """ComfyUI leaves packing and norm, which the pipeline has undone, to the autoencoder."""
    patches = rearrange(latent, "b c (y i) (x j) -> b (c i j) y x", i=2, j=2)
    norm = pipe.vae.bn
    return torch.nn.functional.batch_norm(
        patches, norm.running_mean, norm.running_var, eps=pipe.vae.config.batch_norm_eps
    )


def unpack_qwen(pipe: DiffusionPipeline, patches: Tensor) -> Tensor:
    mean, std = (
        rearrange(torch.tensor(figures), "c -> c 1 1 1")
        for figures in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    return rearrange(unpack(patches, 4, 6), "b c h w -> b c 1 h w") * std + mean


def encode_stills(pipe: DiffusionPipeline, pictures: Tensor) -> Tensor:
    """Each picture is a video of one."""
    return pipe.vae.encode(rearrange(pictures, "b c h w -> b c 1 h w") * 2 - 1).latent_dist.mode()


CASES = {
    "Flux.1": Case(
        (16, 6, 10),
        pack,
        lambda pipe, latent: unscale(pipe, unpack(latent, 3, 5)),
    ),
    "SD3": Case((16, 6, 10), Tensor.contiguous, unscale, read_sd3),
    # An even number of patches each way: the middle of an odd one is at place 0 in ComfyUI's model
    # and at -1 in diffusers'. A single text is not padded.
    "Qwen-Image": Case(
        (16, 1, 8, 12),
        lambda latent: pack(latent[:, :, 0]),
        unpack_qwen,
        read_template,
        encode_stills,
    ),
    # Klein, whose texts are padded, and whose padding is read, in both hosts. ComfyUI would fill
    # up shorter ones with zeros.
    "Flux.2": Case(
        (16, 3, 5),
        Tensor.contiguous,
        unpack_flux2,
        read_template,
        length=512,
        scale=16,
        since=(0, 3, 72),
    ),
    "HunyuanVideo": Case((4, 3, 6, 10), Tensor.contiguous, unscale, read_hunyuan, encode_stills),
    # The steps of DDIM, for which ComfyUI has a sampler: its others scale what the model is shown.
    # No step is at noise alone, where ComfyUI keeps a little of the picture and diffusers nothing.
    "CogVideoX": Case(
        (4, 3, 6, 10),
        swap,
        lambda pipe, latent: unscale(pipe, swap(latent)),
        read_cogvideox,
        encode_stills,
        sigmas=sigmas_of_timesteps,
        since=(0, 21),
    ),
}


@pytest.mark.parametrize("family", TINY)
def test_both_hosts_record_the_same(comfyui, tmp_path, family):
    path, python = comfyui
    case, tiny = CASES[family], TINY[family]
    if version_of(path) < case.since:
        came = ".".join(map(str, case.since))
        pytest.skip(f"ComfyUI has {family} since {came}; {path} is older")
    pipe = tiny.make()
    if case.length is not None:
        pipe.tokenizer.model_max_length = case.length
    pipe.save_pretrained(tmp_path)
    if case.texts is None:
        save_clip(pipe, tmp_path / "text_encoder" / "model.safetensors")

    noise = torch.randn(2, *case.size, generator=torch.Generator().manual_seed(0))
    latent, expected = sample(pipe, case, tiny, noise)
    given = {"noise": noise, "sigmas": case.sigmas(pipe)}
    against = tiny.guided.get("negative_prompt", "")  # Klein knows no other
    asked = {**ASKED, "family": family, "negative_prompt": against}
    with torch.no_grad():
        expected["located"] = locate_images(pipe, case, given)
        if case.texts is not None:
            words = [concept.words for concept in CONCEPTS.concepts]
            asked["texts"] = list(dict.fromkeys([ASKED["prompt"], against, "", *words]))
            for i, text in enumerate(asked["texts"]):
                for name, value in case.texts(pipe, text).items():
                    given[f"{name} {i}"] = value
    (tmp_path / "asked.json").write_text(json.dumps(asked), "utf-8")
    given = {name: value.contiguous() for name, value in given.items()}
    save_file(given, tmp_path / "given.safetensors")
    command = [python, SCRIPT, path, Path(run.__file__).parent, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    recorded = load_file(tmp_path / "recorded.safetensors")
    torch.testing.assert_close(recorded.pop("latent"), latent, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(recorded, expected, atol=1e-4, rtol=1e-4)


def sample(
    pipe: DiffusionPipeline, case: Case, tiny: Tiny, noise: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The latent that diffusers makes of noise, and what is recorded by each method."""
    guided = dict(tiny.guided)
    if "negative_prompt" in guided:
        guided["negative_prompt"] = [guided["negative_prompt"]] * 2
    latent, scores = noise, {}
    for i, (attend, space, tokens) in enumerate(ASKED["methods"]):
        with record(pipe, RecordSpec(CONCEPTS, tokens, Method(attend, space))) as session:
            latent = pipe(
                prompt=[ASKED["prompt"]] * 2,
                height=case.scale * case.size[-2],
                width=case.scale * case.size[-1],
                num_inference_steps=3,
                latents=case.pack(noise),
                max_sequence_length=length_of(pipe),
                output_type="latent",
                **{**tiny.call, **guided},
            )[0]
        scores[f"scores {i}"] = session.recording().scores
    return case.unpack(pipe, latent), scores


def locate_images(pipe: DiffusionPipeline, case: Case, given: dict[str, Tensor]) -> Tensor:
    """What diffusers locates in pictures; they are `given` to ComfyUI."""
    h, w = (case.scale * n for n in case.size[-2:])
    # a size that has to be changed to fit the patches
    pictures = torch.rand(2, 3, h + 2, w - 5, generator=torch.Generator().manual_seed(1))
    given["pictures"] = rearrange(pictures, "b rgb h w -> b h w rgb")
    if case.encode is not None:
        resized = resize(pictures, (h, w))
        given["resized"] = rearrange(resized, "b rgb h w -> b h w rgb")
        given["encoded"] = case.encode(pipe, resized)
    how = LocateSpec(ASKED["prompt"], **{**ASKED["how"], "noise": tuple(ASKED["how"]["noise"])})
    return locate(pipe, pictures, RecordSpec(CONCEPTS), how).scores


def save_clip(pipe: FluxPipeline, file: Path) -> None:
    """Under the names of published CLIP weights: transformers 5 leaves the prefix away."""
    weights = pipe.text_encoder.state_dict().items()
    save_file({f"text_model.{name.removeprefix('text_model.')}": w for name, w in weights}, file)
