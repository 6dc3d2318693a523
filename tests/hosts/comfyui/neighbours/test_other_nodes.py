"""Other packs and ComfyUI's own helpers on a recorded model: the picture is theirs, unchanged."""

import importlib
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_model_merging as merging
import comfy_extras.nodes_tcfg as tcfg
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.families import family_of
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor, nn

from ....comfyui.tiny import HERE, Tiny, call


def with_easycache(tiny: Tiny, model: Any) -> Any:
    (cached,) = call(
        easycache.EasyCacheNode, model=model, reuse_threshold=3.0, start_percent=0.0,
        end_percent=1.0, verbose=False,
    )  # fmt: skip
    return cached


def with_lazycache(tiny: Tiny, model: Any) -> Any:
    (cached,) = call(
        easycache.LazyCacheNode, model=model, reuse_threshold=3.0, start_percent=0.0,
        end_percent=1.0, verbose=False,
    )  # fmt: skip
    return cached


def with_tcfg(tiny: Tiny, model: Any) -> Any:
    (damped,) = call(tcfg.TCFG, model=model)
    return damped


def with_nag(tiny: Tiny, model: Any) -> Any:
    try:
        nag = importlib.import_module("comfy_extras.nodes_nag")
    except ModuleNotFoundError:
        pytest.skip("this ComfyUI has no NAG")
    (guided,) = call(nag.NAGuidance, model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    return guided


def with_merge(tiny: Tiny, model: Any) -> Any:
    other = model.clone()
    weights = {
        f"diffusion_model.{name}": (value * 1.5,)
        for name, value in other.model.diffusion_model.state_dict().items()
    }
    other.add_patches(weights, 0.5)
    (merged,) = call(merging.ModelSubtract, model1=model, model2=other, multiplier=0.5)
    return merged


def with_rescaled_cfg(tiny: Tiny, model: Any) -> Any:
    """A guidance of its own, as many packs set one."""
    guided = model.clone()
    guided.set_model_sampler_cfg_function(
        lambda args: args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"] * 0.7
    )
    return guided


def with_call_wrapper(tiny: Tiny, model: Any) -> Any:
    """The one slot around a model's call, which TeaCache and WaveSpeed use."""
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"], args["timestep"], **args["c"]) * 0.9
    )
    return wrapped


NEIGHBOURS = {
    "EasyCache": with_easycache,
    "LazyCache": with_lazycache,
    "TCFG": with_tcfg,
    "NAG": with_nag,
    "model merging": with_merge,
    "another guidance": with_rescaled_cfg,
    "a wrapper of the model's call": with_call_wrapper,
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_picture_is_the_neighbours_and_maps_are_recorded(tiny, name):
    neighbour = NEIGHBOURS[name]
    if name == "EasyCache" and not tiny.wrapped:
        pytest.skip("ComfyUI's EasyCache does nothing for this family")

    # with a negative prompt EasyCache of 0.3.64 breaks on a batch, with and without us
    cfg = 1.0 if name == "EasyCache" else 3.0

    def run(model: Any) -> Tensor:
        return tiny.sample(model, cfg=cfg, steps=4)

    plain = run(neighbour(tiny, tiny.model()))
    if name == "NAG" and torch.equal(plain, run(tiny.model())):
        pytest.skip("ComfyUI's NAG does nothing for this family")
    assert not torch.equal(plain, run(tiny.model()))
    scores = []
    for model in (
        tiny.recorded(model=neighbour(tiny, tiny.model())),
        neighbour(tiny, tiny.recorded()),
    ):
        recorded = run(model)
        assert torch.equal(recorded, plain)
        scores.append(STORE.find(recorded).scores)
    assert torch.equal(*scores)


def hooked_as_modules(tiny: Tiny) -> bool:
    return family_of(tiny.model().model.diffusion_model).hooked


def test_a_forward_without_options_records_nothing_and_says_why(tiny):
    """TeaCache and its like copy a forward that calls blocks without `transformer_options`."""

    def bare(model: Any) -> Any:
        cut = model.clone()

        def forget(executor, *args, **kwargs):
            kept = ({} if isinstance(arg, dict) and "sigmas" in arg else arg for arg in args)
            kwargs = {name: v for name, v in kwargs.items() if name != "transformer_options"}
            return executor(*kept, **kwargs)

        cut.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "forgetful", forget
        )
        return cut

    if not tiny.wrapped:
        pytest.skip("ComfyUI calls no such wrappers for this family")
    latent = tiny.sample(bare(tiny.recorded()))
    assert torch.equal(latent, tiny.sample(bare(tiny.model())))
    if hooked_as_modules(tiny):
        heard = STORE.find(latent).scores
        assert torch.equal(heard, STORE.find(tiny.sample(tiny.recorded())).scores)
        return
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        STORE.find(latent)


