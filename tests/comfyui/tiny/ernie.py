"""ERNIE-Image at toy size."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest import mock

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.patcher_extension import WrappersMP
from conceptattention.conceptattention_core.hosts.comfyui.override import OVERRIDE
from einops import rearrange
from torch import Tensor, nn

from .common import Patch, Tiny, around_forward, prompts, random_weights
from .words import TEXT_WIDTH, TemplateReader

NAMES = {"img": "x", "vec": "temb", "pe": "rotary_pos_emb"}
PLACES = (-1, -2, -1, -1)
"""Where the tokens of `common.CONCEPTS` stand in a text of nothing else, from its end."""


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.ErnieImage({
        "image_model": "ernie", "hidden_size": 48, "num_attention_heads": 3, "num_layers": 3,
        "ffn_hidden_size": 96, "text_in_dim": TEXT_WIDTH, "rope_axes_dim": (4, 6, 6),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


class BareReader(TemplateReader):
    """No template: a beginning and the text."""

    before = TemplateReader.before[:1]
    after = ()


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    return network.text_proj(rows[None])


def picture_of(args: dict) -> int:
    """How many tokens are at one time, which turns the first pair of a first half."""
    time = args["pe"][0, :, 0, 0, 0]
    return int((time == time[0]).all(1).sum())


def parted(sequence: Tensor, picture: int) -> dict[str, Tensor]:
    return {"img": sequence[:, :picture], "txt": sequence[:, picture:]}


@contextmanager
def attending(options: dict) -> Iterator[None]:
    """For the tests' own ears: let attention be another, for which ComfyUI has no place here."""
    module = __import__("comfy.ldm.ernie.model", fromlist=["optimized_attention"])
    usual = module.optimized_attention
    other = options.get(OVERRIDE)
    with mock.patch.object(
        module, "optimized_attention", partial(other, usual) if other else usual
    ):
        yield


def run(block: nn.Module, args: dict, options: dict) -> dict[str, Tensor]:
    # what another pack last put in place of its forward is still there
    with attending(options):
        whole = type(block).forward(
            block, torch.cat([args["img"], args["txt"]], dim=1), args["pe"], args["vec"]
        )
    return parted(whole, args["img"].shape[1])


def around(model: Any, index: int, patch: Patch) -> None:
    """Let a patch see picture and text apart, and the options that blocks are not given."""
    told: dict[str, dict] = {}

    def around_call(executor: Any, x: Tensor, t: Tensor, c: Any, text: Any, control: Any,
                    options: dict, **conds: Any) -> Tensor:  # fmt: skip
        told["options"] = options
        return executor(x, t, c, text, control, options, **conds)

    def parting(args: dict, original: Callable[[dict], dict]) -> dict:
        def joining(given: dict) -> dict[str, Tensor]:
            with attending(given["transformer_options"]):
                joined = original({**given, "img": torch.cat([given["img"], given["txt"]], dim=1)})
            return parted(joined["img"], given["img"].shape[1])

        apart = parted(args["img"], picture_of(args))
        out = patch({**args, **apart, "transformer_options": told["options"]}, joining)
        return {"img": torch.cat([out["img"], out["txt"]], dim=1)}

    around_forward("layers", NAMES, gives=("img",))(model, index, parting)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, f"tiny {index}", around_call)


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    length = args["pe"].shape[1]
    at = [*range(patches), *(length + place for place in PLACES)]
    return {
        "img": args["img"].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"],
        "pe": args["pe"][:, at],
    }


@dataclass(frozen=True)
class Normed:
    """Stands in for a norm that ComfyUI computes together with the turns of positions."""

    projection: nn.Module
    norm: nn.Module
    heads: int

    def register_forward_hook(self, hook: Any) -> Any:
        def after_projection(_module: nn.Module, _args: Any, out: Tensor) -> None:
            parted = rearrange(out, "b n (head d) -> b head n d", head=self.heads)
            hook(self, (), self.norm(parted))

        return self.projection.register_forward_hook(after_projection)


def placeless(block: Any) -> tuple[Normed, Normed]:
    own = block.self_attention
    return (
        Normed(own.to_q, own.norm_q, own.heads),
        Normed(own.to_k, own.norm_k, own.heads),
    )


TINY = Tiny(
    model=model,
    clip=BareReader,
    prompt=prompts(tokens=7),
    enter=enter,
    block=lambda network, index: network.layers[index],
    run=run,
    as_text=as_text,
    placeless=placeless,
    queries=lambda normed: normed,
    keys=lambda normed: normed,
    around=around,
    overridden=False,
    wrapped=False,
    text_last=True,
    numbered=True,
    channels=128,
    patch=1,
    scale=16,
    needs="ErnieImage",
)
