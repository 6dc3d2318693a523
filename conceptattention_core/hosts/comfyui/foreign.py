"""Whose code runs a model: ComfyUI's, or that of another pack that put its own in the place."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

HOSTS = ("comfy", "torch")
FOLDER = "custom_nodes"
ALTERED = (
    "Such a pack may leave the loaded model altered after its node is gone: take the node out and "
    "let the loader run anew."
)


def pack_of(thing: Any) -> str | None:
    """The module of another pack that a function or a class comes from; None for ComfyUI's own."""
    module = getattr(thing, "__module__", None) or ""
    if module.partition(".")[0] in HOSTS:
        return None
    # ComfyUI names what it loads as a pack by its path
    return module.replace("_x_", ".").rpartition(FOLDER)[2].strip("/\\.") or None


def forward_pack(network: nn.Module) -> str | None:
    """The pack whose forward runs this module, as its class or on it; None for ComfyUI's."""
    kind = type(network)
    for name, own in vars(network).items():
        replaced = callable(own) and inspect.isfunction(getattr(kind, name, None))
        if replaced and (pack := pack_of(own)):
            return pack
    return pack_of(kind)


def find_pack(network: nn.Module, blocks: Sequence[nn.Module]) -> str | None:
    """The pack that runs a model, a block of it or an attention in place of ComfyUI; None if
    nothing shows one.
    """
    if pack := forward_pack(network):
        return pack
    for block in blocks:
        if pack := forward_pack(block):
            return pack
        for part in block.modules():  # layers of other classes are for weights in other dress
            if pack := pack_of(vars(part).get("forward", nn.Module)):
                return pack
    return None
