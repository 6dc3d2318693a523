"""Packs with a forward of their own: heard where blocks are ComfyUI's, and named where not."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.foreign import pack_of
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import nn

from ....comfyui.tiny import HERE, Tiny

PACK = "/opt/ComfyUI/custom_nodes/ComfyUI-Fluxtapoz.flux.model"
NAMED = "ComfyUI-Fluxtapoz.flux.model"
FAMILIES = [name for name in ("Flux.1", "Chroma", "LongCat and Ovis", "Flux.2") if name in HERE]


def of_pack(kind: type, forward) -> type:
    """A class of a pack's own, in place of ComfyUI's."""
    return type(f"In{kind.__name__}", (kind,), {"forward": forward, "__module__": PACK})


@pytest.fixture(params=FAMILIES)
def tiny(request) -> Iterator[Tiny]:
    tiny = HERE[request.param]
    network = tiny.model().model.diffusion_model
    modules = [network, *network.double_blocks]
    kinds = [type(module) for module in modules]
    STORE.clear()
    yield tiny
    for module, kind in zip(modules, kinds, strict=True):
        module.__class__ = kind
        vars(module).pop("forward_orig", None)


def without_patches(given: Any) -> Any:
    """The options of a call, or its keywords with them, without what is patched into blocks."""
    if not isinstance(given, dict):
        return given
    kept = {name: value for name, value in given.items() if name != "patches_replace"}
    if "transformer_options" in kept:
        kept["transformer_options"] = without_patches(kept["transformer_options"])
    return kept


def unpatched(network: nn.Module) -> type:
    """The network with a forward that looks for no patches, as such packs have it."""
    kind = type(network)

    def forward(self, *args, **kwargs):
        return kind.forward(self, *map(without_patches, args), **without_patches(kwargs))

    return of_pack(kind, forward)


def test_blocks_that_are_still_the_hosts_are_heard_in_a_packs_own_forward(tiny):
    scores = STORE.find(tiny.sample(tiny.recorded(), cfg=3.0)).scores
    STORE.clear()
    network = tiny.model().model.diffusion_model
    network.__class__ = unpatched(network)
    plain = tiny.sample(tiny.model(), cfg=3.0)
    latent = tiny.sample(tiny.recorded(), cfg=3.0)
    assert torch.equal(latent, plain)
    assert torch.equal(STORE.find(latent).scores, scores)


def test_a_forward_put_on_the_model_is_recorded_as_well(tiny):
    scores = STORE.find(tiny.sample(tiny.recorded())).scores
    STORE.clear()
    network = tiny.model().model.diffusion_model
    if not hasattr(network, "forward_orig"):
        pytest.skip("this ComfyUI names it otherwise")
    original = network.forward_orig

    def forward_orig(*args, **kwargs):
        return original(*map(without_patches, args), **without_patches(kwargs))

    forward_orig.__module__ = PACK
    network.forward_orig = forward_orig
    latent = tiny.sample(tiny.recorded())
    assert torch.equal(latent, tiny.sample(tiny.model()))
    assert torch.equal(STORE.find(latent).scores, scores)


def test_blocks_of_a_pack_are_named_with_what_to_do(tiny):
    network = tiny.model().model.diffusion_model
    network.__class__ = unpatched(network)
    block = network.double_blocks[1]
    kind = type(block)

    def forward(self, *args, **kwargs):
        image, text = kind.forward(self, *args, **{**kwargs, "transformer_options": {}})
        return image * 1.25, text

    block.__class__ = of_pack(kind, forward)
    latent = tiny.sample(tiny.recorded())
    assert torch.equal(latent, tiny.sample(tiny.model()))
    with pytest.raises(ConceptAttentionError) as told:
        STORE.find(latent)
    assert "Nothing was captured while" in str(told.value)
    assert f"{NAMED} runs it" in str(told.value)
    assert "let the loader run anew" in str(told.value)


def test_a_model_that_is_all_a_packs_is_named_before_sampling():
    tiny = HERE["Flux.1"]
    model = tiny.model().clone()
    theirs = type("LoomVideo", (nn.Module,), {"__module__": PACK})
    model.add_object_patch("diffusion_model", theirs())
    with pytest.raises(
        ConceptAttentionError, match=f"Got LoomVideo of {NAMED}; supported: "
    ) as told:
        tiny.recorded(model=model)
    assert str(told.value).endswith("let the loader run anew.")


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("comfy.ldm.flux.model", None),
        ("torch.nn.modules.conv", None),
        (PACK, NAMED),
        ("C:\\ComfyUI\\custom_nodes\\RES4LYF.flux.model", "RES4LYF.flux.model"),
        ("/x/custom_nodes/comfy_x_pack.nodes", "comfy.pack.nodes"),
        ("nunchaku.models", "nunchaku.models"),
    ],
)
def test_packs_are_named_without_the_path(module, named):
    assert pack_of(type("One", (), {"__module__": module})) == named
