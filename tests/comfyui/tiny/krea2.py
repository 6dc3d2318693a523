"""Krea 2 at toy size, with keys and values for two heads each, of a text in two layers."""

from functools import cache

import comfy.model_patcher
import comfy.supported_models
import torch
from einops import repeat
from torch import Tensor, nn

from .common import Tiny, around_forward, in_one_sequence, parted, prompts, random_weights
from .words import TEXT_WIDTH, TemplateReader

NAMES = {"img": "x", "vec": "vec", "pe": "freqs"}
LAYERS = 2

OWN_TOKENS = (1, 2, 1)
"""How many tokens the concepts of `common.CONCEPTS` have."""


class CroppedTemplate(TemplateReader):
    dropped = 2


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.Krea2({
        "image_model": "krea2", "features": 64, "tdim": 24, "heads": 4, "kvheads": 2,
        "multiplier": 2, "layers": 3, "patch": 2, "channels": 16, "txtlayers": LAYERS,
        "txtdim": TEXT_WIDTH // LAYERS, "txtheads": 2, "txtkvheads": 1,
        "default_ref_method": "index_timestep_zero",
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    weights = random_weights(config).model.diffusion_model.state_dict()
    from_one = {name: weight - float(name.endswith("scale")) for name, weight in weights.items()}
    return random_weights(config, from_one)  # norms here are told by how they differ from 1


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    """The text before block 0, each concept fused by itself."""
    layered = rows.unflatten(-1, (LAYERS, -1))[None]
    fused = [network.txtfusion(own) for own in layered.split(OWN_TOKENS, dim=1)]
    return network.txtmlp(torch.cat(fused, dim=1))


def text_of(args: dict) -> int:
    return args["transformer_options"]["img_slice"][0]


def run(block: nn.Module, args: dict, options: dict) -> dict[str, Tensor]:
    # what another pack last put in place of its forward is still there
    whole = type(block).forward(
        block, torch.cat([args["txt"], args["img"]], dim=1), args["vec"], args["pe"],
        transformer_options=options,
    )  # fmt: skip
    return parted(whole, args["txt"].shape[1])


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    """At the origin, at the noise level that references do not have."""
    at = [*[0] * concepts.shape[1], *range(text, text + patches)]
    return {
        "img": args["img"][:, :patches].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"][: len(concepts)],
        "pe": args["pe"][:, :, at],
    }


TINY = Tiny(
    model=model,
    clip=CroppedTemplate,
    prompt=prompts(tokens=7),
    enter=enter,
    block=lambda network, index: network.blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.attn.qknorm.qnorm, block.attn.qknorm.knorm),
    queries=lambda normed: normed,
    keys=lambda normed: repeat(normed, "b head n d -> b (head two) n d", two=2),
    around=in_one_sequence(around_forward("blocks", NAMES, gives=("img",)), text_of),
    references=True,
    frames=1,
    needs="Krea2",
)
