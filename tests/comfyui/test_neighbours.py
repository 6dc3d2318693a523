"""Other packs and ComfyUI's own helpers on a recorded model: the picture is theirs, unchanged.

Real nodes where ComfyUI has them; packs of others are rebuilt from how they document their hooks.
`docs/compatibility.md` names these tests.
"""

import importlib
from itertools import product
from typing import Any

import comfy.patcher_extension
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_model_merging as merging
import comfy_extras.nodes_tcfg as tcfg
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor

from .tiny import HERE, Tiny, call

KEPT = "transformer_options"  # newer versions do not look whether these have changed


@pytest.fixture(params=HERE)
def tiny(request) -> Tiny:
    return HERE[request.param]


@pytest.fixture(autouse=True)
def _empty_store():
    STORE.clear()


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


def test_a_forward_that_drops_the_options_makes_its_picture_and_the_sentence_says_so(tiny):
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
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        STORE.find(latent)


def test_two_prompts_for_two_masked_parts(tiny):
    left = torch.zeros(1, 5, 7)
    left[..., :3] = 1
    both = tiny.prompt(1, mask=left) + tiny.prompt(4, mask=1 - left)
    latent = tiny.sample(tiny.recorded(), positive=both, cfg=3.0)
    assert torch.equal(latent, tiny.sample(tiny.model(), positive=both, cfg=3.0))
    assert STORE.find(latent).scores.isfinite().all()


@pytest.mark.parametrize("family", ["Flux.1", "SD3"])
def test_a_compiled_model_is_recorded_and_its_graphs_stay_its_own(family):
    tiny = HERE[family]

    def compiled(model: Any) -> Any:
        clone = model.clone()  # as TorchCompileModel does, with the fastest backend to compile
        options = {"guard_filter_fn": lambda entries: [KEPT not in e.name for e in entries]}
        set_torch_compile_wrapper(clone, backend="eager", options=options)
        return clone

    expected = {seed: STORE.find(tiny.sample(tiny.recorded(), seed=seed)).scores for seed in (0, 1)}
    STORE.clear()
    recorded, plain = compiled(tiny.recorded()), compiled(tiny.model())
    for model, seed in product((recorded, plain, recorded), expected):
        latent = tiny.sample(model, seed=seed)
        assert torch.equal(latent, tiny.sample(tiny.model(), seed=seed))
        if model is recorded:
            assert torch.equal(STORE.find(latent).scores, expected[seed])
            STORE.clear()