def test_a_patch_without_options_records_nothing_and_says_why(tiny):
    """Copies of a forward by TeaCache and NAG hand these to no patch on a block."""

    def forgetful(model: Any) -> Any:
        cut = model.clone()

        def forget(executor, *args, **kwargs):
            for given in (*args, kwargs.get("transformer_options")):
                if isinstance(given, dict):
                    given.get("patches_replace", {}).get("dit", {}).update(
                        {key: without_options(patch) for key, patch in patched(given).items()}
                    )
            return executor(*args, **kwargs)

        cut.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "forgetful", forget
        )
        return cut

    def patched(options: dict) -> dict:
        return options.get("patches_replace", {}).get("dit", {})

    def without_options(patch):
        def around_block(args, extra):
            def original(args):
                return extra["original_block"]({**args, "transformer_options": {}})

            args = {name: value for name, value in args.items() if name != "transformer_options"}
            return patch(args, {"original_block": original})

        return around_block

    if not tiny.wrapped:
        pytest.skip("ComfyUI calls no such wrappers for this family")
    latent = tiny.sample(forgetful(tiny.recorded()))
    assert torch.equal(latent, tiny.sample(forgetful(tiny.model())))
    if hooked_as_modules(tiny):
        pytest.skip("this family's blocks have no place for patches")
    with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* its blocks"):
        STORE.find(latent)


class FirstBlockCache(nn.Module):
    """WaveSpeed's way: one module in place of all blocks.

    It runs the first block, and of the others what they changed when they last ran.
    """

    def __init__(self, blocks: Any, streams: tuple[str, str]):
        super().__init__()
        self.blocks, self.streams = blocks, streams
        self.change: list[Tensor] = []

    def forward(self, **given):
        first, *others = self.blocks
        before = [stream.clone() for stream in first(**given)]
        if not self.change:
            after = [stream.clone() for stream in before]
            for block in others:
                after = block(**{**given, **dict(zip(self.streams, after))})
            self.change = [new - old for new, old in zip(after, before)]
        return tuple(old + change for old, change in zip(before, self.change))


@pytest.mark.parametrize(
    ("family", "name", "streams"),
    [
        ("Flux.1", "double_blocks", ("img", "txt")),
        ("CogVideoX", "blocks", ("hidden_states", "encoder_hidden_states")),
    ],
)
def test_one_module_for_all_blocks_records_nothing_and_says_why(family, name, streams):
    if family not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = HERE[family]
    network = tiny.model().model.diffusion_model
    blocks = getattr(network, name)

    def cached(model: Any) -> Any:
        cache = nn.ModuleList([FirstBlockCache(blocks, streams)])

        def around_call(apply, args):
            setattr(network, name, cache)
            try:
                return apply(args["input"], args["timestep"], **args["c"])
            finally:
                setattr(network, name, blocks)

        clone = model.clone()
        clone.set_model_unet_function_wrapper(around_call)
        return clone

    plain = tiny.sample(cached(tiny.model()), steps=3)
    assert not torch.equal(plain, tiny.sample(tiny.model(), steps=3))
    for recorded in (cached(tiny.recorded()), cached(tiny.recorded(blocks="first 1"))):
        latent = tiny.sample(recorded, steps=3)
        assert torch.equal(latent, plain)
        with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* its blocks"):
            STORE.find(latent)


@pytest.mark.parametrize("name", ["NunchakuFluxTransformer2dModel", "NunchakuTransformerBlock"])
def test_nunchaku_is_refused_with_one_sentence(name):
    """Its Flux is one module inside a wrapper, its Qwen-Image is ComfyUI's with other blocks."""
    tiny = HERE["Flux.1"]
    foreign = type(name, (nn.Module,), {})
    network = nn.Sequential(foreign())
    if name.endswith("Block"):
        network = object.__new__(type(tiny.model().model.diffusion_model))
        nn.Module.__init__(network)
        network.params, network.double_blocks = None, nn.ModuleList([foreign()])
    model = tiny.model().clone()
    model.add_object_patch("diffusion_model", network)
    with pytest.raises(ConceptAttentionError, match="Nunchaku runs a model in blocks of its own"):
        tiny.recorded(model=model)
